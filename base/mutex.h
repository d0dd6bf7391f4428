// An annotated mutex and condition variable over std::mutex, used by all our code.
//
// Why not absl::Mutex: the packaged Abseil is not instrumented, so ThreadSanitizer reports races in correct code.
// clang checks the annotations (-Werror=thread-safety, `make annotations`); gcc ignores them.
// Thread-safety: as std::mutex. Lifetime: a MutexLock must not outlive its Mutex.
#ifndef KVLINK_BASE_MUTEX_H_
#define KVLINK_BASE_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace kvlink {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  // Tells the analysis that the caller holds the lock where it cannot see that (in a callback that runs under the
  // lock).
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// A MutexLock that may be released and reacquired before its scope ends. However the scope is left, the mutex is
// unlocked exactly once.
class ABSL_SCOPED_LOCKABLE ReleasableMutexLock {
 public:
  explicit ReleasableMutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~ReleasableMutexLock() ABSL_UNLOCK_FUNCTION() {
    if (held_) mutex_->Unlock();
  }
  ReleasableMutexLock(const ReleasableMutexLock&) = delete;
  ReleasableMutexLock& operator=(const ReleasableMutexLock&) = delete;

  // REQUIRES: the lock is held.
  void Release() ABSL_UNLOCK_FUNCTION() {
    held_ = false;
    mutex_->Unlock();
  }
  // REQUIRES: the lock was released.
  void Reacquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_->Lock();
    held_ = true;
  }

 private:
  Mutex* const mutex_;
  bool held_ = true;
};

class CondVar {
 public:
  // Releases `mutex`, waits for a signal (or wakes spuriously), and reacquires it.
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Like Wait, but returns at `deadline` (a SteadyNow() time). Returns false if the deadline has passed; the awaited
  // condition may hold nevertheless.
  bool WaitUntil(Mutex* mutex, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    std::cv_status status = std::cv_status::no_timeout;
    if (deadline == absl::InfiniteFuture()) {
      condition_.wait(lock);
    } else {
      status = condition_.wait_until(lock, ToSteadyClock(deadline));
    }
    lock.release();
    return status == std::cv_status::no_timeout || SteadyNow() < deadline;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace kvlink

#endif  // KVLINK_BASE_MUTEX_H_
