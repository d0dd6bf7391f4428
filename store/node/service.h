// All parts of a node: what they share, the data path, and the figures that the control service and the metrics show of
// both. Only Node and its statistics know them all.
#ifndef KVLINK_STORE_NODE_SERVICE_H_
#define KVLINK_STORE_NODE_SERVICE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/node/core.h"
#include "store/node/data/context.h"
#include "store/node/watch/statistics.h"
#include "transport/transport.h"

namespace kvlink::store::node {

struct Service {
  Service(const NodeLimits& limits, AccessList access, LogSink sink, std::shared_ptr<const Ownership> ownership)
      : core(limits, std::move(access), std::move(sink), std::move(ownership)), data(&core), figures(this) {}

  Core core;
  DataContext data;
  // The transports of the node's ports, by the scheme of their addresses; they outlive their users.
  std::vector<std::pair<std::string, const transport::Transport*>> transports;
  NodeFigures figures;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_SERVICE_H_
