// A pool whose threads spin briefly before they sleep: operations follow one another within microseconds, and waking a
// thread takes longer than many of them.
#include "kernels/cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::kernels::cpu {
namespace {

constexpr std::chrono::microseconds kSpin(50);

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Calls done() until it is true or kSpin has passed; returns whether it became true.
template <typename Done>
bool SpinUntil(Done&& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      Relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// One call of For, on its caller's stack.
struct Job {
  void (*body)(void* context, int64_t item, int thread);
  void* context;
  int64_t items;
  std::atomic<int64_t> next{0};
  int joined = 0;               // pool threads that have taken part; guarded by the pool's mutex
  std::atomic<int> working{0};  // pool threads working now

  void Work(int thread) {
    for (;;) {
      const int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) return;
      body(context, item, thread);
    }
  }
};

}  // namespace

class Threads::Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) workers_.emplace_back("cpu-pool", [this] { Serve(); });
  }
  ~Pool() {
    {
      MutexLock lock(&mutex_);
      stop_ = true;
      changes_.fetch_add(1, std::memory_order_release);
      changed_.SignalAll();
    }
    for (Thread& worker : workers_) worker.Join();
  }

  void Run(Job& job) {
    {
      MutexLock lock(&mutex_);
      jobs_.push_back(&job);
      changes_.fetch_add(1, std::memory_order_release);
      if (sleeping_ > 0) changed_.SignalAll();
    }
    job.Work(0);
    {
      MutexLock lock(&mutex_);
      jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));  // no thread joins from here on
    }
    const auto done = [&] { return job.working.load(std::memory_order_acquire) == 0; };
    while (!SpinUntil(done)) sched_yield();
  }

 private:
  void Serve() {
    uint64_t seen = 0;
    for (;;) {
      const auto changed = [&] { return changes_.load(std::memory_order_acquire) != seen; };
      SpinUntil(changed);
      Job* job = nullptr;
      int thread = 0;
      {
        MutexLock lock(&mutex_);
        while (!stop_ && !changed()) {
          ++sleeping_;
          changed_.Wait(&mutex_);
          --sleeping_;
        }
        if (stop_) return;
        seen = changes_.load(std::memory_order_relaxed);
        for (Job* candidate : jobs_) {
          if (candidate->next.load(std::memory_order_relaxed) >= candidate->items) continue;
          job = candidate;
          thread = ++job->joined;
          job->working.fetch_add(1, std::memory_order_relaxed);
          break;
        }
      }
      if (job == nullptr) continue;
      job->Work(thread);
      job->working.fetch_sub(1, std::memory_order_release);  // the job may be destroyed from here on
      seen = 0;                                              // look for another job at once
    }
  }

  Mutex mutex_;
  CondVar changed_;
  std::atomic<uint64_t> changes_{1};  // jobs added, and the end; written under mutex_
  int sleeping_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Job*> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<Thread> workers_;
};

int Threads::Available() { return AvailableProcessors(); }

Threads::Threads(int count) : count_(std::max(1, count)) {
  if (count_ > 1) pool_ = std::make_shared<Pool>(count_ - 1);
}

void Threads::Run(int64_t items, void (*body)(void* context, int64_t item, int thread), void* context) const {
  Job job{body, context, items};
  pool_->Run(job);
}

}  // namespace kvlink::kernels::cpu
