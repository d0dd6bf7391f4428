// The nodes of a cluster as one client knows them: for each a store, opened when first needed, and a record of its
// failures and latencies.
//
// Nodes answer lookups from memory, but reads and puts from a disk, which may hang on its own. So each kind of work has
// its own breaker and latency. A node that does not answer lookups counts as gone, and rests for all work.
//
// Thread-safety: all methods. Lifetime: a Nodes is an immutable snapshot, shared by the calls that began with it. A
// ClusterNode is shared by the snapshots, leases and pending requests that use it, and may thus outlive its membership.
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

// Puts do not wait for nodes whose puts have given no sign for this long. Bytes count when a whole slab is taken, and
// slabs that are sent together arrive together.
inline constexpr absl::Duration kNoPutSign = absl::Milliseconds(750);

// Whether the status means that a request was not answered.
bool IsNoAnswer(const absl::Status& status);

// Kinds of work that a node does.
enum class Work : uint8_t {
  kLookup,  // also pins, removal, administration
  kRead,
  kPut,
};

class ClusterNode {
 public:
  ClusterNode(std::string address, client::RemoteOptions options)
      : address_(std::move(address)), options_(std::move(options)) {}

  const std::string& address() const { return address_; }
  // The store over the node; does not connect. Errors of client::OpenRemote for invalid options; the next call tries
  // again.
  absl::StatusOr<std::shared_ptr<client::RemoteStore>> Store();
  // Whether Store was called.
  bool opened() const;

  // Records that no answer came in time; for the latency it counts as an answer after at least kNoProgress.
  void Failed(Work work, absl::Duration took = kNoProgress);
  // Records the end of a request: an answer, or none, by `status`. `took`: nullopt if its duration is not typical of
  // other requests.
  void Ended(Work work, const absl::Status& status, std::optional<absl::Duration> took = std::nullopt);
  // Records that a request was given up after this time; it might have been answered later.
  void GivenUp(Work work, absl::Duration after);
  // A count that changes with every read answer and every layer from the node, to tell a slow node from a stuck one.
  int64_t Progress() const;

  // Count the puts in progress. `answered`: the node ended the put; it was not given up.
  void PutBegan();
  void PutEnded(bool answered);
  int puts() const;
  // When the puts last gave a sign: the node took bytes or answered, or the first put began.
  absl::Time PutsMoved();
  // Whether several puts are in progress and none has given a sign for a while: another one would only wait with them.
  bool PutsStuck();

  // Whether the node may be asked for this work only as a probe.
  bool Rests(Work work) const;
  // The right to probe the node, once a rest is over. Null if there is none, or the node does not rest.
  Breaker::Probe TryProbe(Work work);
  // If the node rests and may be probed, asks it for one encoding (by a lookup, or by a read if reads fail) without
  // waiting for the answer. Also records the outcome of the previous probe.
  void Probe(Work work, absl::string_view ns, const ReadRequest& request, Codec codec);
  // Whether lookups, or this work, have failed since they were last answered.
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
  // A probe in progress.
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
  // The work whose breaker decides about `work`: lookups if theirs is not closed, else `work` itself.
  Work Resting(Work work) const { return seen(Work::kLookup).breaker.closed() ? work : Work::kLookup; }
  absl::StatusOr<Asked> AskProbe(Work work, absl::string_view ns, const ReadRequest& request, Codec codec);
  // Counters of the store; zeros before it is opened.
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
  int64_t pushed_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // when last looked at
  Mutex probe_mutex_;
  std::optional<Asked> probe_ ABSL_GUARDED_BY(probe_mutex_);  // destroyed before store_
};

// A snapshot: a view, and the node of each member.
struct Nodes {
  std::shared_ptr<const View> view;
  std::vector<std::shared_ptr<ClusterNode>> nodes;  // in the order of view->placement.members()
};

class NodeSet {
 public:
  // `options` apply to each node, except for address, node id and placement.
  NodeSet(std::shared_ptr<ViewSource> source, client::RemoteOptions options);
  // Waits until the nodes of former members are closed, except those still in use elsewhere.
  ~NodeSet();

  // The snapshot of the present view. Cheap while the view stays the same.
  std::shared_ptr<const Nodes> Now();
  // Waits until the epoch is another than that of `than`, or until the deadline, and returns Now(). Views also change
  // with leases and hot encodings, for which no caller waits.
  std::shared_ptr<const Nodes> After(const std::shared_ptr<const Nodes>& than, absl::Time deadline);

 private:
  const std::shared_ptr<ViewSource> source_;
  const client::RemoteOptions options_;
  Mutex mutex_;
  std::shared_ptr<const Nodes> now_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Worker> closing_ ABSL_GUARDED_BY(mutex_);  // created when the first member leaves
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_
