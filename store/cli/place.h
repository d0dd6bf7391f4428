// The store that commands work with, from the options they share. The only place that chooses which Store is behind
// store.h. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_PLACE_H_
#define KVLINK_STORE_CLI_PLACE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/cli/args.h"
#include "store/cli/cluster_flags.h"
#include "store/client/control/admin.h"
#include "store/store.h"
#include "transport/tls.h"

namespace kvlink::cli {

struct StoreFlags {
  StoreFlags();  // the defaults, from the environment
  // A directory, or host:port of a node. $KVLINK_STORE, or $XDG_DATA_HOME/kvlink, or ~/.local/share/kvlink.
  std::string store;
  ClusterFlags cluster;  // in place of them; where $KVLINK_STORE names one
  std::string ns = "default";
  std::string codec = "raw-bf16";
  int64_t memory = int64_t{1} << 30;  // DRAM tier; of a node's store, memory that encodings are received in
  int64_t capacity = 0;               // of the segment files; 0: as the store remembers, 64 GiB of a new one
  std::string secret_file;            // see TenantSecret
  std::string key_file;               // $KVLINK_KEY_FILE; see NodeKey
  std::string carrier = "auto";       // of encodings to and from a node
  std::string zone;                   // of this process, in a cluster; $KVLINK_ZONE
  bool drop_missing = false;          // of segment files: forget the encodings in them
  int64_t wait = 0;                   // seconds to wait for a directory that another process holds
  transport::TlsOptions tls;          // towards a node

  // What the environment says of the two: an option that is given goes before it.
  std::string default_store, default_cluster;
};

// --store, --key-file, --wait, those of TLS and those of a cluster: what every command takes that uses a store.
void AddPlaceFlags(Arguments& arguments, StoreFlags& flags);
// --store, --key-file and those of TLS, of commands that ask a node.
void AddNodeFlags(Arguments& arguments, StoreFlags& flags);
// Those of AddPlaceFlags, --namespace, --codec, --memory, --capacity, --secret-file, --carrier and --zone.
void AddStoreFlags(Arguments& arguments, StoreFlags& flags);

enum class PlaceKind { kDirectory, kNode, kCluster };
// Which of them the options name, else the environment. INVALID_ARGUMENT: both --store and --cluster; errors of IsNode.
absl::StatusOr<PlaceKind> PlaceOf(const StoreFlags& flags);
// Its directory, its address, or "cluster HOST:PORT,.../NAME": for messages.
std::string PlaceName(const StoreFlags& flags);

// Whether --store names a node, "host:port", and not a directory ("./a:1" is one). INVALID_ARGUMENT, saying how to
// write either: what looks like an address and is none (a scheme, a port that is out of range, a host without one). A
// mistyped address is never taken for a directory.
absl::StatusOr<bool> IsNode(absl::string_view store);

// INVALID_ARGUMENT for --memory that holds nothing, or more than this host has.
absl::Status CheckMemory(int64_t bytes);

enum class StoreUse {
  kCreate,    // a directory and a store that are not there are made
  kExisting,  // never
  kReadOnly,  // nothing is changed
  kReading,   // as kExisting, and as kReadOnly where this process may not write there
};

struct OpenedStore {
  std::unique_ptr<store::Store> store;
  bool created = false;
  bool read_only = false;
};
// Errors of store::OpenEmbedded, store::client::OpenRemote or OpenClusterStore, naming the place, and of PlaceOf.
// UNAVAILABLE: another process held the directory for longer than --wait.
absl::StatusOr<OpenedStore> OpenStore(const StoreFlags& flags, StoreUse use);

// The administration of the node that --store names; connects with the first call. INVALID_ARGUMENT: it names none.
absl::StatusOr<std::unique_ptr<store::client::NodeAdmin>> OpenAdmin(const StoreFlags& flags);

// This client's key for a node: the bytes of --key-file, under the rules of TenantSecret. Empty without the option.
absl::StatusOr<std::string> NodeKey(const StoreFlags& flags);
// Adds to UNAUTHENTICATED what to do about it; other statuses stay.
absl::Status HintAtKey(const absl::Status& status);
// This process, for the node's logs: "kvlink/host/pid".
std::string ClientName();
// Memory that slabs are sent from, of a node's or a cluster's store: a quarter of --memory, for an encoding's largest
// slab must fit into it.
int64_t SendingBytes(const StoreFlags& flags);

// The secret under which encodings get their names (docs/formats.md "Identity"): the bytes of --secret-file without one
// newline at their end, or empty where the option was not given. INVALID_ARGUMENT, naming the file and never its bytes:
// no regular file, others may read or write it, or it has not 16 to 4096 bytes; NOT_FOUND and PERMISSION_DENIED.
absl::StatusOr<std::string> TenantSecret(const Arguments& arguments, const StoreFlags& flags);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_PLACE_H_
