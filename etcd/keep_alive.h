// Keeps a lease of etcd alive, and knows in time when it may have ended.
//
// The lease is renewed a third of its time after the last renewal, with whichever member answers. What is known of it
// is counted from when a renewal was sent, on the steady clock, so that a member that answers late, or a stream that
// stalls, cannot make it look alive: it is lost a margin (a fifth of its time, at most a second) before etcd can end
// it.
//
// Thread-safety: all methods. Ownership: starts one thread, `etcd-lease`. Lifetime: within its Client's; the destructor
// ends a renewal under way and waits for the thread. It does not revoke the lease, which then lives for what is left.
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
  // Called once, on the thread of the object, when the lease is lost for good: NOT_FOUND (etcd has ended it) or
  // DEADLINE_EXCEEDED (it was not renewed in time; the message says why). Must not destroy the KeepAlive. Not called
  // for the end of the object.
  using Lost = std::function<void(const absl::Status& why)>;

  // For Client::Keep.
  KeepAlive(ClusterChannel* cluster, const Lease& lease, Lost lost);
  ~KeepAlive();
  KeepAlive(const KeepAlive&) = delete;
  KeepAlive& operator=(const KeepAlive&) = delete;

  LeaseId id() const { return id_; }
  // The lease is alive until then, of SteadyNow(); later with each renewal, never earlier; InfinitePast() once it is
  // lost. Whoever must not act without the lease asks this and not the callback, whose thread may be late.
  absl::Time valid_until() const;

 private:
  absl::Status RenewOnce(absl::Time deadline);
  void Run();

  ClusterChannel* const cluster_;
  const LeaseId id_;
  const Lost lost_;
  const std::unique_ptr<Cancellation> cancellation_;
  mutable Mutex mutex_;
  absl::Time renewed_ ABSL_GUARDED_BY(mutex_);  // when the last renewal was sent
  absl::Duration ttl_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_KEEP_ALIVE_H_
