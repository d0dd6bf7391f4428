// A node as a member of a cluster: the node (store/node), what it knows of the cluster, its entry in etcd, and what
// works beside it.
//
// Order of starting: etcd is asked which cluster it is, the directory must be of that one or of none, the node starts,
// nobody else may run as it, companions prepare, the node opens sessions, it is registered, companions start. Order of
// ending: companions stop, the entry that says it is alive goes, the node ends. While etcd is gone everything goes on
// with what was known.
//
// Thread-safety: all methods except the destructor. Ownership: starts one thread, `cluster-state`, and those of its
// parts.
#ifndef KVLINK_STORE_CLUSTER_NODE_MEMBER_NODE_H_
#define KVLINK_STORE_CLUSTER_NODE_MEMBER_NODE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/members/ownership.h"
#include "store/cluster/members/registration.h"
#include "store/cluster/node/companion.h"
#include "store/cluster/node/hot_policy.h"
#include "store/node/node.h"
#include "store/node/watch/log.h"

namespace kvlink::store::cluster {

struct MemberNodeOptions {
  node::NodeOptions node;  // its ownership and figures are set here; its log is told of the cluster, too
  ClusterAddress cluster;
  // Both hold when it joins; later they are changed in etcd alone.
  std::string zone;
  std::optional<uint32_t> weight;  // none: GiB that the segment files may take
  // host:port of the control service, as others reach it; port 0: the one it listens at. Empty: where it listens.
  std::string advertise;
  absl::Duration ttl = absl::Seconds(10);  // of the lease
  HotOptions hot;
  std::vector<MakeCompanion> companions;  // prepared and started in this order, stopped in the opposite one
};

// The members, as indices into `view.placement.members()`, that a draining member has to wait for: those that gain what
// it holds, and those alive that hold the same, or the dead where nobody alive does, unless they have said that they
// have all of it at the epoch of the view.
std::set<uint16_t> AwaitedByDrain(const View& view, const std::map<NodeId, ProgressRecord>& progress,
                                  const NodeId& draining);

class MemberNode {
 public:
  // A member that serves, when it returns; nothing is left of it on an error but an entry of a member in etcd.
  // INVALID_ARGUMENT: zone, weight or address; it listens everywhere and `advertise` says nothing. FAILED_PRECONDITION:
  // the directory is of another cluster, or of none and holds encodings that the cluster's catalog does not know.
  // Errors of Membership::Open, Node::Start, Registration::Start, companions.
  static absl::StatusOr<std::unique_ptr<MemberNode>> Start(MemberNodeOptions options, absl::Time deadline);
  ~MemberNode();
  MemberNode(const MemberNode&) = delete;
  MemberNode& operator=(const MemberNode&) = delete;

  node::Node* node() const { return node_.get(); }
  const Membership& membership() const { return *membership_; }
  const NodeId& id() const { return id_; }
  // As Registration's: it should end.
  std::optional<absl::Status> ended() const;
  // Stops companions and takes the entry away, so that others ask it no more, while the node goes on. Once, before the
  // end; not beside another call.
  void Leave();

 private:
  explicit MemberNode(node::LogSink sink) : log_(std::move(sink)) {}
  absl::Status Open(MemberNodeOptions options, absl::Time deadline);
  absl::Status CheckBinding(const std::string& directory) const;
  absl::StatusOr<RegistrationOptions> MakeRegistration(const MemberNodeOptions& options, const std::string& build);
  absl::Status Register(RegistrationOptions registration, absl::Time deadline);
  absl::Status StartCompanions(const MemberNodeOptions& options, absl::Time deadline);
  void CheckWeight(uint32_t capacity);
  void Publish(const ProgressRecord& progress);
  void Hold(const std::vector<HotName>& held);
  // Publishes what is hot on the node, if that has changed.
  void PublishHot();
  void Log(Severity severity, absl::string_view event, absl::string_view what);
  EventSink events();
  void ShareLimits();
  void Show(node::FiguresBeside figures);
  std::vector<node::Figure> Figures() const;
  absl::Status Step();
  absl::Status CompleteOwnDrain(const View& view);
  void Run();

  node::Log log_;
  NodeId id_ = {};
  std::shared_ptr<MemberOwnership> ownership_;
  std::unique_ptr<Membership> membership_;
  mutable Mutex figures_mutex_;                                               // held while figures are read
  std::vector<node::FiguresBeside> figures_ ABSL_GUARDED_BY(figures_mutex_);  // the membership's first
  std::unique_ptr<node::Node> node_;
  std::unique_ptr<Registration> registration_;
  std::vector<std::unique_ptr<Companion>> companions_;
  std::set<NodeId> awaited_;               // of the thread: as it was logged last
  std::unique_ptr<HotPolicy> hot_policy_;  // of the thread
  HotRecord published_hot_;                // of the thread

  mutable Mutex mutex_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<ProgressRecord> progress_ ABSL_GUARDED_BY(mutex_);
  std::vector<HotName> held_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_MEMBER_NODE_H_
