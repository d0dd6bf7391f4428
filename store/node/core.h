// State shared by all parts of a node: the engine, access rights, sessions, and counts of work in progress. Knows no
// carrier and no protocol. Created and destroyed by Node (node.h says in which order).
//
// Thread-safety: each member as documented in its own header.
#ifndef KVLINK_STORE_NODE_CORE_H_
#define KVLINK_STORE_NODE_CORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/engine/engine.h"
#include "store/node/access.h"
#include "store/node/limits.h"
#include "store/node/namespaces.h"
#include "store/node/ownership.h"
#include "store/node/quota.h"
#include "store/node/read_rates.h"
#include "store/node/sessions.h"
#include "store/node/strangers.h"
#include "store/node/watch/log.h"
#include "store/node/watch/metrics.h"

namespace kvlink::store::node {

// Counts of work in progress on the data path, which maintains them.
struct Traffic {
  explicit Traffic(const NodeLimits& limits)
      : connections("connections", limits.connections, limits.connections / limits.administrators_part),
        requests("requests", limits.requests, limits.requests / limits.administrators_part) {}

  Quota connections, requests;
  std::atomic<int64_t> pulls{0}, pushes{0};
  std::atomic<int64_t> leases{0};  // on local connections
  // No pull, push or lease is in progress.
  bool idle() const { return pulls.load() == 0 && pushes.load() == 0 && leases.load() == 0; }
};

// The states of a node that is shutting down. Thread-safety: all methods.
class Draining {
 public:
  Draining(Log* log, const Traffic* traffic) : log_(log), traffic_(traffic) {}

  // Refuses new sessions (except administrators') and pushes. Permanent.
  void Begin();
  // Likewise, without logging: the node is being destroyed.
  void Close() { begun_.store(true); }
  bool begun() const { return begun_.load(); }
  // Returns whether nothing is in progress; if so, also refuses all data requests, so that nothing can be. Once true,
  // always true.
  bool Finish();
  // Whether data requests are refused.
  bool refuses() const { return refuses_.load(); }

  // Called at the end of a drain that was asked to stop the process.
  void AskStop();
  // Returns false if the deadline passes before AskStop.
  bool WaitForStop(absl::Time deadline);

 private:
  Log* const log_;
  const Traffic* const traffic_;
  std::atomic<bool> begun_{false}, refuses_{false};
  Mutex mutex_;
  CondVar changed_;
  bool stop_asked_ ABSL_GUARDED_BY(mutex_) = false;
};

// The node's addresses and version, as told to clients.
struct Whereabouts {
  // Everything else is set, and services beside the node are ready; no session is opened before that.
  std::atomic<bool> ready{false};
  std::vector<std::string> data_addresses;
  std::string local_socket, version;
};

struct Core {
  // REQUIRES: `engine`, `node_id`, `incarnation` and `metrics` are set before the first client connects.
  Core(const NodeLimits& limits, AccessList access, LogSink sink, std::shared_ptr<const Ownership> ownership);

  const NodeLimits limits;
  Access access;
  const std::shared_ptr<const Ownership> ownership;
  const absl::Time started;
  Log log;
  std::unique_ptr<engine::Engine> engine;
  NodeId node_id = {};  // from the engine
  uint64_t incarnation = 0;
  std::unique_ptr<Metrics> metrics;
  Sessions sessions;
  Strangers strangers;  // of the control service
  Namespaces namespaces;
  Traffic traffic;
  ReadRates read_rates;  // of pulls
  Draining draining;
  Whereabouts whereabouts;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CORE_H_
