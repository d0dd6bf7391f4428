// What works beside a node for as long as it is a member of a cluster: repair, the consumer of drops. MemberNode starts
// and stops it.
#ifndef KVLINK_STORE_CLUSTER_NODE_COMPANION_H_
#define KVLINK_STORE_CLUSTER_NODE_COMPANION_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/members/ownership.h"
#include "store/cluster/members/records.h"
#include "store/engine/engine.h"
#include "store/node/watch/statistics.h"

namespace kvlink::store::cluster {

// Thread-safety: as each implementation says; these are called one at a time, in this order.
class Companion {
 public:
  virtual ~Companion() = default;
  // Before the others know of the node: what has to be done first. On an error the node does not start.
  virtual absl::Status Prepare(absl::Time deadline) = 0;
  // The node is a member, and alive. Must not wait.
  virtual void Start() = 0;
  // Ends what is under way. The node is alive still, and serves. Also without Start. `left`: it is no member any more,
  // having drained, and nobody is to wait for it.
  virtual void Stop(bool left) = 0;
  // Its statistics, shown with the node's. Called on any thread, between an OK of Prepare and the call of Stop; must
  // not block.
  virtual std::vector<node::Figure> Figures() const { return {}; }
};

// What a companion is given; all of it outlives the companion.
struct CompanionContext {
  engine::Engine* engine = nullptr;
  const Membership* membership = nullptr;
  MemberOwnership* ownership = nullptr;  // decides which pushes the node admits
  NodeId node = {};
  // How far the node is with holding what it owns. By it, and not before it is complete, a joining node becomes active,
  // and a draining one leaves once the others are complete. Any thread; from Start to Stop.
  std::function<void(const ProgressRecord&)> publish;
  // Which further copies the node holds (store/cluster/hot.h), whenever that changes. Clients may read them from then
  // on. Any thread; from Start to Stop.
  std::function<void(const std::vector<HotName>&)> hold;
  EventSink events;
};
using MakeCompanion = std::function<absl::StatusOr<std::unique_ptr<Companion>>(const CompanionContext& context)>;

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_COMPANION_H_
