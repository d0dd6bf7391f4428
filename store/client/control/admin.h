// An operator's interface to a node: statistics, deletion, limits of namespaces, drain.
//
// Thread-safety: all methods. Errors common to all: UNAVAILABLE (nobody answers), DEADLINE_EXCEEDED, UNAUTHENTICATED
// (the node does not know the key), PERMISSION_DENIED (the key is not an administrator's).
#ifndef KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_
#define KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/client/control/options.h"
#include "store/namespace_limits.h"

namespace kvlink::store::client {

struct NamespaceOutcome {
  NamespaceLimits limits;
  int64_t bytes_over = 0;  // of encodings, above what of the capacity is this node's: being evicted
};

struct Deleted {
  int64_t documents = 0, encodings = 0;
};

struct NodeStatus {
  struct Namespace {
    NamespaceLimits limits;  // of a member of a cluster: the cluster's
    // This node's share of them, which it enforces; where it stands alone, all.
    int64_t node_capacity_bytes = 0, node_pinned_bytes = 0;
    int64_t encodings = 0;
    int64_t bytes = 0;  // in segments
    int64_t pinned_bytes = 0;
    int64_t documents = 0;
    int64_t dram_bytes = 0;
  };
  std::vector<Namespace> namespaces;
  std::map<std::string, int64_t> values;     // "segment_bytes", "hits_dram", ...
  std::map<std::string, std::string> texts;  // "version", "state", "io", addresses
};

// Work still under way on a draining node.
struct DrainState {
  int64_t pulls = 0;
  int64_t pushes = 0;
  int64_t connections = 0;
  int64_t leases = 0;
  bool drained = false;
};

class NodeAdmin {
 public:
  // Connects with the first call. A mistake in the options is what each call then returns.
  static std::unique_ptr<NodeAdmin> Create(const ControlOptions& options);
  virtual ~NodeAdmin() = default;

  virtual absl::StatusOr<NodeStatus> Status(absl::Time deadline) = 0;
  // Sets what is given and leaves the rest; returns what holds then. Durable, and in force at once.
  // FAILED_PRECONDITION, changing nothing: the revision is not above the one that holds, and the message names both; or
  // the node is a member of a cluster, whose limits are in its database.
  virtual absl::StatusOr<NamespaceOutcome> SetNamespace(const NamespaceChange& change, absl::Time deadline) = 0;
  // The limits of a namespace, without changing them.
  absl::StatusOr<NamespaceOutcome> GetNamespace(const std::string& name, absl::Time deadline) {
    return SetNamespace({name}, deadline);
  }
  // All of a namespace: documents, what is remembered of deleted ones, encodings, pins, limits. Needs the right 'admin'
  // over it.
  virtual absl::StatusOr<Deleted> DeleteNamespace(const std::string& name, absl::Time deadline) = 0;
  // Documents by id. `forget`: their generations, too, so that any may follow (needs 'admin'). One status for each id;
  // NOT_FOUND where there is none.
  virtual absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::string& ns,
                                                                    const std::vector<std::string>& ids, bool forget,
                                                                    absl::Time deadline) = 0;
  // Documents whose id begins with `prefix`. What was deleted before an error stays deleted.
  virtual absl::StatusOr<Deleted> DeletePrefix(const std::string& ns, const std::string& prefix,
                                               absl::Time deadline) = 0;
  // Takes back all pins of a namespace, whichever session holds them; returns how many (needs 'admin').
  virtual absl::StatusOr<int64_t> DropPins(const std::string& ns, absl::Time deadline) = 0;
  // Returns when the node has drained. `progress` is told how far it is; returning false stops waiting (CANCELLED), not
  // the drain. `stop`: the node's process ends then.
  virtual absl::Status Drain(bool stop, const std::function<bool(const DrainState&)>& progress,
                             absl::Time deadline) = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_
