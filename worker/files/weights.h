// A model's weights on disk, with one interface for GGUF v3 files and Hugging Face directories (safetensors, single or
// sharded). Files are mapped, not copied.
//
// Thread-safety: const methods may be called concurrently. Lifetime: spans point into the mapping and live as long as
// the object. Errors: NOT_FOUND for a missing file, INVALID_ARGUMENT for a truncated, hostile or inconsistent one,
// UNIMPLEMENTED for an unsupported architecture, tensor type or rope type; each message names the file, the tensor or
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
  // All tensors, ordered by name, as the model fingerprint hashes them.
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  // The files of the model (weights and configuration), for the fingerprint's (inode, size, mtime) cache.
  virtual const std::vector<std::string>& files() const = 0;
  // Reads rows [row_begin, row_begin + rows) of a tensor's first dimension as f32, dequantised, with GGUF's q/k row
  // permutation undone. The canonical name is Hugging Face's, whatever the source
  // ("model.layers.3.self_attn.q_proj.weight", "lm_head.weight"). `out` has rows * (product of the other dimensions)
  // elements. NOT_FOUND if the model has no such tensor; INVALID_ARGUMENT for a wrong range or size of `out`.
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
