// The segment files, made of 64 KiB blocks and zero-filled piece by piece up to a fixed size (docs/formats.md "Segment
// file"). Block 0 of each is its header. A store may have more segments than a process may have descriptors, so only
// the most recently used files stay open; others are reopened on demand.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_
#define KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
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
    int64_t piece_bytes = 0;  // of new segments; at least two blocks; 0: 256 MiB, or the segment size if smaller
    bool allow_direct = true;
    bool read_only = false;
    bool sparse = false;   // new segments are sparse; for measurements that need many
    int64_t max_open = 0;  // files kept open while unused; 0: a quarter of the descriptor limit, at most 1024
  };
  // Finds the existing segments and checks every header. Removes a file that a crash left half made, and ignores half a
  // piece until the file grows. FAILED_PRECONDITION: a segment belongs to another store, or may not be opened.
  // UNAVAILABLE: out of descriptors or memory. A header that is unreadable or damaged is only a problem to report: the
  // contents after it have checksums of their own, but nothing may be added to that segment.
  static absl::StatusOr<std::unique_ptr<SegmentFiles>> Open(const FileSystem& files, const Options& options);

  struct Grown {
    Run usable;
    std::vector<Run> bad;  // blocks of `usable` that could not be written
  };
  // Adds a zero-filled, durable piece: to a segment that is not full-sized yet, or as the first of a new segment. If
  // the device or the file system refuses, tries another file before returning an error. RESOURCE_EXHAUSTED: the disk
  // is full. Errors leave nothing behind, except that a failed flush is remembered as described at Sync.
  absl::StatusOr<Grown> Grow();
  // Adds no more pieces to the segment.
  void StopGrowing(uint32_t segment);
  // Removes a segment that holds nothing. Reads in progress from it still complete.
  absl::Status Remove(uint32_t segment);

  // The runs of blocks that may hold encodings, segment by segment, and their number of blocks.
  std::vector<Run> UsableRuns() const;
  int64_t usable_blocks() const;
  int64_t bytes() const;
  int64_t segment_bytes() const { return options_.segment_bytes; }
  // The size by which new segments grow.
  int64_t piece_bytes() const { return piece_bytes_; }
  uint32_t blocks_per_segment() const { return static_cast<uint32_t>(options_.segment_bytes / kSegmentBlockBytes); }
  bool direct() const { return direct_; }
  const std::vector<std::string>& problems() const { return problems_; }
  // Segments whose header could not be read: their contents are readable, but their piece size is unknown.
  const std::vector<uint32_t>& unreadable() const { return unreadable_; }
  // Number of files open now.
  int64_t open_files() const;

  uint32_t SegmentOf(uint32_t block) const { return block / blocks_per_segment(); }
  // All blocks of a segment that may ever hold encodings.
  Run WholeRun(uint32_t segment) const { return {segment * blocks_per_segment() + 1, blocks_per_segment() - 1}; }
  std::string PathOf(uint32_t segment) const;

  // Returns the file that holds a block, and the block's offset in it. NOT_FOUND: no such segment; otherwise the errors
  // of FileSystem::Open. The file stays open as long as the pointer lives.
  absl::StatusOr<std::shared_ptr<File>> Locate(uint32_t block, int64_t* offset);
  // Flushes a segment, one flush at a time. A failed flush may have dropped earlier writes, and a later flush would not
  // report that. So the first error is returned by all further calls too, until the store is reopened.
  absl::Status Sync(uint32_t segment);

 private:
  // The kernel reports a device failure to only one of the concurrent flushes and to none after it, yet all must see
  // it.
  struct Flushes {
    Mutex mutex;          // held during each flush; taken before mutex_
    absl::Status failed;  // the first failure; guarded by SegmentFiles::mutex_
  };
  struct Segment {
    int64_t bytes = 0;                     // filled so far: the file's length
    int64_t piece_bytes = 0;               // of this segment
    bool grows = true;                     // up to its full size
    std::weak_ptr<File> file;              // set while the file is in use
    std::list<uint32_t>::iterator recent;  // position in recent_, if `kept`
    std::shared_ptr<File> kept;
    std::shared_ptr<Flushes> flushes = std::make_shared<Flushes>();
  };

  SegmentFiles(const FileSystem& files, const Options& options);
  absl::Status OpenExisting();
  // Returns the segment's piece size from its header, or nullopt if the header is unreadable or damaged.
  absl::StatusOr<std::optional<int64_t>> CheckHeader(uint32_t number, const File& file);
  // Determines how much of the file is filled.
  absl::StatusOr<Segment> Examine(uint32_t number, File* file);
  // Tries once to add segment `number` by way of a temporary file, which remains on error. Returns the blocks that
  // cannot be written; DATA_LOSS if that is all of them.
  absl::StatusOr<std::vector<Run>> Make(uint32_t number, const std::string& temporary);
  absl::Status WriteHeader(uint32_t number, File* file) const;
  // Tries once to add bytes [from, to) to segment `number`, overwriting anything a crash left there. Returns as Make.
  absl::StatusOr<std::vector<Run>> Extend(uint32_t number, File* file, Flushes* flushes, int64_t from, int64_t to);
  // Fills and flushes blocks. Appends those that cannot be written to `bad`; any other failure is an error.
  absl::Status Zero(uint32_t number, File* file, int64_t from, int64_t to, const std::function<absl::Status()>& flush,
                    std::vector<Run>* bad) const;
  // Adds a piece to an existing segment. nullopt: none can grow.
  absl::StatusOr<std::optional<Grown>> GrowExisting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  absl::StatusOr<Grown> GrowNew() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // The blocks of a range of a segment, except its header.
  Run RunOf(uint32_t number, int64_t from, int64_t to) const;
  absl::Status Flush(File* file, Flushes* flushes);
  absl::StatusOr<std::shared_ptr<File>> FileOf(uint32_t number, Segment* segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Keep(uint32_t number, Segment* segment, std::shared_ptr<File> file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseDownTo(int64_t files) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const FileSystem files_;
  const Options options_;
  const int64_t piece_bytes_;
  const int64_t max_open_;
  bool direct_ = true;
  std::vector<std::string> problems_;
  std::vector<uint32_t> unreadable_;
  Mutex grow_mutex_;  // taken before the other mutexes
  mutable Mutex mutex_;
  std::map<uint32_t, Segment> segments_ ABSL_GUARDED_BY(mutex_);
  std::list<uint32_t> recent_ ABSL_GUARDED_BY(mutex_);  // segments whose file is kept, most recently used first
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_
