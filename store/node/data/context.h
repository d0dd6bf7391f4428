// The context of the data path: the parts of the node it uses, and its own. Its connections, transfers and lanes know
// nothing else about a node.
//
// Thread-safety: each member as documented in its own header. Lifetime: the core outlives it, and it outlives every
// connection.
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
  // Shared among keys, like connections and requests.
  Quota request_bytes, pull_quota, push_quota, lease_quota;
  std::atomic<int64_t> manifest_bytes{0};                   // of pushes not yet committed
  const std::shared_ptr<transport::MessageBudget> answers;  // over all carriers
  // Lanes for: requests that a reader waits for; requests that fill the store, at lower priority; checks of stored
  // bytes.
  std::unique_ptr<Worker> serving, indexing, checking;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_CONTEXT_H_
