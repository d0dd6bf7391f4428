// One call for many encodings. Asks one owner of each, with one request per node and all requests at the same time;
// encodings that an owner lacks are asked of their next owners in another round, until each is found or all its owners
// were asked.
//
// A node that gives no sign for kNoProgress is left behind: its encodings are asked of their next owners, and its
// answer still counts if it comes. A node is left behind earlier if it is slower than it nearly always is and the
// budget of hedges allows it. If an owner has answered that it lacks the encoding, the call waits for nodes left behind
// until it has taken kMissPatience; if no owner has answered, until no node has given a sign for Cluster::patience.
// Resting nodes are left out; if no other node answers, one of them is asked, and the call waits for it until it has
// taken kMissPatience.
//
// Thread-safety: one thread. Lifetime: the objects that Cluster points to must outlive it.
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

// The state that the calls of one store share.
struct Cluster {
  NodeSet* nodes;
  HedgeBudget* hedges;
  Counters* counters;
  std::string zone;
  absl::Duration patience;  // how long a call waits for a sign when no other node is left to ask
};

// A node's answer for one encoding.
enum class Verdict : uint8_t {
  kHad,
  kMissed,
  kMoved,   // the node does not own it
  kFailed,  // the node could not tell
};

class Scatter {
 public:
  // A request to one node, in progress.
  class Request {
   public:
    virtual ~Request() = default;
    // The verdict on each encoding of the request. Never waits. DEADLINE_EXCEEDED: the request has not ended. Other
    // statuses: no answer came.
    virtual absl::StatusOr<std::vector<Verdict>> Poll() = 0;
    // Ends the request. Poll() then gives what has been answered so far, if anything.
    virtual void Expire() {}
    // After it has ended: the greatest epoch in `moved` answers.
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

  // Runs until each encoding is found or no node is left to ask, but no longer than until `deadline`, which is also the
  // deadline of the requests.
  void Run(absl::Time deadline);

  // The following are valid after Run. Whether any node answered.
  bool answered() const { return answered_; }
  const std::shared_ptr<const Nodes>& nodes() const { return nodes_; }
  // Why a node refused to serve this client (its key, a version); OK if none did.
  const absl::Status& refused() const { return refused_; }
  // Resting members that own one of the encodings, each with the index of one.
  const std::vector<std::pair<std::shared_ptr<ClusterNode>, size_t>>& resting() const { return resting_; }

 private:
  struct Item {
    absl::InlinedVector<std::shared_ptr<ClusterNode>, 4> order;  // owners yet to be asked, best last
    absl::InlinedVector<std::shared_ptr<ClusterNode>, 4> asked;
    std::shared_ptr<ClusterNode> last_resort;  // rests; asked if no other node answers; may be null
    int waiting = 0;                           // requests in progress that contain it
    int awaited = 0;                           // of these, those not left behind
    bool had = false, moved = false;
    bool missed = false;  // an owner lacks it, or only the last resort is left
  };
  struct Sent {
    uint64_t tag = 0;
    std::shared_ptr<ClusterNode> node;
    std::vector<size_t> which;
    std::unique_ptr<Request> request;
    absl::Time at, signed_at;  // when sent, and when the node last gave a sign
    int64_t progress = 0;
    bool left_behind = false, hedged = false;
  };

  void ChooseOrders(absl::Span<const size_t> which);
  // Sends requests for all encodings that no awaited request contains. False if there were none.
  bool SendRound();
  void Send(const std::shared_ptr<ClusterNode>& node, std::vector<size_t> which);
  // Takes the result of a request, if it has ended; it ended by `at`.
  void Take(Sent* sent, absl::Time at);
  // Whether the end of the request without an answer is a failure of the node that was not counted yet.
  bool Counts(const Sent& sent) const;
  void Refuse(const absl::Status& status);
  void LeaveBehind(Sent* sent);
  // Leaves behind nodes that are stuck or slow. Returns when to look again: `now` if any was left behind.
  absl::Time CheckProgress(absl::Time now);
  // Takes a newer view for encodings that no owner had and of which some node answered `moved`. False if there is
  // nothing to ask again.
  bool LookAgain(absl::Time deadline);
  bool Unfinished() const;
  // Until when to wait for nodes that were left behind.
  absl::Time Patience(absl::Time begun, absl::Time deadline) const;

  const Cluster* const cluster_;
  const absl::Span<const Identity> identities_;
  const Work work_;
  const Ask ask_;
  std::shared_ptr<const Nodes> nodes_;
  const std::shared_ptr<client::Arrivals> arrivals_ = std::make_shared<client::Arrivals>();
  std::vector<Item> items_;
  std::list<Sent> sent_;  // in progress
  uint64_t next_tag_ = 1;
  absl::Time signed_at_;  // when any node last gave a sign
  bool answered_ = false, looked_again_ = false, over_ = false;
  absl::Status refused_;
  std::vector<std::pair<std::shared_ptr<ClusterNode>, size_t>> resting_;
  // Resting nodes that this call asks as probes.
  std::vector<std::pair<std::shared_ptr<ClusterNode>, Breaker::Probe>> probed_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_SCATTER_H_
