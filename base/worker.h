// A bounded queue of work and the named threads that carry it out: the one thread-and-queue loop of the project.
//
// Work belongs to an owner (a tenant; empty where there is only one). Owners share the threads fairly, by the time that
// their work has taken: of those whose work waits, the one with the fewest threads is served next, and among equals the
// one that has used the least time. Who waits with a thousand requests does not delay who waits with one by more than
// what is running.
//
// Thread-safety: all methods. Lifetime: the destructor stops it; what the work uses outlives that.
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
    std::string name;  // of the threads and in messages; Linux shows 15 characters
    int threads = 1;
    int max_queued = 1024;
    int64_t max_queued_bytes = int64_t{64} << 20;
    int nice = 0;  // of its threads, added to the process's
  };
  // Called once, on a thread of the worker: OK, or DEADLINE_EXCEEDED (its turn came too late), or UNAVAILABLE (the
  // worker was stopped first; then perhaps on the thread that stops it).
  using Work = std::function<void(const absl::Status& turn)>;
  struct Task {
    Work work;
    absl::Time deadline = absl::InfiniteFuture();  // to begin by, of SteadyNow()
    int64_t bytes = 0;                             // that it holds while it waits
    std::string owner;
  };

  // Throws as std::thread does where the system has no more threads.
  explicit Worker(const Options& options);
  ~Worker() { Stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // RESOURCE_EXHAUSTED: the queue is full; UNAVAILABLE: stopped or finished. The work then is not called.
  absl::Status Add(Task task);
  // As Add, but waits for room until `deadline`; DEADLINE_EXCEEDED: there was none. Not from the worker's own threads.
  absl::Status AddWhenRoom(Task task, absl::Time deadline);
  // As Add, also when the queue is full: for what is counted and limited elsewhere.
  absl::Status AddAdmitted(Task task);

  // Takes no more work, carries out what waits, and joins the threads. Not from the worker's own threads.
  void Finish();
  // Takes no more work, lets end what runs, refuses what waits, and joins the threads. Not from the worker's own
  // threads.
  void Stop();

  int64_t queued() const;
  const std::string& name() const { return options_.name; }

 private:
  struct Owner {
    std::deque<Task> tasks;
    int running = 0;
    absl::Duration used;  // by its work, from the time of those that it found when it came
  };
  using Owners = std::map<std::string, Owner>;

  bool HasRoom(const Task& task) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Closed() const;
  absl::Status Full() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The owner whose turn it is. Null: nothing waits.
  Owners::pointer Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop();
  void Join();

  const Options options_;
  mutable Mutex mutex_;
  CondVar wake_, room_;
  Owners owners_ ABSL_GUARDED_BY(mutex_);         // with work that waits or runs
  absl::Duration floor_ ABSL_GUARDED_BY(mutex_);  // that the latest one served had used: where newcomers begin
  int64_t queued_ ABSL_GUARDED_BY(mutex_) = 0, bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;  // of those who end it
  std::vector<Thread> threads_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace kvlink

#endif  // KVLINK_BASE_WORKER_H_
