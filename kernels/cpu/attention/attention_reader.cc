// Finds a block of keys or values in its segment and widens it to f32 rows, padded to whole vectors.
#include "kernels/cpu/attention/attention_reader.h"

#include <algorithm>
#include <cstring>

namespace kvlink::kernels::cpu {

SegmentReader::SegmentReader(const KvSegment& segment, int64_t layer, int64_t kv_head, const AttentionSizes& sizes)
    : segment_(segment),
      head_(segment.layer_data[layer] + kv_head * segment.head_stride),
      shape_{segment.codec, sizes.kv_heads, sizes.dim, segment.tokens},
      padded_(sizes.padded) {}

const std::byte* SegmentReader::Stored(int64_t block, bool values) const {
  const int64_t at = segment_.block_table != nullptr ? segment_.block_table[block] : block;
  return head_ + at * segment_.block_stride + (values ? shape_.value_offset(Held(block)) : 0);
}

F32Rows SegmentReader::Rows(int64_t block, int64_t begin, int64_t end, bool values, bool whole_vectors,
                            float* scratch) const {
  const int64_t held = Held(block);
  const std::byte* rows = Stored(block, values) + begin * shape_.row_bytes();
  const int64_t dim = shape_.head_dim;
  const AttentionKernels& kernels = GetAttentionKernels();
  switch (segment_.codec) {
    case Codec::kRawF32:
      if (!whole_vectors || dim == padded_) return {reinterpret_cast<const float*>(rows), dim};
      for (int64_t r = 0; r < end - begin; ++r) {
        std::memcpy(scratch + r * padded_, rows + r * dim * 4, static_cast<size_t>(dim) * 4);
        std::fill(scratch + r * padded_ + dim, scratch + (r + 1) * padded_, 0.0f);
      }
      break;
    case Codec::kRawBf16:
      kernels.rows_from_bf16(rows, end - begin, dim, scratch, padded_);
      break;
    default: {
      const std::byte* scales =
          Stored(block, /*values=*/false) + shape_.scale_offset(held) + 4 * ((values ? held : 0) + begin);
      kernels.rows_from_q8(rows, scales, end - begin, dim, scratch, padded_);
    }
  }
  return {scratch, padded_};
}

}  // namespace kvlink::kernels::cpu
