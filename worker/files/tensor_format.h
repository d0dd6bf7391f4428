// Element formats of tensors on disk, and their expansion to f32.
//
// Quantised formats are ggml's (https://github.com/ggml-org/ggml, docs of the GGUF format): a row is a whole number of
// blocks; a block holds `block_elements` values in `block_bytes` bytes with its own scales (f16, little-endian). Let q
// be the unsigned code of an element and d, m the block's f16 scale and minimum:
//   Q4_0 d(q-8)   Q4_1 dq+m   Q5_0 d(q-16)   Q5_1 dq+m   Q8_0 dq (q signed)   IQ4_NL d*table[q]
//   Q4_K, Q5_K  256 elements in 8 groups of 32 with 6-bit scale s and minimum t each: d*s*q - m*t
//   Q6_K        256 elements in 16 groups of 16 with an 8-bit scale s each: d*s*(q-32)
//   Q2_K        the same groups with 4-bit scale s and minimum t each: d*s*q - m*t
//   Q3_K        the same groups with a 6-bit scale s each: d*(s-32)*(q-4)
//   IQ4_XS      256 elements in 8 groups of 32 with a 6-bit scale s each: d*(s-32)*table[q]
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_FILES_TENSOR_FORMAT_H_
#define KVLINK_WORKER_FILES_TENSOR_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace kvlink::model {

struct TensorFormat {
  absl::string_view name;  // "F32", "Q4_K", ...
  int ggml_type = -1;      // its number in GGUF files; -1: none
  int64_t block_elements = 0;
  int64_t block_bytes = 0;
  // Expands `blocks` blocks. `in` may have any alignment.
  void (*expand)(const std::byte* in, int64_t blocks, float* out) = nullptr;
};

// nullptr for an unsupported format.
const TensorFormat* FindTensorFormat(absl::string_view name);
const TensorFormat* FindGgmlTensorFormat(uint32_t ggml_type);
// ggml's name of a type ("Q2_K"), whether supported or not.
absl::string_view GgmlTypeName(uint32_t ggml_type);
// "F32, F16, BF16, ...", for messages.
absl::string_view TensorFormatNames();

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_TENSOR_FORMAT_H_
