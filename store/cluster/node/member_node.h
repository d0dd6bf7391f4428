// A node as a member of a cluster: the node (store/node), its view of the cluster, its entry in etcd, and its
// companions.
//
// Starting: read from etcd which cluster it is; check that the directory belongs to it or to none; start the node;
// check that no other process runs as it; prepare companions; open sessions; register; start companions. Ending: stop
// companions; remove the alive record; end the node. While etcd is unreachable, everything continues with the last
// view.
//
// Thread-safety: all methods except Leave and the destructor. Ownership: starts one thread, `cluster-state`, and those
// of its parts.
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
  node::NodeOptions node;  // `ownership` and `figures` are set here; its log also gets cluster events
  ClusterAddress cluster;
  // Zone and weight apply when the node joins; later they change only in etcd.
  std::string zone;
  std::optional<uint32_t> weight;  // nullopt: the GiB that the segment files may take
  // host:port at which others reach the control service; port 0: the port it listens on. Empty: the address it listens
  // on. Another address, or a name, may lead to another process of this node, so a node that was killed waits for its
  // lease to end.
  std::string advertise;
  absl::Duration ttl = absl::Seconds(10);  // of the lease
  HotOptions hot;
  std::vector<MakeCompanion> companions;  // prepared and started in this order, stopped in the opposite one
};

// The members, as indices into `view.placement.members()`, that a draining member must wait for: the next owners of its
// slots that have not published complete progress at the view's epoch. Next owners that are current owners too and are
// not alive count only for slots without a living next owner.
std::set<uint16_t> AwaitedByDrain(const View& view, const std::map<NodeId, ProgressRecord>& progress,
                                  const NodeId& draining);

// The members that a member with a former standing must wait for: those that gain a slot and have not published
// complete progress at the view's epoch.
std::set<uint16_t> AwaitedByMove(const View& view, const std::map<NodeId, ProgressRecord>& progress);

class MemberNode {
 public:
  // On return the node is a member and serves. On an error the member record may stay in etcd, and nothing else.
  // INVALID_ARGUMENT: zone, weight or address; or it listens on all addresses and `advertise` names none.
  // FAILED_PRECONDITION: the directory belongs to another cluster, or to none and holds encodings that the cluster's
  // catalog does not know. ABORTED: the cluster's database was changed meanwhile. Errors of Membership::Open,
  // Node::Start, Registration::Start, and companions.
  static absl::StatusOr<std::unique_ptr<MemberNode>> Start(MemberNodeOptions options, absl::Time deadline);
  ~MemberNode();
  MemberNode(const MemberNode&) = delete;
  MemberNode& operator=(const MemberNode&) = delete;

  node::Node* node() const { return node_.get(); }
  const Membership& membership() const { return *membership_; }
  const NodeId& id() const { return id_; }
  // As Registration::ended().
  std::optional<absl::Status> ended() const;
  // Stops companions and removes the alive record, so that others stop asking this node, while it keeps serving. The
  // destructor calls it too. Not concurrently with any other call.
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
  // Logs `awaited` as `event` if it has changed. Returns whether there are none.
  bool NoneAwaited(const View& view, const std::set<uint16_t>& awaited, absl::string_view event);
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
  std::set<NodeId> awaited_;               // of the thread: as last logged
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
