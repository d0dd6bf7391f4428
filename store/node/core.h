// Shared by every part of a node: the engine, access rights, sessions, and counts of what is under way. It knows no
// carrier and no protocol. Made and ended by Node (node.h says in which order).
//
// Thread-safety: each member as its own header says.
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

// Counts of what is under way on the data path, which keeps them.
struct Traffic {
  explicit Traffic(const NodeLimits& limits)
      : connections("connections", limits.connections, limits.connections / limits.administrators_part),
        requests("requests", limits.requests, limits.requests / limits.administrators_part) {}

  Quota connections, requests;
  std::atomic<int64_t> pulls{0}, pushes{0};
  std::atomic<int64_t> leases{0};  // of local connections
  // No pull, push or lease is under way.
  bool idle() const { return pulls.load() == 0 && pushes.load() == 0 && leases.load() == 0; }
};

// The way to a node's end. Thread-safety: all methods.
class Draining {
 public:
  Draining(Log* log, const Traffic* traffic) : log_(log), traffic_(traffic) {}

  // Takes no more sessions (but of administrators), and pushes no more. For good.
  void Begin();
  // The same, and nobody is told: the node ends.
  void Close() { begun_.store(true); }
  bool begun() const { return begun_.load(); }
  // Nothing is under way, and nothing can be, because no data request is taken any more. For good, once true.
  bool Finish();
  // Requests of the data path are refused.
  bool refuses() const { return refuses_.load(); }

  // A drain that was asked to stop the process has ended.
  void AskStop();
  // False: nobody has asked until the deadline.
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
  // The rest is complete, and what works beside the node is prepared; no session is opened before.
  std::atomic<bool> ready{false};
  std::vector<std::string> data_addresses;
  std::string local_socket, version;
};

struct Core {
  // REQUIRES: `engine`, `node_id`, `incarnation` and `metrics` are set before the first client.
  Core(const NodeLimits& limits, AccessList access, LogSink sink, std::shared_ptr<const Ownership> ownership);

  const NodeLimits limits;
  Access access;
  const std::shared_ptr<const Ownership> ownership;
  const absl::Time started;
  Log log;
  std::unique_ptr<engine::Engine> engine;
  std::string node_id;  // 16 bytes, of the engine
  uint64_t incarnation = 0;
  std::unique_ptr<Metrics> metrics;
  Sessions sessions;
  Strangers strangers;  // at the control service
  Namespaces namespaces;
  Traffic traffic;
  ReadRates read_rates;  // of what is pulled
  Draining draining;
  Whereabouts whereabouts;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CORE_H_
