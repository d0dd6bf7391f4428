// The segment files: zero-filled, of one size, in 64 KiB blocks (docs/formats.md "Segment file"). Block 0 of each is
// its header. Thread-safety: all methods.
#ifndef KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_
#define KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "store/engine/disk/file.h"
#include "store/engine/disk/location.h"
#include "store/engine/disk/store_directory.h"

namespace kvlink::engine {

class SegmentFiles {
 public:
  struct Options {
    std::string path;
    Uuid uuid{};
    int64_t segment_bytes = 0;
    bool allow_direct = true;
    bool read_only = false;
    bool sparse = false;  // new segments are holes: for measurements that need many
  };
  // Opens what is there; what a crash left half made is removed. FAILED_PRECONDITION: a segment of another store. A
  // damaged header is a problem to report, no more: what lies behind it has checksums of its own.
  static absl::StatusOr<std::unique_ptr<SegmentFiles>> Open(const FileSystem& files, const Options& options);

  // Adds a segment, zero-filled and durable, and returns its free blocks. RESOURCE_EXHAUSTED: the disk is full (nothing
  // is left behind).
  absl::StatusOr<Run> Grow();

  // The blocks that may hold encodings, segment by segment.
  std::vector<Run> UsableRuns() const;
  int64_t bytes() const;
  int64_t segment_bytes() const { return options_.segment_bytes; }
  bool direct() const { return direct_; }
  const std::vector<std::string>& problems() const { return problems_; }

  // The file and offset of a block. Null if there is no such segment.
  File* Locate(uint32_t block, int64_t* offset) const;
  // Flushes the segments these runs lie in.
  absl::Status Sync(absl::Span<const Runs> written);

 private:
  SegmentFiles(const FileSystem& files, const Options& options) : files_(files), options_(options) {}
  uint32_t blocks_per_segment() const { return static_cast<uint32_t>(options_.segment_bytes / kSegmentBlockBytes); }
  std::string PathOf(uint32_t number) const;
  absl::Status OpenExisting();
  absl::Status CheckHeader(uint32_t number, const File& file);
  absl::Status Fill(uint32_t number, File* file) const;

  const FileSystem files_;
  const Options options_;
  bool direct_ = true;
  std::vector<std::string> problems_;
  Mutex grow_mutex_;  // taken before mutex_
  mutable Mutex mutex_;
  std::map<uint32_t, std::unique_ptr<File>> segments_ ABSL_GUARDED_BY(mutex_);  // never removed from
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_
