// The data path's context: parts of the node that it was given, and its own. Its connections, transfers and lanes know
// nothing else of a node.
//
// Thread-safety: each member as its own header says. Lifetime: the core outlives it, and it every connection.
#ifndef KVLINK_STORE_NODE_DATA_CONTEXT_H_
#define KVLINK_STORE_NODE_DATA_CONTEXT_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/worker.h"
#include "store/node/core.h"
#include "store/node/data/client_connection.h"
#include "store/node/data/memory_map.h"
#include "store/node/data/pull_credit.h"
#include "store/node/data/push_credit.h"
#include "transport/transport.h"

namespace kvlink::store::node {

struct DataContext {
  explicit DataContext(Core* core);

  Core* const core;
  const NodeLimits& limits;
  Log& log;
  Traffic& traffic;

  MemoryMap memory;
  ClientConnections connections;
  PullCredit pull_credit;
  PushCredit push_credit;
  // Shared among keys, as connections and requests are.
  Quota request_bytes, pull_quota, push_quota, lease_quota;
  std::atomic<int64_t> manifest_bytes{0};                   // of pushes, not yet committed
  const std::shared_ptr<transport::MessageBudget> answers;  // of all carriers
  // Lanes: requests that a reader waits for; those that fill the store, at lower priority; checks of stored bytes.
  std::unique_ptr<Worker> serving, indexing, checking;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_CONTEXT_H_
