// Runs short tasks when due, on one thread for all nodes of a client: renewals of sessions and leases, retries, release
// of idle resources.
//
// Thread-safety: all methods. Lifetime: alarms must be destroyed before their timer.
#ifndef KVLINK_STORE_CLIENT_CONTROL_TIMER_H_
#define KVLINK_STORE_CLIENT_CONTROL_TIMER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::store::client {

class Timer {
 public:
  Timer();
  ~Timer();

 private:
  friend class Alarm;
  using Work = std::function<absl::Time()>;
  struct Entry {
    std::shared_ptr<const Work> work;
    absl::Time when = absl::InfiniteFuture();
  };
  void SetWhen(uint64_t id, Entry* entry, absl::Time when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop();

  Mutex mutex_;
  CondVar changed_, done_;
  std::map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Time, uint64_t>> order_ ABSL_GUARDED_BY(mutex_);  // of the entries that are set
  uint64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: none
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

// Work that a timer runs when due, never concurrently with itself.
class Alarm {
 public:
  // Initially not set. `work` must not block; it returns when it is next due, or InfiniteFuture() to wait for Set.
  Alarm(Timer* timer, std::function<absl::Time()> work);
  // After this, the work does not run again. Waits for it to finish, except when called from the work itself, so the
  // caller must hold no lock that the work takes.
  ~Alarm();
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // Makes the alarm due at `when`, or earlier if an earlier time was set while the work runs.
  void Set(absl::Time when);

 private:
  Timer* const timer_;
  uint64_t id_ = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_TIMER_H_
