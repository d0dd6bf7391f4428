// The segment files: in 64 KiB blocks, filled with zeros piece by piece up to one size (docs/formats.md "Segment
// file"). Block 0 of each is its header. A store may have more segments than a process may have descriptors: the files
// used last are kept open, the others are opened again when they are needed.
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
    int64_t piece_bytes = 0;  // of new segments; at least two blocks; 0: 256 MiB, or the segment if it is smaller
    bool allow_direct = true;
    bool read_only = false;
    bool sparse = false;   // new segments are holes: for measurements that need many
    int64_t max_open = 0;  // files kept open while nobody uses them; 0: a quarter of the descriptors, at most 1024
  };
  // Finds what is there and looks at every header; a file that a crash left half made is removed, half a piece is
  // ignored until the file grows. FAILED_PRECONDITION: a segment of another store, or one that may not be opened.
  // UNAVAILABLE: no descriptors or memory. A header that cannot be read, or is damaged, is a problem to report: what
  // lies after it has checksums of its own, but nothing may be added to it.
  static absl::StatusOr<std::unique_ptr<SegmentFiles>> Open(const FileSystem& files, const Options& options);

  struct Grown {
    Run usable;
    std::vector<Run> bad;  // blocks of it that could not be written
  };
  // Adds a piece, zero-filled and durable: to a segment that has not all of its own, or a new segment's first. Where
  // the device or the file system refuses, another file is tried before that is an error. RESOURCE_EXHAUSTED: the disk
  // is full. Errors leave nothing behind, but a flush that failed is remembered as Sync does.
  absl::StatusOr<Grown> Grow();
  // No piece is added to the segment any more.
  void StopGrowing(uint32_t segment);
  // Removes a segment that holds nothing. What still reads from it goes on doing so.
  absl::Status Remove(uint32_t segment);

  // The blocks that may hold encodings, segment by segment; and how many they are.
  std::vector<Run> UsableRuns() const;
  int64_t usable_blocks() const;
  int64_t bytes() const;
  int64_t segment_bytes() const { return options_.segment_bytes; }
  // By which they grow.
  int64_t piece_bytes() const { return piece_bytes_; }
  uint32_t blocks_per_segment() const { return static_cast<uint32_t>(options_.segment_bytes / kSegmentBlockBytes); }
  bool direct() const { return direct_; }
  const std::vector<std::string>& problems() const { return problems_; }
  // Segments whose header could not be read: what they hold may be read, but how they grew is not known.
  const std::vector<uint32_t>& unreadable() const { return unreadable_; }
  // How many files are open now.
  int64_t open_files() const;

  uint32_t SegmentOf(uint32_t block) const { return block / blocks_per_segment(); }
  // All blocks of a segment that may ever hold encodings.
  Run WholeRun(uint32_t segment) const { return {segment * blocks_per_segment() + 1, blocks_per_segment() - 1}; }
  std::string PathOf(uint32_t segment) const;

  // The file that holds a block, and where. NOT_FOUND: there is no such segment; errors of FileSystem::Open. The file
  // stays open while the pointer lives.
  absl::StatusOr<std::shared_ptr<File>> Locate(uint32_t block, int64_t* offset);
  // Flushes a segment, one flush of it at a time. A flush that failed may have dropped what was written before it, and
  // a later one would say nothing of it: the error is the answer to all further calls, too, until the store is opened
  // again.
  absl::Status Sync(uint32_t segment);

 private:
  // A device's failure is told to one of the flushes that are under way and to none after it: all must hear of it.
  struct Flushes {
    Mutex mutex;          // held through each; taken before mutex_
    absl::Status failed;  // the first that failed; guarded by mutex_ of SegmentFiles
  };
  struct Segment {
    int64_t bytes = 0;                     // that are filled: the file's length
    int64_t piece_bytes = 0;               // of this segment
    bool grows = true;                     // as far as its size
    std::weak_ptr<File> file;              // while anybody uses it
    std::list<uint32_t>::iterator recent;  // in recent_, if kept
    std::shared_ptr<File> kept;
    std::shared_ptr<Flushes> flushes = std::make_shared<Flushes>();
  };

  SegmentFiles(const FileSystem& files, const Options& options);
  absl::Status OpenExisting();
  // The piece of the segment, by its header; nothing if that cannot be read or is damaged.
  absl::StatusOr<std::optional<int64_t>> CheckHeader(uint32_t number, const File& file);
  // What of the file is filled.
  absl::StatusOr<Segment> Examine(uint32_t number, File* file);
  // One try to add segment `number`, by way of a temporary file, which an error leaves there. Returns the blocks that
  // cannot be written; DATA_LOSS if that is all.
  absl::StatusOr<std::vector<Run>> Make(uint32_t number, const std::string& temporary);
  absl::Status WriteHeader(uint32_t number, File* file) const;
  // One try to add bytes [from, to) to segment `number`, in the place of what a crash left there. Returns as Make.
  absl::StatusOr<std::vector<Run>> Extend(uint32_t number, File* file, Flushes* flushes, int64_t from, int64_t to);
  // Fills and flushes blocks. Those that cannot be written are added to `bad`; nothing else may fail.
  absl::Status Zero(uint32_t number, File* file, int64_t from, int64_t to, const std::function<absl::Status()>& flush,
                    std::vector<Run>* bad) const;
  // A piece more of a segment that is there. Nothing: none grows.
  absl::StatusOr<std::optional<Grown>> GrowExisting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  absl::StatusOr<Grown> GrowNew() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Blocks of a segment, but not its header.
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
  Mutex grow_mutex_;  // taken before the others
  mutable Mutex mutex_;
  std::map<uint32_t, Segment> segments_ ABSL_GUARDED_BY(mutex_);
  std::list<uint32_t> recent_ ABSL_GUARDED_BY(mutex_);  // segments whose file is kept, the one used last first
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_SEGMENT_FILES_H_
