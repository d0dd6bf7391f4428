// Tells threads that they should end, and wakes those that pause.
//
// Thread-safety: all methods. Lifetime: must outlive the waits.
#ifndef KVLINK_BASE_STOPPING_H_
#define KVLINK_BASE_STOPPING_H_

#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink {

class Stopping {
 public:
  // Permanent: present and later waits return at once.
  void Begin() {
    MutexLock lock(&mutex_);
    begun_ = true;
    wake_.SignalAll();
  }
  bool begun() const {
    MutexLock lock(&mutex_);
    return begun_;
  }
  // Waits until `time`, a SteadyNow() time. Returns false if the threads should end.
  bool WaitUntil(absl::Time time) const {
    MutexLock lock(&mutex_);
    while (!begun_ && wake_.WaitUntil(&mutex_, time)) {
    }
    return !begun_;
  }

 private:
  mutable Mutex mutex_;
  mutable CondVar wake_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink

#endif  // KVLINK_BASE_STOPPING_H_
