// One call for many encodings: each is asked of one of its owners, in one request a node, all side by side; those that
// are not had there are asked of their next owners in another round, until each is had or all its owners were asked.
//
// A node that gives no sign for kNoProgress is left behind: what it was asked for goes to the next owners, and its
// answer counts if it still comes. It is left behind earlier where it is slower than nearly always, and the budget of
// hedges allows it. Where an owner has said that it does not have the encoding, those left behind are waited for until
// the call has taken kMissPatience; where none has said anything, until nobody has given a sign for Cluster::patience.
// Nodes that rest are left out. Where none of the others says anything, one of them is asked and has kMissPatience.
//
// Thread-safety: one thread. Lifetime: what Cluster points to outlives it.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_SCATTER_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_SCATTER_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "store/client/pending.h"
#include "store/cluster/replicas/counters.h"
#include "store/cluster/replicas/hedge.h"
#include "store/cluster/replicas/nodes.h"

namespace kvlink::store::cluster {

// What the calls of one store share.
struct Cluster {
  NodeSet* nodes;
  HedgeBudget* hedges;
  Counters* counters;
  std::string zone;
  absl::Duration patience;  // how long a call waits for a sign of nodes when nobody else is left to ask
};

// What became of one encoding at one node.
enum class Verdict : uint8_t {
  kHad,
  kMissed,
  kMoved,   // the node does not own it
  kFailed,  // it could not say
};

class Scatter {
 public:
  // A request to one node, on its way.
  class Request {
   public:
    virtual ~Request() = default;
    // The end of it, for each encoding that was asked for; DEADLINE_EXCEEDED before it. Never waits. Other statuses:
    // no answer came.
    virtual absl::StatusOr<std::vector<Verdict>> Poll() = 0;
    // Its time is over. What has been answered of it is what Poll gives then, if anything.
    virtual void Expire() {}
    // Afterwards: the greatest epoch of those that a node named which does not own something.
    uint64_t moved_epoch() const { return moved_epoch_; }

   protected:
    void Moved(uint64_t epoch) { moved_epoch_ = std::max(moved_epoch_, epoch); }

   private:
    uint64_t moved_epoch_ = 0;
  };
  // Sends a request for encodings [which] to a node.
  using Ask = std::function<absl::StatusOr<std::unique_ptr<Request>>(
      const std::shared_ptr<ClusterNode>& node, absl::Span<const size_t> which, const client::Notify& notify)>;

  // `work`: kLookup or kRead.
  Scatter(const Cluster* cluster, absl::Span<const Identity> identities, Work work, Ask ask);
  ~Scatter();

  // Until each is had, or nobody is left to ask; at most until `deadline`, which is that of the requests, too.
  void Run(absl::Time deadline);

  // Afterwards. Whether any node said anything.
  bool answered() const { return answered_; }
  const std::shared_ptr<const Nodes>& nodes() const { return nodes_; }
  // Why a node that answered would not serve this client (its key, a version); OK: none said so.
  const absl::Status& refused() const { return refused_; }
  // Members that rest and own one of the encodings, with which of them.
  const std::vector<std::pair<std::shared_ptr<ClusterNode>, size_t>>& resting() const { return resting_; }

 private:
  struct Item {
    absl::InlinedVector<std::shared_ptr<ClusterNode>, 4> order;  // still to be asked, the best last
    absl::InlinedVector<std::shared_ptr<ClusterNode>, 4> asked;
    std::shared_ptr<ClusterNode> last_resort;  // rests, and is asked where the others do not answer; may be null
    int waiting = 0;                           // requests of which it is part
    int awaited = 0;                           // of these, those not left behind
    bool had = false, moved = false;
    bool missed = false;  // an owner said so, or there is but the last resort
  };
  struct Sent {
    uint64_t tag = 0;
    std::shared_ptr<ClusterNode> node;
    std::vector<size_t> which;
    std::unique_ptr<Request> request;
    absl::Time at, signed_at;  // when it was sent, and when the node last gave a sign
    int64_t progress = 0;
    bool left_behind = false, hedged = false;
  };

  void ChooseOrders(absl::Span<const size_t> which);
  // Sends requests for all encodings that wait for nobody; false: there were none.
  bool SendRound();
  void Send(const std::shared_ptr<ClusterNode>& node, std::vector<size_t> which);
  // Takes the result of a request, if there is one; it came by `at`.
  void Take(Sent* sent, absl::Time at);
  // Whether it says that the node failed, and was not counted as such before.
  bool Counts(const Sent& sent) const;
  void Refuse(const absl::Status& status);
  void LeaveBehind(Sent* sent);
  // Leaves those behind that are stuck or slow; returns when to look again: now, if any was.
  absl::Time CheckProgress(absl::Time now);
  // Looks again at where those are that no owner had, and one of them does not own.
  bool LookAgain(absl::Time deadline);
  bool Unfinished() const;
  // Until when to wait for those that were left behind.
  absl::Time Patience(absl::Time begun, absl::Time deadline) const;

  const Cluster* const cluster_;
  const absl::Span<const Identity> identities_;
  const Work work_;
  const Ask ask_;
  std::shared_ptr<const Nodes> nodes_;
  const std::shared_ptr<client::Arrivals> arrivals_ = std::make_shared<client::Arrivals>();
  std::vector<Item> items_;
  std::list<Sent> sent_;  // on their way
  uint64_t next_tag_ = 1;
  absl::Time signed_at_;  // when any node last gave a sign
  bool answered_ = false, looked_again_ = false, over_ = false;
  absl::Status refused_;
  std::vector<std::pair<std::shared_ptr<ClusterNode>, size_t>> resting_;
  // That rest, and are asked by this call all the same.
  std::vector<std::pair<std::shared_ptr<ClusterNode>, Breaker::Probe>> probed_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_SCATTER_H_
