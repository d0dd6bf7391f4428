// Opens what commands work with, from the options they share. The only place that chooses which Store is behind
// store.h. Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_CLI_OPEN_H_
#define KVLINK_WORKER_CLI_OPEN_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/kernels.h"
#include "proto/catalog.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/cli/args.h"
#include "worker/link/profile.h"
#include "worker/model/model.h"
#include "worker/model/tokenizer.h"
#include "worker/model/weights.h"

namespace kvlink::cli {

struct StoreFlags {
  StoreFlags();  // the defaults, from the environment
  // A directory, or host:port of a node. $KVLINK_STORE, or $XDG_DATA_HOME/kvlink, or ~/.local/share/kvlink.
  std::string store;
  std::string ns = "default";
  std::string codec = "raw-bf16";
  int64_t memory = int64_t{1} << 30;     // DRAM tier; of a node's store, memory that encodings land in
  int64_t capacity = int64_t{64} << 30;  // of the segment files
  std::string secret_file;               // see TenantSecret
  std::string key_file;                  // $KVLINK_KEY_FILE; see NodeKey
  std::string carrier = "auto";          // of encodings to and from a node
};

struct ModelFlags {
  ModelFlags();
  std::string model;  // $KVLINK_MODEL, or models/SmolLM2-135M-Instruct.Q4_1.gguf
  std::string profile = "untuned";
  std::string device = "cpu";
  std::string compute = "auto";
  int64_t threads = 0;  // 0: every core this process may use
};

// --store and --key-file: what every command takes that uses a store.
void AddPlaceFlags(Arguments& arguments, StoreFlags& flags);
// These, --namespace, --codec, --memory, --capacity, --secret-file and --carrier.
void AddStoreFlags(Arguments& arguments, StoreFlags& flags);
// --model, --profile, --device, --compute, --threads.
void AddModelFlags(Arguments& arguments, ModelFlags& flags);

// Whether --store names a node, "host:port", and not a directory ("./a:1" is one).
bool IsNode(absl::string_view store);

enum class StoreUse { kCreate, kExisting, kReadOnly };
// Errors of store::OpenEmbedded or store::OpenRemote, naming the directory or the address.
absl::StatusOr<std::unique_ptr<store::Store>> OpenStore(const StoreFlags& flags, StoreUse use);

// What a node knows this client by: the bytes of --key-file, with the rules of TenantSecret. Empty without the option.
absl::StatusOr<std::string> NodeKey(const StoreFlags& flags);
// Says of UNAUTHENTICATED what to do; other statuses stay.
absl::Status HintAtKey(const absl::Status& status);
// This process, for the node's logs: "kvlink/host/pid".
std::string ClientName();

// The secret under which encodings get their names (docs/formats.md "Identity"): the bytes of --secret-file without one
// newline at their end, or empty where the option was not given. INVALID_ARGUMENT, naming the file and never its bytes:
// no regular file, others may read or write it, or it has not 16 to 4096 bytes; NOT_FOUND and PERMISSION_DENIED.
absl::StatusOr<std::string> TenantSecret(const Arguments& arguments, const StoreFlags& flags);

// The weights of --model; NOT_FOUND says how to name another one.
absl::StatusOr<std::unique_ptr<model::Weights>> OpenModelWeights(const std::string& path);

// A model ready to run. Members are destroyed in reverse order: what comes later may refer to what comes earlier.
struct OpenedModel {
  std::string path;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Weights> weights;  // the tokenizer's and template's source; packed weights do not need it
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;
  link::LinkProfile profile;
};
absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags);

// FAILED_PRECONDITION, naming the document and what to do, if `entry` was written by another model than `fingerprint`
// or under another secret: who cannot compute a document's names is not given its encodings.
absl::Status CheckEntry(absl::string_view id, const CatalogEntry& entry, const Fingerprint& fingerprint,
                        absl::string_view tenant_secret);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_OPEN_H_
