// Trained embeddings in the safetensors files that link profiles name. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_LINK_LINK_EMBEDDINGS_H_
#define KVLINK_WORKER_LINK_LINK_EMBEDDINGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/link/profile.h"

namespace kvlink::link {

struct EmbeddingTensor {
  absl::string_view field;  // of the profile, for messages
  const std::string& file;
  absl::string_view name;  // of the tensor
  int64_t rows = 0;        // by the profile; 0: the tensor may be missing
  int64_t hidden = 0;      // by the model
};
// Returns the tensor in f32, [rows, hidden]. Errors name the profile, the field and the file: those of MappedFile and
// ParseSafetensors; INVALID_ARGUMENT: no such tensor, another shape, an element that is not finite; UNIMPLEMENTED: not
// F32, F16 or BF16.
absl::StatusOr<std::vector<float>> ReadEmbeddings(const LinkProfile& profile, const EmbeddingTensor& tensor);

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_LINK_EMBEDDINGS_H_
