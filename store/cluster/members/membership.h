// Follows the state of a cluster in etcd: reads it once at one revision and watches it from there.
//
// A view always shows one revision of etcd, never a mix of two. The placement is recomputed only when its epoch
// changes; a lease that begins or ends, or a changed address or build, moves no slots and changes only the status.
// While etcd is unreachable, compacted, restarting or failing over, the last view stays, and following resumes when it
// can; health() says what is wrong. If etcd returns at an older state (restored from a snapshot), everything is read
// again, and the epoch may go back, which is logged.
//
// If this build cannot parse a record of the cluster, the epoch or a member, the last view stays, since a placement
// without that record would be a different one. Liveness records that it cannot parse count as absent. health() names
// the record.
//
// Thread-safety: all methods. Ownership: starts one thread, `cluster-watch`. Lifetime: must outlive the objects that
// were given it; the destructor ends work in progress, which takes some seconds at most if etcd does not answer.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_MEMBERSHIP_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_MEMBERSHIP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/connection.h"
#include "store/cluster/members/contents.h"
#include "store/cluster/members/records.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

struct MembershipOptions {
  ClusterAddress address;
  // The id that the cluster must have. nullopt: any cluster with the name will do.
  std::optional<std::array<uint8_t, 16>> cluster_id;
  EventSink events;  // may be empty
  // Called with each view before view() returns it, one call at a time: within Open, then on `cluster-watch`. Must not
  // call the membership.
  std::function<void(const std::shared_ptr<const View>&)> on_view;
};

struct MembershipHealth {
  absl::Status status;   // OK: the view matches etcd; else why it may be old
  absl::Time since;      // of SteadyNow(): when the view was last known to match etcd
  int64_t revision = 0;  // etcd revision up to which changes are known
};

class Membership final : public ViewSource {
 public:
  // Returns with the first view available. NOT_FOUND: etcd holds no cluster of this name; the message names those it
  // holds. FAILED_PRECONDITION: the cluster's id is not `cluster_id`. UNIMPLEMENTED: a record, named in the message,
  // has a newer format; INVALID_ARGUMENT: it is malformed. Errors of etcd::Client (no answer by `deadline`,
  // credentials, TLS).
  static absl::StatusOr<std::unique_ptr<Membership>> Open(MembershipOptions options, absl::Time deadline);
  ~Membership() override;
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  std::shared_ptr<const View> view() const override;
  std::shared_ptr<const View> WaitForChange(const std::shared_ptr<const View>& than,
                                            absl::Time deadline) const override;

  MembershipHealth health() const;
  // Progress published by the members that keep their lease, by node id.
  std::map<NodeId, ProgressRecord> progress() const;
  // The revision at which a member's record of this kind, kProgress or kHot, was written, as far as known; 0: etcd has
  // none.
  int64_t RevisionOf(KeyKind kind, const NodeId& id) const;

  // Whether the node left or was removed and has not joined again. As recent as view(), or more so.
  bool Removed(const NodeId& id) const;

  // For callers that change the cluster (administration.h).
  Connection* connection() const { return connection_.get(); }

 private:
  Membership(MembershipOptions options, std::unique_ptr<Connection> connection);
  absl::Status ReadAnew(absl::Time deadline);
  absl::Status Follow();
  absl::Status Publish();
  void Recover(const absl::Status& why);
  void SetHealth(const absl::Status& status);
  void Tell(Severity severity, absl::string_view event, absl::string_view what) const;
  void Run();

  const MembershipOptions options_;
  const std::unique_ptr<Connection> connection_;

  // Used by Open, then only by the thread.
  std::shared_ptr<etcd::Client> client_;
  std::unique_ptr<etcd::Watch> watch_;  // belongs to client_; null: read everything again
  bool went_back_ = false;              // etcd reported an older state and was not read since
  absl::Status published_;              // outcome of making view_ from contents_

  mutable Mutex contents_mutex_;  // held while a placement is computed
  Contents contents_ ABSL_GUARDED_BY(contents_mutex_);

  mutable Mutex mutex_;
  mutable CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  etcd::Watch* waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;  // canceled by the destructor
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(mutex_);
  MembershipHealth health_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_MEMBERSHIP_H_
