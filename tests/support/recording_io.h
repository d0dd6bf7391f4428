// Records what a store does to its files, and rebuilds the states that a power loss at any moment could have left.
//
// The rules of a legal state. A write is durable if a flush of its file began after the write ended and ended before
// the moment, with no failed flush between. Any other write may be present, lost, or partly present, in sectors of 512
// bytes. Creating, renaming and removing become durable with a flush of their directory; of the unflushed changes to
// each directory, a prefix is present. Sizes follow the writes and flushes that set them.
//
// Thread-safety: recording is thread-safe; Rebuild only while nothing records.
#ifndef KVLINK_TESTS_SUPPORT_RECORDING_IO_H_
#define KVLINK_TESTS_SUPPORT_RECORDING_IO_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::testing {

class RecordingIo : public engine::IoObserver {
 public:
  // Records paths below `root`, relative to it; `root` itself must exist.
  explicit RecordingIo(std::string root) : root_(std::move(root)) {}

  absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                        absl::Span<const std::byte> bytes) override;
  void WriteEnded(uint64_t write) override;
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override;
  void SyncEnded(uint64_t sync) override;
  // A flush of a file failed: writes not flushed before are lost, whatever later flushes report.
  void SyncFailed(const std::string& path);
  void Created(const std::string& path) override;
  void Resized(const std::string& path, int64_t size) override;
  void Renamed(const std::string& from, const std::string& to) override;
  void Removed(const std::string& path) override;
  void DirectoryCreated(const std::string& path) override;

  // The number of events so far: a moment, for Rebuild and for noting when something was promised.
  int64_t Now() const;
  // Creates in `directory` (empty) the state after a power loss at `moment`; `seed` chooses among the legal states.
  void Rebuild(int64_t moment, uint64_t seed, const std::string& directory) const;

 private:
  enum class Kind : uint8_t { kWrite, kSync, kSyncFailed, kCreate, kResize, kRename, kRemove, kMakeDirectory };
  struct Event {
    Kind kind;
    std::string path;
    std::string to;
    int64_t offset = 0;  // or size
    std::string bytes;
    int64_t started = 0;  // moments
    int64_t ended = INT64_MAX;
  };
  int64_t Append(Event event);
  std::string Relative(const std::string& path) const;

  const std::string root_;
  mutable Mutex mutex_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  int64_t now_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_RECORDING_IO_H_
