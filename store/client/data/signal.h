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

  // There is something to do. Arrivals hear of it once, until somebody has waited.
  void Raise() {
    MutexLock lock(&mutex_);
    if (std::exchange(raised_, true)) return;
    changed_.SignalAll();
    if (notify_.arrivals != nullptr) notify_.arrivals->Add(notify_.tag);
  }
  // Arrivals hear no more of it.
  void Mute() {
    MutexLock lock(&mutex_);
    notify_.arrivals = nullptr;
  }
  // Until it was raised since the last call that returned true. False: not by `deadline`.
  bool Wait(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!raised_) {
      if (!changed_.WaitUntil(&mutex_, deadline) && !raised_) return false;
    }
    raised_ = false;
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  Notify notify_ ABSL_GUARDED_BY(mutex_);
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_SIGNAL_H_
