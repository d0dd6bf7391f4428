// The safetensors container (https://github.com/huggingface/safetensors, "Format"):
//
//   u64 n      little-endian
//   n bytes    JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ...,
//              "__metadata__": {..}}
//   the rest   tensor data; offsets count from here
//
// Parsing checks that the header is at most 16 MiB of flat JSON without duplicate names, that every tensor has the
// bytes its shape needs, and that the tensors cover the data exactly, without gap or overlap (as the format demands).
// Thread-safety: pure function; the result refers to the bytes given.
#ifndef KVLINK_WORKER_FILES_SAFETENSORS_H_
#define KVLINK_WORKER_FILES_SAFETENSORS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/files/weights.h"

namespace kvlink::model {

// Returns tensors in the order of their data. INVALID_ARGUMENT for malformed input, naming the tensor; UNIMPLEMENTED
// for a dtype that the format does not define today. Types other than F32, F16 and BF16 are listed but cannot be read
// as weights.
absl::StatusOr<std::vector<SourceTensor>> ParseSafetensors(absl::Span<const std::byte> bytes);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_SAFETENSORS_H_
