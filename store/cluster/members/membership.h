// The cluster as etcd tells it: read once at one revision and followed from there.
//
// The view has all of what one revision of etcd holds, or of an earlier one: never some of each. The placement is
// computed again only when its epoch changes; that a lease ends or begins, an address or a build changes, moves nothing
// and only changes the status. Where etcd cannot be asked, is compacted, restarts or fails over, the last view stays
// and the membership goes on when it can; health() says what is wrong. Where etcd comes back at an older state than it
// had (restored from a snapshot), everything is read anew, and the epoch may go back, which is logged.
//
// Records that this build does not understand: of the cluster, the epoch or a member they leave the last view in place,
// since a placement without them would be another one; of who is alive they are as none. health() names them.
//
// Thread-safety: all methods. Ownership: starts one thread, `cluster-watch`. Lifetime: outlives those that were given
// it; the destructor ends what is under way, which takes some seconds at most where etcd is silent.
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
  // The cluster must be this one, whatever it is called. Nothing: whichever has the name.
  std::optional<std::array<uint8_t, 16>> cluster_id;
  EventSink events;  // empty: none
  // Called with each view before view() returns it, one call at a time: within Open, then on the thread. Must not call
  // the membership.
  std::function<void(const std::shared_ptr<const View>&)> on_view;
};

struct MembershipHealth {
  absl::Status status;   // OK: the view is what etcd holds; else why it may be old
  absl::Time since;      // of SteadyNow(): when the view was last known to be what etcd holds
  int64_t revision = 0;  // of etcd, up to which its changes are known
};

class Membership final : public ViewSource {
 public:
  // The first view is there when it returns. NOT_FOUND: etcd holds no cluster of this name; the message names those it
  // holds. FAILED_PRECONDITION: it is another cluster than `cluster_id`. UNIMPLEMENTED, INVALID_ARGUMENT: a record,
  // named, is of a newer format or no such record. Errors of etcd::Client (none within `deadline`, credentials, TLS).
  static absl::StatusOr<std::unique_ptr<Membership>> Open(MembershipOptions options, absl::Time deadline);
  ~Membership() override;
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  std::shared_ptr<const View> view() const override;
  std::shared_ptr<const View> WaitForChange(const std::shared_ptr<const View>& than,
                                            absl::Time deadline) const override;

  MembershipHealth health() const;
  // What members have published, by node id; of those that keep their lease.
  std::map<NodeId, ProgressRecord> progress() const;

  // Whether the node left or was removed and has not joined again. As of view(), or later.
  bool Removed(const NodeId& id) const;

  // For those who change what etcd holds.
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

  // Of the thread, and before it of Open.
  std::shared_ptr<etcd::Client> client_;
  std::unique_ptr<etcd::Watch> watch_;  // within client_; null: read anew
  bool went_back_ = false;              // etcd has said so, and was not read since
  absl::Status published_;              // whether view_ is made of contents_

  mutable Mutex contents_mutex_;  // held while a placement is computed
  Contents contents_ ABSL_GUARDED_BY(contents_mutex_);

  mutable Mutex mutex_;
  mutable CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  etcd::Watch* waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;  // that the destructor cancels
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(mutex_);
  MembershipHealth health_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_MEMBERSHIP_H_
