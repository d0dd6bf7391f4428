// An observer that makes a store's disk hang or slow: reads, writes and flushes of its segments wait.
#ifndef KVLINK_TESTS_SUPPORT_STUCK_IO_H_
#define KVLINK_TESTS_SUPPORT_STUCK_IO_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::testing {

// Thread-safety: all methods. Let go before the engine is closed.
class StuckIo : public engine::IoObserver {
 public:
  ~StuckIo() override { LetGo(); }

  // After so many more actions.
  void Hang(int after = 0) {
    MutexLock lock(&mutex_);
    hangs_ = true;
    left_ = after;
  }
  // Each action takes so long.
  void Slow(absl::Duration each) {
    MutexLock lock(&mutex_);
    each_ = each;
  }
  void LetGo() {
    MutexLock lock(&mutex_);
    hangs_ = false;
    changed_.SignalAll();
  }

  absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t, absl::Span<const std::byte>) override {
    Wait(path);
    return 0;
  }
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override {
    Wait(path);
    return 0;
  }
  absl::Status ReadStarted(const std::string& path, int64_t, int64_t) override {
    Wait(path);
    return absl::OkStatus();
  }
  void WriteEnded(uint64_t) override {}
  void SyncEnded(uint64_t) override {}
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string&) override {}
  void DirectoryCreated(const std::string&) override {}

 private:
  void Wait(const std::string& path) {
    if (path.find(".seg") == std::string::npos) return;
    MutexLock lock(&mutex_);
    const absl::Time until = SteadyNow() + each_;
    while (SteadyNow() < until) changed_.WaitUntil(&mutex_, until);
    if (hangs_ && left_-- > 0) return;
    while (hangs_) changed_.Wait(&mutex_);
  }

  Mutex mutex_;
  CondVar changed_;
  absl::Duration each_ ABSL_GUARDED_BY(mutex_);
  bool hangs_ ABSL_GUARDED_BY(mutex_) = false;
  int left_ ABSL_GUARDED_BY(mutex_) = 0;  // until it does
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_STUCK_IO_H_
