#include "transport/progress.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::transport {
namespace {

// Both ends of a pull are woken several times during it. With 50 us, a pull between two processes sharing two cores
// loses a tenth of its bandwidth. An idle connection has an event only every few seconds.
constexpr absl::Duration kSpin = absl::Microseconds(300);
// A yield that took this long gave the processor to a busy thread; polling then stops for a while.
constexpr absl::Duration kCrowded = absl::Microseconds(1500), kCrowdedFor = absl::Milliseconds(20);

}  // namespace

Timers::Id Timers::At(absl::Time when, std::function<void()> run) {
  const Id id(when, ++last_);
  if (when != absl::InfiniteFuture()) timers_.emplace(id, std::move(run));
  return id;
}

bool Timers::Run(absl::Time now) {
  bool any = false;
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    const auto run = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    run();
    any = true;
  }
  return any;
}

absl::StatusOr<std::unique_ptr<ProgressThread>> ProgressThread::Start(EventSource* source) {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  epoll_event interest = {};
  interest.events = EPOLLIN;
  if (epoll >= 0 && event >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest) == 0 &&
      (source == nullptr || epoll_ctl(epoll, EPOLL_CTL_ADD, source->fd(), &interest) == 0)) {
    return std::unique_ptr<ProgressThread>(new ProgressThread(source, epoll, event));
  }
  const int error = errno;
  if (epoll >= 0) close(epoll);
  if (event >= 0) close(event);
  return absl::ResourceExhaustedError(absl::StrCat("transport: cannot wait for events: ", std::strerror(error)));
}

ProgressThread::ProgressThread(EventSource* source, int epoll, int event)
    : source_(source), epoll_(epoll), event_(event), thread_("progress", [this] { Loop(); }) {}

ProgressThread::~ProgressThread() {
  Stop();
  close(epoll_);
  close(event_);
}

void ProgressThread::Stop() {
  Post(nullptr);
  thread_.Join();
}

bool ProgressThread::Post(std::function<void()> work) {
  return Enqueue(std::move(work), std::numeric_limits<size_t>::max()).ok();
}

absl::Status ProgressThread::TryPost(std::function<void()> work) { return Enqueue(std::move(work), kMaxPosted); }

absl::Status ProgressThread::Enqueue(std::function<void()> work, size_t max_posted) {
  bool wake = false;
  {
    MutexLock lock(&mutex_);
    if (stop_) return absl::UnavailableError("the transport has ended");
    if (posted_.size() >= max_posted) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the transport's thread has ", posted_.size(), " calls to carry out: try again later"));
    }
    if (work == nullptr) {
      stop_ = true;
    } else {
      posted_.push_back(std::move(work));
    }
    wake = std::exchange(waiting_, false);
  }
  const uint64_t one = 1;
  if (wake) [[maybe_unused]]
    const ssize_t ignored = write(event_, &one, sizeof(one));  // cannot fail: the counter is far from its limit
  return absl::OkStatus();
}

void ProgressThread::Run(const std::function<void()>& work) {
  Mutex mutex;
  CondVar done;
  bool ran = false;
  const bool posted = Post([&] {
    work();
    MutexLock lock(&mutex);
    ran = true;
    done.Signal();
  });
  if (!posted) {
    thread_.Join();
    return work();
  }
  MutexLock lock(&mutex);
  while (!ran) done.Wait(&mutex);
}

bool ProgressThread::stopping() {
  MutexLock lock(&mutex_);
  return stop_ && posted_.empty();
}

void ProgressThread::RunAll(std::vector<std::function<void()>>* work) {
  std::vector<std::function<void()>> batch;
  batch.swap(*work);
  for (auto& run : batch) {
    run();
    run = nullptr;  // release its captures before the next one runs
  }
}

bool ProgressThread::RunPosted() {
  std::vector<std::function<void()>> posted;
  {
    MutexLock lock(&mutex_);
    posted.swap(posted_);
  }
  const bool any = !posted.empty();
  // Work deferred by the event source and by timers is older.
  while (!deferred_.empty()) RunAll(&deferred_);
  RunAll(&posted);
  while (!deferred_.empty()) RunAll(&deferred_);
  return any;
}

void ProgressThread::WaitForEvents() {
  {
    MutexLock lock(&mutex_);
    if (!posted_.empty() || stop_) return;
    waiting_ = true;
  }
  const absl::Time next = timers_.next();
  int timeout = -1;
  if (next != absl::InfiniteFuture()) {
    // Rounded up, so that the timer is due when this returns.
    timeout = static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(next - SteadyNow()) + 1, 0, 60000));
  }
  epoll_event events[2];
  epoll_wait(epoll_, events, 2, timeout);
  wakeups_.fetch_add(1, std::memory_order_relaxed);
  uint64_t count;
  [[maybe_unused]] const ssize_t ignored = read(event_, &count, sizeof(count));  // there may be none
  MutexLock lock(&mutex_);
  waiting_ = false;
}

void ProgressThread::Loop() {
  absl::Time last_event = SteadyNow(), crowded_until = absl::InfinitePast();
  for (;;) {
    now_ = SteadyNow();
    bool any = RunPosted();
    if (source_ != nullptr && source_->Poll()) any = true;
    if (timers_.Run(now_)) any = true;
    // Work deferred by callbacks must not wait for the next post.
    if (!deferred_.empty()) any = true;
    if (any) {
      last_event = now_;
      continue;
    }
    if (stopping()) return;
    if (source_ != nullptr && now_ - last_event < kSpin && now_ >= crowded_until) {
      // The thread that an event wakes may be queued on this core, and cannot run while this one polls. If yielding
      // lost the core for long, others need it: block instead of polling for kCrowdedFor.
      std::this_thread::yield();
      const absl::Time back = SteadyNow();
      if (back - now_ > kCrowded) crowded_until = back + kCrowdedFor;
      continue;
    }
    if (source_ != nullptr && !source_->Arm()) continue;
    WaitForEvents();
    last_event = SteadyNow();
  }
}

}  // namespace kvlink::transport
