// Interrupts a thread of ours that waits for etcd.
// Thread-safety: all methods. Lifetime: must outlive the waits and calls it is passed to.
#ifndef KVLINK_ETCD_CANCELLATION_H_
#define KVLINK_ETCD_CANCELLATION_H_

#include <grpcpp/client_context.h>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/stopping.h"

namespace kvlink::etcd {

class Cancellation {
 public:
  // Permanent: cancels the call in progress, and makes current and later waits return at once.
  void Cancel() {
    stopping_.Begin();
    MutexLock lock(&mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }
  bool cancelled() const { return stopping_.begun(); }
  // Waits until `until`, a SteadyNow() time. Returns false if cancelled.
  bool SleepUntil(absl::Time until) const { return stopping_.WaitUntil(until); }

  // Makes Cancel() cancel one call while this object lives. One call at a time.
  class Scope {
   public:
    // `cancellation` may be null.
    Scope(Cancellation* cancellation, grpc::ClientContext* context) : cancellation_(cancellation) {
      if (cancellation_ != nullptr) cancellation_->Set(context);
    }
    ~Scope() {
      if (cancellation_ != nullptr) cancellation_->Set(nullptr);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Cancellation* const cancellation_;
  };

 private:
  void Set(grpc::ClientContext* context) {
    MutexLock lock(&mutex_);
    context_ = context;
    // A call that has not started yet is cancelled when it starts.
    if (cancelled() && context_ != nullptr) context_->TryCancel();
  }

  Stopping stopping_;
  Mutex mutex_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CANCELLATION_H_
