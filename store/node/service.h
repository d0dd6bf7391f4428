// What the parts of a node share. Made and ended by Node (node.h says in which order).
#ifndef KVLINK_STORE_NODE_SERVICE_H_
#define KVLINK_STORE_NODE_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/worker.h"
#include "store/engine/engine.h"
#include "store/node/access.h"
#include "store/node/data/client_connection.h"
#include "store/node/data/memory_map.h"
#include "store/node/data/push_credit.h"
#include "store/node/limits.h"
#include "store/node/namespaces.h"
#include "store/node/quota.h"
#include "store/node/sessions.h"
#include "store/node/watch/log.h"
#include "store/node/watch/metrics.h"
#include "transport/transport.h"

namespace kvlink::store::node {

struct Service {
  // REQUIRES: `engine`, `metrics` and what clients are told are set before the first client.
  Service(const NodeLimits& limits, AccessList access, LogSink sink);

  const NodeLimits limits;
  Access access;
  const std::string boot_id;           // 16 bytes
  const uint64_t placement_epoch = 0;  // 0: the node stands alone
  const absl::Time started;
  Log log;
  MemoryMap memory;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<Metrics> metrics;
  Sessions sessions;
  ClientConnections connections;
  PushCredit push_credit;
  // What keys have their share of.
  Quota connection_quota, request_quota, request_bytes_quota, pull_quota, push_quota, lease_quota;
  Namespaces namespaces;
  const std::shared_ptr<transport::MessageBudget> answers;  // of all carriers
  // What a reader waits for; what fills the store, whose threads give way; and what looks at the store again.
  std::unique_ptr<Worker> serving, indexing, checking;

  // What clients are told of where the node is to be found. Complete once `ready` is set; no session is opened before.
  std::atomic<bool> ready{false};
  std::vector<std::string> data_addresses;
  std::string local_socket, version;
  // By the scheme of their addresses; of the node's ports, which outlive whoever asks.
  std::vector<std::pair<std::string, const transport::Transport*>> transports;

  // Takes no more sessions (but of administrators), and pushes no more. For good.
  void Drain();
  // A drain that was asked to stop the process has ended.
  void AskStop();
  // False: nobody has asked until the deadline.
  bool WaitForStop(absl::Time deadline);

  // Of Drain: nothing is under way, and nothing can be, because no data request is taken any more. For good, once true.
  bool FinishDrain();

  std::atomic<bool> draining{false};
  std::atomic<bool> drained{false};  // requests of the data path are refused
  std::atomic<int64_t> pulls{0}, pushes{0};
  std::atomic<int64_t> leases{0};          // of local connections
  std::atomic<int64_t> manifest_bytes{0};  // of pushes, not yet committed

 private:
  Mutex stop_mutex_;
  CondVar stop_changed_;
  bool stop_asked_ ABSL_GUARDED_BY(stop_mutex_) = false;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_SERVICE_H_
