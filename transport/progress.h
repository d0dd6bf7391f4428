// The thread that a transport's connections live on: work handed over by other threads, timers, and a source of events
// (a UCX worker) that is polled for up to 300 us after the last event, unless others compute on that processor, and
// then waited for.
#ifndef KVLINK_TRANSPORT_PROGRESS_H_
#define KVLINK_TRANSPORT_PROGRESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::transport {

// Of one thread.
class Timers {
 public:
  using Id = std::pair<absl::Time, uint64_t>;
  // Never for InfiniteFuture: the id then names nothing.
  Id At(absl::Time when, std::function<void()> run);
  void Cancel(const Id& id) { timers_.erase(id); }
  // When the first is due; InfiniteFuture if there is none.
  absl::Time next() const { return timers_.empty() ? absl::InfiniteFuture() : timers_.begin()->first.first; }
  // Runs what is due at `now`. False if nothing was.
  bool Run(absl::Time now);

 private:
  std::map<Id, std::function<void()>> timers_;
  uint64_t last_ = 0;
};

// A source of events to poll. Called only by the progress thread.
class EventSource {
 public:
  virtual ~EventSource() = default;
  // Handles what is there, a bounded amount. False if nothing was.
  virtual bool Poll() = 0;
  // Prepares waiting on fd(). False: there are events now, poll again.
  virtual bool Arm() = 0;
  virtual int fd() const = 0;
};

// Thread-safety: Post, Run and Stop from any thread; the rest from the progress thread (within what it runs).
class ProgressThread {
 public:
  // `source` may be null and outlives the thread. RESOURCE_EXHAUSTED: no file descriptors.
  static absl::StatusOr<std::unique_ptr<ProgressThread>> Start(EventSource* source);
  ~ProgressThread();  // as Stop

  static constexpr size_t kMaxPosted = size_t{1} << 16;
  // Runs `work` on the thread, in the order of the calls. Otherwise it is not run, and whoever waits for its outcome is
  // the caller's to tell. RESOURCE_EXHAUSTED: kMaxPosted calls wait already. UNAVAILABLE: stopped.
  absl::Status TryPost(std::function<void()> work);
  // As TryPost, for work that is bounded elsewhere: what ends operations that were begun. False after Stop.
  bool Post(std::function<void()> work);
  // As Post, and waits for its end; after Stop it runs here, where nobody else can be in it. REQUIRES: not called on
  // the thread.
  void Run(const std::function<void()>& work);
  // Runs what was posted and ends the thread.
  void Stop();

  Timers& timers() { return timers_; }
  // Runs `work` once what was posted together with the present work has run.
  void Defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }
  // The time of the present round.
  absl::Time now() const { return now_; }
  int64_t wakeups() const { return wakeups_.load(std::memory_order_relaxed); }

 private:
  ProgressThread(EventSource* source, int epoll, int event);
  void Loop();
  bool RunPosted();
  absl::Status Enqueue(std::function<void()> work, size_t max_posted);
  static void RunAll(std::vector<std::function<void()>>* work);
  void WaitForEvents();
  bool stopping();

  EventSource* const source_;
  const int epoll_, event_;
  std::atomic<int64_t> wakeups_{0};

  Mutex mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  // The thread's own.
  Timers timers_;
  std::vector<std::function<void()>> deferred_;
  absl::Time now_ = absl::InfinitePast();

  Thread thread_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_PROGRESS_H_
