// The store's files and directories. Reports every change to the IoObserver.
// Thread-safety: a File may be read and written from many threads; FileSystem is stateless. Errors: NOT_FOUND (no such
// file), RESOURCE_EXHAUSTED (no space left, quota), FAILED_PRECONDITION (no permission, or a read-only file system),
// UNAVAILABLE (out of descriptors or memory; the file itself is fine), DATA_LOSS (the device failed, or the file is too
// short). All messages name the action and the path.
#ifndef KVLINK_STORE_ENGINE_DISK_FILE_H_
#define KVLINK_STORE_ENGINE_DISK_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/descriptor.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::engine {

// The status for errno `error` from `action` ("write", "open") on `path`.
absl::Status ErrnoStatus(int error, absl::string_view action, absl::string_view path);

class File {
 public:
  int fd() const { return descriptor_.get(); }
  const std::string& path() const { return path_; }
  // Whether it is open with O_DIRECT, so that offsets, lengths and addresses must be multiples of 4096.
  bool direct() const { return direct_; }
  IoObserver* observer() const { return observer_; }

  // Read and Write transfer the whole range or return an error.
  absl::Status Read(int64_t offset, absl::Span<std::byte> bytes) const;
  absl::Status Write(int64_t offset, absl::Span<const std::byte> bytes);
  // fdatasync.
  absl::Status Sync();
  absl::StatusOr<int64_t> Size() const;
  // Returns DATA_LOSS: `action` ("read", "write") reached the end of the file at `offset`.
  absl::Status EndsBefore(absl::string_view action, int64_t offset) const;
  absl::Status Resize(int64_t size);
  // Reserves space up to `size` if the file system can, and sets the size.
  absl::Status Allocate(int64_t size);

 private:
  friend class FileSystem;
  File(Descriptor descriptor, std::string path, bool direct, IoObserver* observer)
      : descriptor_(std::move(descriptor)), path_(std::move(path)), direct_(direct), observer_(observer) {}

  Descriptor descriptor_;
  const std::string path_;
  const bool direct_;
  IoObserver* const observer_;
};

class FileSystem {
 public:
  explicit FileSystem(IoObserver* observer) : observer_(observer) {}

  struct OpenOptions {
    bool write = false;
    bool create = false;  // a new file; ALREADY_EXISTS if it exists
    bool direct = false;  // O_DIRECT; falls back to buffered if the file system refuses it
  };
  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, const OpenOptions& options) const;
  // OK if it already exists.
  absl::Status MakeDirectory(const std::string& path) const;
  absl::Status Rename(const std::string& from, const std::string& to) const;
  // OK if it does not exist.
  absl::Status Remove(const std::string& path) const;
  absl::Status SyncDirectory(const std::string& path) const;
  bool Exists(const std::string& path) const;
  // Names in a directory, sorted, without "." and "..".
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) const;
  // Reads a whole small file. RESOURCE_EXHAUSTED if it exceeds `limit`.
  absl::StatusOr<std::string> ReadWhole(const std::string& path, int64_t limit) const;
  // Durably and atomically replaces `directory`/`name` (writes name.tmp, flushes, renames, flushes the directory).
  absl::Status WriteWhole(const std::string& directory, const std::string& name, absl::string_view bytes) const;
  // Bytes an unprivileged user may still allocate.
  absl::StatusOr<int64_t> FreeSpace(const std::string& path) const;

 private:
  IoObserver* const observer_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_FILE_H_
