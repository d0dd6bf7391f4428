// What the parts of a node share. Made and ended by Node (node.h says in which order).
#ifndef KVLINK_STORE_NODE_SERVICE_H_
#define KVLINK_STORE_NODE_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/worker.h"
#include "store/engine/engine.h"
#include "store/node/access.h"
#include "store/node/data/link.h"
#include "store/node/data/memory_map.h"
#include "store/node/data/push_credit.h"
#include "store/node/data/suspects.h"
#include "store/node/limits.h"
#include "store/node/quota.h"
#include "store/node/sessions.h"
#include "store/node/watch/log.h"
#include "store/node/watch/metrics.h"
#include "transport/transport.h"

namespace kvlink::store {

struct Service {
  // REQUIRES: `engine`, `metrics` and what clients are told are set before the first client.
  Service(const NodeLimits& limits, AccessList access, LogSink sink);

  const NodeLimits limits;
  const AccessList access;
  const std::string boot_id;           // 16 bytes
  const uint64_t placement_epoch = 0;  // 0: the node stands alone
  const absl::Time started;
  Log log;
  MemoryMap memory;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<Metrics> metrics;
  Sessions sessions;
  Links links;
  PushCredit push_credit;
  Suspects suspects;
  // What keys have their share of.
  Quota connections, requests, request_bytes, pull_quota, push_quota, lease_quota;
  const std::shared_ptr<transport::MessageBudget> answers;  // of all carriers
  // What a reader waits for; what fills the store, whose threads give way; and what looks at the store again.
  std::unique_ptr<Worker> serving, indexing, checking;

  // What clients are told of where the node is to be found. Complete once `ready` is set; no session is opened before.
  std::atomic<bool> ready{false};
  std::vector<std::string> data_addresses;
  std::string local_socket, version;
  std::function<std::vector<std::pair<std::string, transport::TransportStats>>()> transport_stats;
  std::function<void()> drain;
  std::function<void()> stop;  // a drain that was asked to stop the process has ended

  std::atomic<bool> draining{false};
  std::atomic<int64_t> pulls{0}, pushes{0};
  std::atomic<int64_t> leases{0};          // of local connections
  std::atomic<int64_t> manifest_bytes{0};  // of pushes, not yet committed
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_SERVICE_H_
