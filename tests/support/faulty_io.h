// An observer that makes the store's I/O fail as devices and kernels do: by rules for certain files, actions and
// errors, at random from a seed.
#ifndef KVLINK_TESTS_SUPPORT_FAULTY_IO_H_
#define KVLINK_TESTS_SUPPORT_FAULTY_IO_H_

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "store/engine/disk/file.h"
#include "store/engine/disk/io_observer.h"
#include "tests/support/recording_io.h"

namespace kvlink::testing {

// Thread-safety: all methods.
class FaultyIo : public engine::IoObserver {
 public:
  enum class Action : uint8_t { kOpen, kRead, kWrite, kSync };
  struct Rule {
    Action action = Action::kWrite;
    std::string path;  // a substring of it
    int error = 0;     // errno
    double chance = 1;
    int64_t times = INT64_MAX;            // how often it applies
    int64_t offset = 0, end = INT64_MAX;  // only accesses to these bytes; reads and writes
  };

  // `recording` (may be null) sees everything that does not fail, and flushes that do.
  explicit FaultyIo(uint64_t seed, RecordingIo* recording = nullptr) : recording_(recording), random_(seed) {}

  void Add(Rule rule) {
    MutexLock lock(&mutex_);
    rules_.push_back(std::move(rule));
  }
  void Heal() {
    MutexLock lock(&mutex_);
    rules_.clear();
  }
  int64_t strikes() const {
    MutexLock lock(&mutex_);
    return strikes_;
  }

  absl::Status OpenStarted(const std::string& path, bool) override {
    return Check(Action::kOpen, "open", path, 0, INT64_MAX);
  }
  absl::Status ReadStarted(const std::string& path, int64_t offset, int64_t length) override {
    return Check(Action::kRead, "read", path, offset, offset + length);
  }
  absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                        absl::Span<const std::byte> bytes) override {
    const absl::Status status =
        Check(Action::kWrite, "write", path, offset, offset + static_cast<int64_t>(bytes.size()));
    if (!status.ok()) return status;
    return recording_ != nullptr ? recording_->WriteStarted(path, offset, bytes) : absl::StatusOr<uint64_t>(0);
  }
  void WriteEnded(uint64_t write) override {
    if (recording_ != nullptr) recording_->WriteEnded(write);
  }
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override {
    const absl::Status status = Check(Action::kSync, "flush", path, 0, INT64_MAX);
    if (!status.ok() && recording_ != nullptr) recording_->SyncFailed(path);
    if (!status.ok()) return status;
    return recording_ != nullptr ? recording_->SyncStarted(path) : absl::StatusOr<uint64_t>(0);
  }
  void SyncEnded(uint64_t sync) override {
    if (recording_ != nullptr) recording_->SyncEnded(sync);
  }
  void Created(const std::string& path) override {
    if (recording_ != nullptr) recording_->Created(path);
  }
  void Resized(const std::string& path, int64_t size) override {
    if (recording_ != nullptr) recording_->Resized(path, size);
  }
  void Renamed(const std::string& from, const std::string& to) override {
    if (recording_ != nullptr) recording_->Renamed(from, to);
  }
  void Removed(const std::string& path) override {
    if (recording_ != nullptr) recording_->Removed(path);
  }
  void DirectoryCreated(const std::string& path) override {
    if (recording_ != nullptr) recording_->DirectoryCreated(path);
  }

 private:
  absl::Status Check(Action action, const char* name, const std::string& path, int64_t offset, int64_t end) {
    MutexLock lock(&mutex_);
    for (Rule& rule : rules_) {
      if (rule.action != action || path.find(rule.path) == std::string::npos || rule.times == 0) continue;
      if (end <= rule.offset || offset >= rule.end) continue;
      if (rule.chance < 1 && std::uniform_real_distribution<double>(0, 1)(random_) >= rule.chance) continue;
      --rule.times;
      ++strikes_;
      return engine::ErrnoStatus(rule.error, name, path + " (injected)");
    }
    return absl::OkStatus();
  }

  RecordingIo* const recording_;
  mutable Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::vector<Rule> rules_ ABSL_GUARDED_BY(mutex_);
  int64_t strikes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_FAULTY_IO_H_
