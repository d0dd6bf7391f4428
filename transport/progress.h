// The thread on which a transport's connections live. It runs work posted by other threads, timers, and an event source
// (e.g. a UCX worker). It polls the source for up to 300 us after the last event, unless others compete for the
// processor, and then blocks.
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

// Used by one thread.
class Timers {
 public:
  using Id = std::pair<absl::Time, uint64_t>;
  // InfiniteFuture() never fires; the returned id then names no timer.
  Id At(absl::Time when, std::function<void()> run);
  void Cancel(const Id& id) { timers_.erase(id); }
  // When the first timer is due; InfiniteFuture() if there is none.
  absl::Time next() const { return timers_.empty() ? absl::InfiniteFuture() : timers_.begin()->first.first; }
  // Runs all timers due at `now`. Returns false if there were none.
  bool Run(absl::Time now);

 private:
  std::map<Id, std::function<void()>> timers_;
  uint64_t last_ = 0;
};

// A source of events to poll. Called only by the progress thread.
class EventSource {
 public:
  virtual ~EventSource() = default;
  // Handles a bounded number of pending events. Returns false if there were none.
  virtual bool Poll() = 0;
  // Prepares to wait on fd(). Returns false if events are pending: poll again.
  virtual bool Arm() = 0;
  virtual int fd() const = 0;
};

// Thread-safety: Post, TryPost, Run and Stop from any thread; the rest only on the progress thread (in work it runs).
class ProgressThread {
 public:
  // `source` may be null; it must outlive the thread. RESOURCE_EXHAUSTED: no file descriptors.
  static absl::StatusOr<std::unique_ptr<ProgressThread>> Start(EventSource* source);
  ~ProgressThread();  // calls Stop()

  static constexpr size_t kMaxPosted = size_t{1} << 16;
  // Runs `work` on the thread, in order of the calls. On error `work` is not run, and the caller must notify anyone who
  // waits for its outcome. RESOURCE_EXHAUSTED: kMaxPosted calls are waiting. UNAVAILABLE: stopped.
  absl::Status TryPost(std::function<void()> work);
  // Like TryPost without the limit, for work that is bounded elsewhere, such as ending operations already begun.
  // Returns false after Stop.
  bool Post(std::function<void()> work);
  // Like Post, but waits until `work` has run. After Stop, `work` runs on the calling thread, which nothing else can
  // then race with. REQUIRES: not called on the progress thread.
  void Run(const std::function<void()>& work);
  // Runs everything posted, then ends the thread.
  void Stop();

  Timers& timers() { return timers_; }
  // Runs `work` after everything posted together with the current work has run.
  void Defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }
  // The time of the current round.
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

  // Progress thread only.
  Timers timers_;
  std::vector<std::function<void()>> deferred_;
  absl::Time now_ = absl::InfinitePast();

  Thread thread_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_PROGRESS_H_
