// A file mapped read-only into memory.
// Thread-safety: immutable after Open. Lifetime: spans point into the mapping and live as long as the object. As with
// any mapping, another process that truncates the file ends this one with SIGBUS; model files must not be edited in
// place.
#ifndef KVLINK_WORKER_FILES_MAPPED_FILE_H_
#define KVLINK_WORKER_FILES_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvlink::model {

class MappedFile {
 public:
  // NOT_FOUND if there is no such file; INVALID_ARGUMENT if it is empty or not a regular file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  absl::Span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  MappedFile(std::string path, void* data, size_t size) : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  void* const data_;
  const size_t size_;
};

// Reads a whole small file. NOT_FOUND if there is none; INVALID_ARGUMENT if it is larger than `limit` bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t limit);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_MAPPED_FILE_H_
