// An observer that makes the store's I/O fail on purpose.
#ifndef KVLINK_TESTS_STORE_FAILING_IO_H_
#define KVLINK_TESTS_STORE_FAILING_IO_H_

#include <atomic>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::testing {

// Fails writes and creations of files whose path contains a given word.
class FailingIo : public engine::IoObserver {
 public:
  absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t, absl::Span<const std::byte>) override {
    return Check(path, write_failure);
  }
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override { return Check(path, sync_failure); }
  absl::Status ReadStarted(const std::string& path, int64_t, int64_t) override {
    return Check(path, read_failure).status();
  }
  void WriteEnded(uint64_t) override {}
  void SyncEnded(uint64_t) override {}
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string& path) override {
    if (space_comes_back && path.find("reserve") != std::string::npos) Fail("", nullptr);
  }
  void DirectoryCreated(const std::string&) override {}

  enum Which { kWrite, kSync, kRead };
  void Fail(std::string word, absl::Status (*write)(), absl::Status (*sync)() = nullptr,
            absl::Status (*read)() = nullptr) {
    MutexLock lock(&mutex_);
    word_ = std::move(word);
    write_failure = write;
    sync_failure = sync;
    read_failure = read;
  }
  std::atomic<bool> space_comes_back{false};

 private:
  using Failure = absl::Status (*)();
  absl::StatusOr<uint64_t> Check(const std::string& path, const std::atomic<Failure>& failure) {
    MutexLock lock(&mutex_);
    if (failure != nullptr && path.find(word_) != std::string::npos) return failure.load()();
    return 0;
  }
  std::atomic<Failure> write_failure{nullptr}, sync_failure{nullptr}, read_failure{nullptr};
  Mutex mutex_;
  std::string word_;
};

inline absl::Status NoSpace() { return absl::ResourceExhaustedError("no space left (injected)"); }
inline absl::Status Broken() { return absl::DataLossError("input/output error (injected)"); }

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_FAILING_IO_H_
