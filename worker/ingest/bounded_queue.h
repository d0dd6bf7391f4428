// A queue between threads that limits the total weight (bytes, tokens) of its items.
// Thread-safety: all methods.
#ifndef KVLINK_WORKER_INGEST_BOUNDED_QUEUE_H_
#define KVLINK_WORKER_INGEST_BOUNDED_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace kvlink::ingest {

template <typename T>
class BoundedQueue {
 public:
  // `patience`: how long a push waits for space.
  BoundedQueue(int64_t limit, absl::Duration patience) : limit_(limit), patience_(patience) {}

  // Waits until the weight fits (an empty queue accepts an item heavier than the limit). CANCELLED after Close;
  // DEADLINE_EXCEEDED if no space becomes free within the patience.
  absl::Status Push(T item, int64_t weight) {
    const absl::Time deadline = SteadyNow() + patience_;
    MutexLock lock(&mutex_);
    while (!closed_ && !items_.empty() && weight_ + weight > limit_) {
      if (!room_.WaitUntil(&mutex_, deadline)) {
        return absl::DeadlineExceededError(
            absl::StrCat("the next stage took nothing for ", absl::FormatDuration(patience_)));
      }
    }
    if (closed_) return absl::CancelledError("the queue was closed");
    items_.emplace_back(std::move(item), weight);
    weight_ += weight;
    if (items_.size() == 1 || weight_ >= wanted_) filled_.Signal();
    return absl::OkStatus();
  }

  // Waits for at least one item, then up to `linger` for `weight` to accumulate, so that items are taken in batches.
  // Takes items up to `weight`, at least one. Empty if the queue was finished and is drained, or was closed. With
  // `linger`, the caller must be the only consumer.
  std::vector<T> Pop(int64_t weight, absl::Duration linger = absl::ZeroDuration()) {
    std::vector<T> taken;
    MutexLock lock(&mutex_);
    while (!closed_ && !finished_ && items_.empty()) filled_.Wait(&mutex_);
    if (linger > absl::ZeroDuration()) {
      const absl::Time until = SteadyNow() + linger;
      wanted_ = std::min(weight, limit_ / 2);
      while (!closed_ && !finished_ && weight_ < wanted_ && filled_.WaitUntil(&mutex_, until)) {
      }
      wanted_ = 0;
    }
    if (closed_) return taken;
    int64_t total = 0;
    while (!items_.empty() && (taken.empty() || total + items_.front().second <= weight)) {
      total += items_.front().second;
      weight_ -= items_.front().second;
      taken.push_back(std::move(items_.front().first));
      items_.pop_front();
    }
    room_.SignalAll();
    return taken;
  }

  // No more pushes follow; queued items are still taken.
  void Finish() {
    MutexLock lock(&mutex_);
    finished_ = true;
    filled_.SignalAll();
    room_.SignalAll();
  }
  // Stops producers and consumers; queued items are dropped.
  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
    items_.clear();
    filled_.SignalAll();
    room_.SignalAll();
  }

 private:
  const int64_t limit_;
  const absl::Duration patience_;
  Mutex mutex_;
  CondVar room_;
  CondVar filled_;
  std::deque<std::pair<T, int64_t>> items_ ABSL_GUARDED_BY(mutex_);
  int64_t weight_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;  // a lingering consumer needs no signal below this weight
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_BOUNDED_QUEUE_H_
