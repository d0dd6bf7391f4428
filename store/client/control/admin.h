// An operator's interface to a node: statistics, deletion, namespace limits, drain.
//
// Thread-safety: all methods. Errors common to all: UNAVAILABLE (no answer), DEADLINE_EXCEEDED, UNAUTHENTICATED (the
// node does not know the key), PERMISSION_DENIED (not an administrator's key).
#ifndef KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_
#define KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/client/control/options.h"

namespace kvlink::store::client {

struct NamespaceLimits {
  std::string name;
  int64_t capacity_bytes = 0;  // max bytes in segments; 0: no limit of its own
  int64_t pinned_bytes = 0;    // max pinned bytes; 0: the node's default
  uint64_t revision = 0;       // of these limits; 0: never set
};

// Changes only the members that are set. The revision becomes the given one, which must be above the current one, or
// the next.
struct NamespaceChange {
  std::string name;
  std::optional<int64_t> capacity_bytes, pinned_bytes;
  std::optional<uint64_t> revision;
};

struct NamespaceOutcome {
  NamespaceLimits limits;
  int64_t bytes_over = 0;  // encoding bytes above the capacity, being evicted
};

struct Deleted {
  int64_t documents = 0, encodings = 0;
};

struct NodeStatus {
  struct Namespace {
    NamespaceLimits limits;
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

// Work still in progress on a draining node.
struct DrainState {
  int64_t pulls = 0;
  int64_t pushes = 0;
  int64_t connections = 0;
  int64_t leases = 0;
  bool drained = false;
};

class NodeAdmin {
 public:
  // Does not connect until the first call. Invalid options are reported by every call.
  static std::unique_ptr<NodeAdmin> Create(const ControlOptions& options);
  virtual ~NodeAdmin() = default;

  virtual absl::StatusOr<NodeStatus> Status(absl::Time deadline) = 0;
  // Sets the given limits, leaves the others, and returns those now in force. Durable, and effective at once.
  // FAILED_PRECONDITION, with nothing changed: the revision is not above the current one; the message names both.
  virtual absl::StatusOr<NamespaceOutcome> SetNamespace(const NamespaceChange& change, absl::Time deadline) = 0;
  // Returns the limits of a namespace without changing them.
  absl::StatusOr<NamespaceOutcome> GetNamespace(const std::string& name, absl::Time deadline) {
    return SetNamespace({name}, deadline);
  }
  // Deletes everything in a namespace: documents, records of deleted ones, encodings, pins, limits. Requires the
  // `admin` right on it.
  virtual absl::StatusOr<Deleted> DeleteNamespace(const std::string& name, absl::Time deadline) = 0;
  // Deletes documents by id. `forget`: erases their generations too, so that any generation may follow (requires
  // `admin`). Returns one status per id; NOT_FOUND if there is no such document.
  virtual absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::string& ns,
                                                                    const std::vector<std::string>& ids, bool forget,
                                                                    absl::Time deadline) = 0;
  // Deletes the documents whose id begins with `prefix`. Those deleted before an error stay deleted.
  virtual absl::StatusOr<Deleted> DeletePrefix(const std::string& ns, const std::string& prefix,
                                               absl::Time deadline) = 0;
  // Releases all pins of a namespace, of all sessions; returns how many (requires `admin`).
  virtual absl::StatusOr<int64_t> DropPins(const std::string& ns, absl::Time deadline) = 0;
  // Drains the node and returns when it has drained. Calls `progress` with the state so far; if it returns false, stops
  // waiting (CANCELLED), but not the drain. `stop`: the node's process then exits.
  virtual absl::Status Drain(bool stop, const std::function<bool(const DrainState&)>& progress,
                             absl::Time deadline) = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_
