// Tensors in memory and in safetensors files, and files that are either whole or not there.
// Thread-safety: plain values and functions over the file system.
#ifndef KVLINK_WORKER_TRAIN_TENSOR_FILE_H_
#define KVLINK_WORKER_TRAIN_TENSOR_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::train {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// A file that is written aside as "PATH.part", flushed to the disk and renamed: whoever opens `path` finds the old
// contents or the new, also after a power loss. Errors name the file; RESOURCE_EXHAUSTED: there is no room.
class DurableFile {
 public:
  static absl::StatusOr<DurableFile> Create(const std::string& path);
  DurableFile(DurableFile&& other) noexcept;
  DurableFile& operator=(DurableFile&&) = delete;
  ~DurableFile();  // drops what was not committed
  absl::Status Write(absl::string_view bytes);
  absl::Status Commit();

 private:
  explicit DurableFile(std::string path) : path_(std::move(path)), part_(path_ + ".part") {}
  std::string path_, part_;
  int file_ = -1;
};
absl::Status WriteDurably(const std::string& path, absl::string_view bytes);

// A safetensors file whose tensors are written one by one, all F32 or all BF16.
class TensorWriter {
 public:
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
  };
  static absl::StatusOr<TensorWriter> Create(const std::string& path, absl::Span<const Entry> entries, bool bf16);
  // In the order of the entries.
  absl::Status Add(const NamedTensor& tensor);
  // INTERNAL if tensors are missing.
  absl::Status Commit();

 private:
  TensorWriter(DurableFile file, bool bf16) : file_(std::move(file)), bf16_(bf16) {}
  DurableFile file_;
  const bool bf16_;
  std::vector<std::string> names_;
  size_t next_ = 0;
};

// Tensors, before whose names in a file `prefix` stands.
struct TensorGroup {
  absl::string_view prefix;
  absl::Span<const NamedTensor> tensors;
};
// Appends the bytes of a safetensors file with F32 tensors and one more of bytes, named `note_name`.
void AppendTensors(absl::Span<const TensorGroup> groups, absl::string_view note_name, absl::string_view note,
                   std::string* out);
// The reverse. INVALID_ARGUMENT for anything else.
absl::Status DecodeTensors(absl::string_view bytes, absl::string_view note_name, std::vector<NamedTensor>* tensors,
                           std::string* note);

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_TENSOR_FILE_H_
