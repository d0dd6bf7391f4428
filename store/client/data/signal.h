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

  // There is work to do. Notifies the Arrivals once until the next Wait that returns true.
  void Raise() {
    MutexLock lock(&mutex_);
    if (std::exchange(raised_, true)) return;
    changed_.SignalAll();
    if (notify_.arrivals != nullptr) notify_.arrivals->Add(notify_.tag);
  }
  // Stops notifying the Arrivals.
  void Mute() {
    MutexLock lock(&mutex_);
    notify_.arrivals = nullptr;
  }
  // Waits until the signal was raised since the last call that returned true. Returns false at `deadline`.
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
