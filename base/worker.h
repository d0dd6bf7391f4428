// A bounded work queue with named threads: the only thread-and-queue loop in the project.
//
// Each task belongs to an owner (a tenant; empty if there is only one). Owners share the threads fairly by the time
// their tasks have used: of the owners with waiting tasks, the one with the fewest running is served next, and among
// equals the one that has used the least time. An owner with a thousand waiting tasks delays an owner with one by no
// more than the tasks already running.
//
// Thread-safety: all methods. Lifetime: the destructor calls Stop(); everything the tasks use must outlive it.
#ifndef KVLINK_BASE_WORKER_H_
#define KVLINK_BASE_WORKER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink {

class Worker {
 public:
  struct Options {
    std::string name;  // of the threads, and in messages; Linux shows 15 characters
    int threads = 1;
    int max_queued = 1024;
    int64_t max_queued_bytes = int64_t{64} << 20;
    int nice = 0;  // added to the process's niceness, for these threads
  };
  // Called exactly once, on a worker thread, with OK, DEADLINE_EXCEEDED (its turn came too late) or UNAVAILABLE (the
  // worker was stopped first; this call may come on the thread that calls Stop).
  using Work = std::function<void(const absl::Status& turn)>;
  struct Task {
    Work work;
    absl::Time deadline = absl::InfiniteFuture();  // by which it must begin, in SteadyNow() time
    int64_t bytes = 0;                             // held while it waits
    std::string owner;
  };

  // Throws, as std::thread does, if the system cannot create a thread.
  explicit Worker(const Options& options);
  ~Worker() { Stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Queues a task. RESOURCE_EXHAUSTED: the queue is full. UNAVAILABLE: stopped or finished. On error, the work is not
  // called.
  absl::Status Add(Task task);
  // Like Add, but waits for room until `deadline`. DEADLINE_EXCEEDED: the queue stayed full. Must not be called on a
  // worker thread.
  absl::Status AddWhenRoom(Task task, absl::Time deadline);
  // Like Add, but accepts the task even if the queue is full. For work that is limited elsewhere.
  absl::Status AddAdmitted(Task task);

  // Accepts no more tasks, runs those that wait, and joins the threads. Must not be called on a worker thread.
  void Finish();
  // Accepts no more tasks, lets running ones finish, calls waiting ones with UNAVAILABLE, and joins the threads. Must
  // not be called on a worker thread.
  void Stop();

  int64_t queued() const;
  const std::string& name() const { return options_.name; }

 private:
  struct Owner {
    std::deque<Task> tasks;
    int running = 0;
    absl::Duration used;  // time its tasks used, starting from floor_ when it arrived
  };
  using Owners = std::map<std::string, Owner>;

  bool HasRoom(const Task& task) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Closed() const;
  absl::Status Full() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns the owner to serve next, or null if no task waits.
  Owners::pointer Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop();
  void Join();

  const Options options_;
  mutable Mutex mutex_;
  CondVar wake_, room_;
  Owners owners_ ABSL_GUARDED_BY(mutex_);         // with waiting or running tasks
  absl::Duration floor_ ABSL_GUARDED_BY(mutex_);  // time used by the owner served last; new owners start here
  int64_t queued_ ABSL_GUARDED_BY(mutex_) = 0, bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;  // serialises Finish and Stop
  std::vector<Thread> threads_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace kvlink

#endif  // KVLINK_BASE_WORKER_H_
