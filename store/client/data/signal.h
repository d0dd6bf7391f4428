// Wakes the thread waiting for a pending request, and notifies the request's Arrivals, when the request needs
// attention.
//
// Thread-safety: all methods. Called on carriers' threads under their callers' locks, so it takes no locks but its own.
#ifndef KVLINK_STORE_CLIENT_DATA_SIGNAL_H_
#define KVLINK_STORE_CLIENT_DATA_SIGNAL_H_

#include <utility>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/client/pending.h"

namespace kvlink::store::client {

class Signal {
 public:
  explicit Signal(Notify notify) : notify_(std::move(notify)) {}

  // One more answer is awaited.
  void Expect() {
    MutexLock lock(&mutex_);
    ++awaited_;
  }
  // An answer has come, or never will. The last one notifies the Arrivals.
  void Answered() {
    MutexLock lock(&mutex_);
    raised_ = true;
    changed_.SignalAll();
    if (--awaited_ == 0) Tell();
  }
  // There is work to do.
  void Raise() {
    MutexLock lock(&mutex_);
    raised_ = true;
    changed_.SignalAll();
    Tell();
  }
  // Stops notifying the Arrivals.
  void Mute() {
    MutexLock lock(&mutex_);
    notify_.arrivals = nullptr;
  }
  // Waits until the signal was raised or answered since the last call that returned true. Returns false at `deadline`.
  bool Wait(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!raised_) {
      if (!changed_.WaitUntil(&mutex_, deadline) && !raised_) return false;
    }
    raised_ = false;
    return true;
  }

 private:
  void Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (notify_.arrivals != nullptr) notify_.arrivals->Add(notify_.tag);
  }

  Mutex mutex_;
  CondVar changed_;
  Notify notify_ ABSL_GUARDED_BY(mutex_);
  int awaited_ ABSL_GUARDED_BY(mutex_) = 0;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_SIGNAL_H_
