// Keeps an etcd lease alive, and knows in time when it may have ended.
//
// Renews the lease a third of its time after the last renewal, at any member that answers. Validity is counted on the
// steady clock from when a renewal was sent, so that a slow member or a stalled stream cannot make the lease look
// alive: it is considered lost a margin (a fifth of its time, at most a second) before etcd can end it.
//
// Thread-safety: all methods. Ownership: starts one thread, `etcd-lease`. Lifetime: must not outlive its Client. The
// destructor cancels a renewal in progress and joins the thread; it does not revoke the lease, which lives out its
// remaining time.
#ifndef KVLINK_ETCD_KEEP_ALIVE_H_
#define KVLINK_ETCD_KEEP_ALIVE_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "etcd/types.h"

namespace kvlink::etcd {

class Cancellation;
class ClusterChannel;

class KeepAlive {
 public:
  // Called once, on the object's thread, when the lease is lost permanently: NOT_FOUND (etcd has ended it) or
  // DEADLINE_EXCEEDED (it was not renewed in time; the message says why). Must not destroy the KeepAlive. Not called
  // when the object is destroyed.
  using Lost = std::function<void(const absl::Status& why)>;

  // Used by Client::Keep.
  KeepAlive(ClusterChannel* cluster, const Lease& lease, Lost lost);
  ~KeepAlive();
  KeepAlive(const KeepAlive&) = delete;
  KeepAlive& operator=(const KeepAlive&) = delete;

  LeaseId id() const { return id_; }
  // The SteadyNow() time until which the lease is alive. Renewals move it later, never earlier; InfinitePast() once the
  // lease is lost. Code that must not act without the lease checks this, not the callback, whose thread may be late.
  absl::Time valid_until() const;

 private:
  absl::Status RenewOnce(absl::Time deadline);
  void Run();

  ClusterChannel* const cluster_;
  const LeaseId id_;
  const Lost lost_;
  const std::unique_ptr<Cancellation> cancellation_;
  mutable Mutex mutex_;
  absl::Time renewed_ ABSL_GUARDED_BY(mutex_);  // when the last successful renewal was sent
  absl::Duration ttl_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_KEEP_ALIVE_H_
