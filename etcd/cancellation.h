// Interrupts a thread of ours that waits for etcd.
// Thread-safety: all methods. Lifetime: must outlive the waits and calls it is passed to.
#ifndef KVLINK_ETCD_CANCELLATION_H_
#define KVLINK_ETCD_CANCELLATION_H_

#include <grpcpp/client_context.h>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace kvlink::etcd {

class Cancellation {
 public:
  // Permanent: cancels the call in progress, and makes current and later waits return at once.
  void Cancel() {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    if (context_ != nullptr) context_->TryCancel();
    changed_.SignalAll();
  }
  bool cancelled() const {
    MutexLock lock(&mutex_);
    return cancelled_;
  }
  // Waits until `until`, a SteadyNow() time. Returns false if cancelled.
  bool SleepUntil(absl::Time until) {
    MutexLock lock(&mutex_);
    while (!cancelled_ && SteadyNow() < until) changed_.WaitUntil(&mutex_, until);
    return !cancelled_;
  }

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
    if (cancelled_ && context_ != nullptr) context_->TryCancel();
  }

  mutable Mutex mutex_;
  CondVar changed_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CANCELLATION_H_
