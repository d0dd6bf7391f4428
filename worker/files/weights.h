// A model's weights on disk, behind one interface for GGUF v3 files and Hugging Face directories (safetensors, single
// or sharded). Files are mapped, not copied.
//
// Thread-safety: const methods may be called at once. Lifetime: spans point into the mapping and live as long as the
// object. Errors: NOT_FOUND for a missing file, INVALID_ARGUMENT for a truncated, hostile or inconsistent one,
// UNIMPLEMENTED for an architecture, tensor type or rope type we do not run; each message names the file, the tensor or
// key, and what to do.
#ifndef KVLINK_WORKER_FILES_WEIGHTS_H_
#define KVLINK_WORKER_FILES_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/files/config.h"

namespace kvlink::model {

struct SourceTensor {
  std::string name;            // as in the file
  std::string type;            // "F32", "BF16", "Q4_1", ...
  std::vector<int64_t> shape;  // row-major, outermost first
  absl::Span<const std::byte> bytes;
};

class Weights {
 public:
  virtual ~Weights() = default;
  virtual const ModelConfig& config() const = 0;
  // All tensors ordered by name: what the model fingerprint hashes.
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  // Files that make up the model (weights and configuration), for the fingerprint's (inode, size, mtime) cache.
  virtual const std::vector<std::string>& files() const = 0;
  // Reads a tensor under its canonical name ("model.layers.3.self_attn.q_proj.weight", "lm_head.weight", Hugging Face
  // spelling whatever the source) as f32, rows [row_begin, row_begin + rows) of its first dimension, dequantised, and
  // with GGUF's q/k row permutation undone. `out` has rows * (product of the other dimensions) elements. NOT_FOUND if
  // the model has no such tensor; INVALID_ARGUMENT if the range or the size of `out` disagrees.
  virtual absl::Status Read(absl::string_view canonical_name, int64_t row_begin, int64_t rows,
                            absl::Span<float> out) const = 0;
  virtual bool Has(absl::string_view canonical_name) const = 0;
  // The chat template (Jinja), empty if the model has none.
  virtual absl::string_view chat_template() const = 0;
};

// `path`: a .gguf file, or a directory with config.json and *.safetensors (or with exactly one .gguf).
absl::StatusOr<std::unique_ptr<Weights>> OpenWeights(const std::string& path);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_WEIGHTS_H_
