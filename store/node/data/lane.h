// A bounded queue of work with threads of its own. A node has two: serving (what a reader waits for), and indexing
// (what fills the store), whose threads give way to others where processors are short.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_DATA_LANE_H_
#define KVLINK_STORE_NODE_DATA_LANE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::store {

class Lane {
 public:
  struct Options {
    std::string name;
    int threads = 2;
    int max_queued = 1024;
    int64_t max_queued_bytes = int64_t{64} << 20;
    int nice = 0;  // of its threads, added to the process's
  };
  // Called once, on a thread of the lane: OK, or DEADLINE_EXCEEDED (its turn came too late), or UNAVAILABLE (the lane
  // was stopped first; then perhaps on the thread that stops it).
  using Work = std::function<void(const absl::Status&)>;

  explicit Lane(const Options& options);
  ~Lane() { Stop(); }

  // `bytes` is what the work holds while it waits. RESOURCE_EXHAUSTED: the queue is full; UNAVAILABLE: stopped; `work`
  // then is not called.
  absl::Status Add(absl::Time deadline, int64_t bytes, Work work);
  // Also when the queue is full: for what is counted and limited elsewhere.
  absl::Status AddAdmitted(absl::Time deadline, Work work);
  // Ends what runs, refuses what waits.
  void Stop();

  int64_t queued() const;
  const std::string& name() const { return options_.name; }

 private:
  struct Item {
    absl::Time deadline;
    int64_t bytes;
    Work work;
  };
  absl::Status Queue(absl::Time deadline, int64_t bytes, Work work, bool admitted);
  void Loop();

  const Options options_;
  mutable Mutex mutex_;
  CondVar wake_;
  std::deque<Item> items_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Thread> threads_;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_DATA_LANE_H_
