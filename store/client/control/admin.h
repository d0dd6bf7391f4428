// What an operator asks of a node: how it does, quotas of namespaces, drain.
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

namespace kvlink::store {

struct NamespaceLimits {
  std::string name;
  int64_t capacity_bytes = 0;  // most bytes of segments; 0: no limit of its own
  int64_t pinned_bytes = 0;    // most pinned bytes; 0: the node's default
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

// What is still under way on a node that is being drained.
struct DrainState {
  int64_t pulls = 0;
  int64_t pushes = 0;
  int64_t connections = 0;
  int64_t leases = 0;
  bool drained = false;
};

class NodeAdmin {
 public:
  // `address`: host:port of the node's gRPC service. `name`: of this process, for the node's logs. Connects with the
  // first call.
  static std::unique_ptr<NodeAdmin> Create(const std::string& address, const std::string& key, const std::string& name);
  virtual ~NodeAdmin() = default;

  virtual absl::StatusOr<NodeStatus> Status(absl::Time deadline) = 0;
  // Durable, and in force at once.
  virtual absl::Status SetNamespace(const NamespaceLimits& limits, absl::Time deadline) = 0;
  // Returns when the node has drained. `progress` is told how far it is; returning false stops waiting (CANCELLED), not
  // the drain. `stop`: the node's process ends then.
  virtual absl::Status Drain(bool stop, const std::function<bool(const DrainState&)>& progress,
                             absl::Time deadline) = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_CLIENT_CONTROL_ADMIN_H_
