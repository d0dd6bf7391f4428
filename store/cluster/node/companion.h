// A service that runs beside a node while it is a member of a cluster: repair, the consumer of drops. MemberNode starts
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

// Thread-safety: MemberNode calls Prepare, Start and Stop one at a time, in this order.
class Companion {
 public:
  virtual ~Companion() = default;
  // Does what must be done before other members know of the node. On an error the node does not start.
  virtual absl::Status Prepare(absl::Time deadline) = 0;
  // Called once the node is a living member. Must not wait.
  virtual void Start() = 0;
  // Ends work in progress, while the node is still alive and serving. Also called without Start. `left`: the node has
  // drained and is no longer a member, so nothing should wait for it.
  virtual void Stop(bool left) = 0;
  // Its statistics, shown with the node's. Called on any thread, between an OK of Prepare and the call of Stop; must
  // not block.
  virtual std::vector<node::Figure> Figures() const { return {}; }
};

// The parts of a node that a companion may use; all of them outlive it.
struct CompanionContext {
  engine::Engine* engine = nullptr;
  const Membership* membership = nullptr;
  MemberOwnership* ownership = nullptr;  // decides which pushes the node admits
  NodeId node = {};
  // Publishes how far the node has filled the slots that it owns. Once this is complete, a joining node becomes active;
  // a draining node leaves once the others are complete. Any thread; from Start to Stop.
  std::function<void(const ProgressRecord&)> publish;
  // Publishes which further copies the node holds (store/cluster/hot.h), whenever that changes. Clients may read them
  // from then on. Any thread; from Start to Stop.
  std::function<void(const std::vector<HotName>&)> hold;
  EventSink events;
};
using MakeCompanion = std::function<absl::StatusOr<std::unique_ptr<Companion>>(const CompanionContext& context)>;

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_COMPANION_H_
