// The nodes of a cluster as one client knows them: a store over each, opened when it is first needed, and what was seen
// of it.
//
// Lookups are answered from memory, reads and puts by a disk that may hang alone. So there is a breaker and a latency
// for each kind of work. A node that does not answer lookups is not there, and rests with everything.
//
// Thread-safety: all methods. Lifetime: a Nodes is an immutable snapshot, shared by the calls that began with it; a
// node is shared by the snapshots, leases and pending requests that use it, and outlives its cluster's membership as
// long as these do.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "store/client/remote.h"
#include "store/cluster/replicas/breaker.h"
#include "store/cluster/replicas/hedge.h"
#include "store/cluster/replicas/order.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

// Nodes with puts that have given no sign for so long are not waited for. Bytes count when a whole slab is taken, and
// slabs that are sent together arrive together.
inline constexpr absl::Duration kNoPutSign = absl::Milliseconds(750);

// Whether a request that ended so was not answered.
bool IsNoAnswer(const absl::Status& status);

// What a node is asked for.
enum class Work : uint8_t {
  kLookup,  // and pins, removal, administration
  kRead,
  kPut,
};

class ClusterNode {
 public:
  ClusterNode(std::string address, client::RemoteOptions options)
      : address_(std::move(address)), options_(std::move(options)) {}

  const std::string& address() const { return address_; }
  // The store over it; reaches for nobody. Errors of OpenRemote for options that are wrong.
  absl::StatusOr<std::shared_ptr<client::RemoteStore>> Store();
  // Whether Store was called.
  bool opened() const;

  // No answer came, or none in time: counts as an answer after kNoProgress at least.
  void Failed(Work work, absl::Duration took = kNoProgress);
  // What became of a request by its status: an answer, or a failure to get one. `took`: nothing, where it says nothing
  // of other requests.
  void Ended(Work work, const absl::Status& status, std::optional<absl::Duration> took = std::nullopt);
  // It was given up after so long, and may have been answered later.
  void GivenUp(Work work, absl::Duration after);
  // Changes with every answer to a read, and every layer, that comes from the node: tells a slow one from a stuck one.
  int64_t Progress() const;

  // Puts to it that are under way. `answered`: it ended as the node said, and was not given up.
  void PutBegan();
  void PutEnded(bool answered);
  int puts() const;
  // When its puts last gave a sign: it took bytes or answered, or the first of them began.
  absl::Time PutsMoved();
  // Several are under way, and none has given a sign for a while: a further one would only wait with them.
  bool PutsStuck();

  // Whether it is not to be asked for that, but as a probe.
  bool Rests(Work work) const;
  // The right to ask it all the same, where a rest is over. Null: there is none, or it does not rest.
  Breaker::Probe TryProbe(Work work);
  // Where it rests and may be probed, asks it for one encoding (a lookup, or a read if that is what fails), for which
  // nobody waits; and looks at what became of the last one.
  void Probe(Work work, absl::string_view ns, const ReadRequest& request, Codec codec);
  // Lookups, or this work, have failed since they were last answered.
  bool Fails(Work work) const;

  Condition condition(Work work) const;
  absl::Duration HedgeAfter(Work work) const { return seen(work).latency.HedgeAfter(); }
  std::atomic<int>& under_way() { return under_way_; }
  int64_t probes() const { return probes_; }

 private:
  struct Seen {
    Breaker breaker;
    Latency latency;
  };
  // A request for which nobody waits.
  struct Asked {
    Breaker::Probe right;
    Work work;
    absl::Time at;
    std::unique_ptr<client::PendingLookup> lookup;  // one of the two
    std::unique_ptr<client::PendingReads> reads;
    absl::Status Poll() const;
  };

  Seen& seen(Work work) { return seen_[static_cast<int>(work)]; }
  const Seen& seen(Work work) const { return seen_[static_cast<int>(work)]; }
  // Whose breaker keeps it from that work: lookups', or the work's own.
  Work Resting(Work work) const { return seen(Work::kLookup).breaker.closed() ? work : Work::kLookup; }
  absl::StatusOr<Asked> AskProbe(Work work, absl::string_view ns, const ReadRequest& request, Codec codec);
  // Of the store over it; zeros before there is one.
  client::RemoteCounters Counters() const;

  const std::string address_;
  const client::RemoteOptions options_;
  Seen seen_[3];  // by Work
  std::atomic<int> under_way_{0};
  std::atomic<int64_t> probes_{0};
  mutable Mutex mutex_;
  std::shared_ptr<client::RemoteStore> store_ ABSL_GUARDED_BY(mutex_);
  int puts_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time puts_moved_ ABSL_GUARDED_BY(mutex_);
  int64_t pushed_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // when that was last looked at
  Mutex probe_mutex_;
  std::optional<Asked> probe_ ABSL_GUARDED_BY(probe_mutex_);  // goes before store_
};

// What is known at one time: a view, and the node of each member.
struct Nodes {
  std::shared_ptr<const View> view;
  std::vector<std::shared_ptr<ClusterNode>> nodes;  // in the order of view->placement.members()
};

class NodeSet {
 public:
  // `options`: for each node, but for its address, its id and the placement.
  NodeSet(std::shared_ptr<ViewSource> source, client::RemoteOptions options);
  // Waits until what is no member's any more is closed, as far as nobody uses it.
  ~NodeSet();

  // As the view is now. Cheap while it stays.
  std::shared_ptr<const Nodes> Now();
  // As Now, once the epoch is another than that of `than`, or at the deadline. Views also change with leases and hot
  // encodings, which nobody waits for.
  std::shared_ptr<const Nodes> After(const std::shared_ptr<const Nodes>& than, absl::Time deadline);

 private:
  const std::shared_ptr<ViewSource> source_;
  const client::RemoteOptions options_;
  Mutex mutex_;
  std::shared_ptr<const Nodes> now_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Worker> closing_ ABSL_GUARDED_BY(mutex_);  // once a member has gone
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_
