// Wakes whoever waits for a pending request, and tells its Arrivals, when there is something to do for it.
//
// Thread-safety: all methods; called by carriers' threads, under their callers' locks: it takes none but its own.
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
  // It has come, or never will. Arrivals hear of the last.
  void Answered() {
    MutexLock lock(&mutex_);
    raised_ = true;
    changed_.SignalAll();
    if (--awaited_ == 0) Tell();
  }
  // There is something to do.
  void Raise() {
    MutexLock lock(&mutex_);
    raised_ = true;
    changed_.SignalAll();
    Tell();
  }
  // Arrivals hear no more of it.
  void Mute() {
    MutexLock lock(&mutex_);
    notify_.arrivals = nullptr;
  }
  // Until it was raised, or answered, since the last call that returned true. False: not by `deadline`.
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
