// The nodes of a cluster as one client knows them: a store over each, opened when it is first needed, and what was seen
// of it.
//
// Thread-safety: all methods. Lifetime: a Nodes is an immutable snapshot, shared by the calls that began with it; a
// node is shared by the snapshots, leases and pending requests that use it, and outlives its cluster's membership as
// long as these do.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_NODES_H_

#include <atomic>
#include <cstdint>
#include <memory>
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

class ClusterNode {
 public:
  ClusterNode(std::string address, client::RemoteOptions options)
      : address_(std::move(address)), options_(std::move(options)) {}

  const std::string& address() const { return address_; }
  // The store over it; reaches for nobody. Errors of OpenRemote for options that are wrong.
  absl::StatusOr<std::shared_ptr<client::RemoteStore>> Store();
  // Whether Store was called.
  bool opened() const;

  // An answer of whatever kind came after so long.
  void Answered(absl::Duration took);
  void Failed();
  // What became of a request by its status: an answer, or a failure to get one.
  void Ended(const absl::Status& status, absl::Duration took);
  // Changes with every encoding, and every layer, that comes from the node: tells a slow one from a stuck one.
  int64_t Progress() const;

  // Puts to it that are under way.
  void PutBegan();
  void PutEnded();
  int puts() const;
  // Several are under way, and none has ended for a while: a further one would only wait with them.
  bool PutsStuck() const;

  // Where its breaker is open and its rest is over, sends it a lookup of one encoding, for which nobody waits; and
  // looks at what became of the last one.
  void Probe(absl::string_view ns, const Identity& identity, Codec codec);

  Condition condition() const;
  Breaker& breaker() { return breaker_; }
  const Breaker& breaker() const { return breaker_; }
  const Latency& latency() const { return latency_; }
  std::atomic<int>& under_way() { return under_way_; }
  int64_t probes() const { return probes_; }

 private:
  const std::string address_;
  const client::RemoteOptions options_;
  Breaker breaker_;
  Latency latency_;
  std::atomic<int> under_way_{0};
  std::atomic<int64_t> probes_{0};
  mutable Mutex mutex_;
  std::shared_ptr<client::RemoteStore> store_ ABSL_GUARDED_BY(mutex_);
  int puts_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time puts_moved_ ABSL_GUARDED_BY(mutex_);  // when one ended, or the first of them began
  Mutex probe_mutex_;
  std::unique_ptr<client::PendingLookup> probe_ ABSL_GUARDED_BY(probe_mutex_);  // goes before store_
  absl::Time probed_ ABSL_GUARDED_BY(probe_mutex_);
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
  // As Now, once the view is another than that of `than`, or at the deadline.
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
