// The store that commands work with, from the options they share. The only place that chooses an implementation of
// store.h. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_PLACE_H_
#define KVLINK_STORE_CLI_PLACE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/cli/args.h"
#include "store/cli/cluster_flags.h"
#include "store/client/control/admin.h"
#include "store/store.h"
#include "transport/tls.h"

namespace kvlink::cli {

// Of one call to a node, to etcd or to the database.
inline constexpr absl::Duration kCallTimeout = absl::Seconds(10);

struct StoreFlags {
  StoreFlags();  // the defaults, from the environment
  // A directory, or host:port of a node. $KVLINK_STORE, or $XDG_DATA_HOME/kvlink, or ~/.local/share/kvlink.
  std::string store;
  ClusterFlags cluster;  // a cluster instead; also if $KVLINK_STORE names one
  std::string ns = "default";
  std::string codec = "raw-bf16";
  int64_t memory = int64_t{1} << 30;  // of the DRAM tier; for a node, of the memory in which encodings are received
  int64_t capacity = 0;               // of the segment files; 0: as the store remembers it, 64 GiB for a new one
  std::string secret_file;            // see TenantSecret
  std::string key_file;               // $KVLINK_KEY_FILE; see NodeKey
  std::string carrier = "auto";       // for encodings to and from a node
  std::string zone;                   // of this process, in a cluster; $KVLINK_ZONE
  bool drop_missing = false;          // forget the encodings in missing segment files
  int64_t wait = 0;                   // seconds to wait for a directory that another process holds
  transport::TlsOptions tls;          // for connections to a node

  // The two values from the environment; options take precedence.
  std::string default_store, default_cluster;
};

// --store, --key-file, --wait, and the options of TLS and of a cluster: for all commands that use a store.
void AddPlaceFlags(Arguments& arguments, StoreFlags& flags);
// --store, --key-file and the options of TLS: for commands that ask a node.
void AddNodeFlags(Arguments& arguments, StoreFlags& flags);
// The options of AddPlaceFlags, --namespace, --codec, --memory, --capacity, --secret-file, --carrier and --zone.
void AddStoreFlags(Arguments& arguments, StoreFlags& flags);

enum class PlaceKind { kDirectory, kNode, kCluster };
// What the options name, or else the environment. INVALID_ARGUMENT: both --store and --cluster; errors of IsNode.
absl::StatusOr<PlaceKind> PlaceOf(const StoreFlags& flags);
// The directory, the address, or "cluster HOST:PORT,.../NAME", for messages.
std::string PlaceName(const StoreFlags& flags);

// Whether --store names a node, "host:port", rather than a directory ("./a:1" is a directory). INVALID_ARGUMENT, saying
// how to write either: it looks like an address but is not one (a scheme, a port out of range, a host without a port).
// A mistyped address is never taken for a directory.
absl::StatusOr<bool> IsNode(absl::string_view store);

// INVALID_ARGUMENT: --memory is below 1 MiB, or more than this host has.
absl::Status CheckMemory(int64_t bytes);

enum class StoreUse {
  kCreate,    // creates a missing directory and store
  kExisting,  // creates nothing
  kReadOnly,  // changes nothing
  kReading,   // like kExisting, or like kReadOnly if this process may not write there
};

struct OpenedStore {
  std::unique_ptr<store::Store> store;
  bool created = false;
  bool read_only = false;
};
// Errors of store::OpenEmbedded, store::client::OpenRemote or OpenClusterStore, naming the place, and of PlaceOf.
// UNAVAILABLE: another process held the directory for longer than --wait.
absl::StatusOr<OpenedStore> OpenStore(const StoreFlags& flags, StoreUse use);

// The administration of the node that --store names; connects on the first call. INVALID_ARGUMENT: it names no node.
absl::StatusOr<std::unique_ptr<store::client::NodeAdmin>> OpenAdmin(const StoreFlags& flags);

// This client's key for a node: the bytes of --key-file, under the rules of TenantSecret. Empty without the option.
absl::StatusOr<std::string> NodeKey(const StoreFlags& flags);
// Adds to UNAUTHENTICATED what to do about it; returns other statuses unchanged.
absl::Status HintAtKey(const absl::Status& status);
// Names this process in the node's logs: "kvlink/host/pid".
std::string ClientName();
// Bytes of memory from which a node's or a cluster's store sends slabs: a quarter of --memory, since an encoding's
// largest slab must fit into it.
int64_t SendingBytes(const StoreFlags& flags);

// The secret that names encodings (docs/formats.md "Identity"): the bytes of --secret-file without a final newline;
// empty without the option. INVALID_ARGUMENT, naming the file and never its bytes: it is not a regular file, others may
// read or write it, or it does not have 16 to 4096 bytes. NOT_FOUND, PERMISSION_DENIED: it cannot be opened.
absl::StatusOr<std::string> TenantSecret(const Arguments& arguments, const StoreFlags& flags);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_PLACE_H_
