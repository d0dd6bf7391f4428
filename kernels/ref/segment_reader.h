// Keys and values of a segment, token by token in f64, for the scalar operations.
#ifndef KVLINK_KERNELS_REF_SEGMENT_READER_H_
#define KVLINK_KERNELS_REF_SEGMENT_READER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/slab.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "kernels/ref/scalar.h"

namespace kvlink::kernels::ref {

// Reads keys and values of one segment and layer.
class SegmentReader {
 public:
  SegmentReader(const KvSegment& segment, int64_t layer, int64_t kv_heads, int64_t dim)
      : segment_(segment),
        data_(segment.layer_data[static_cast<size_t>(layer)]),
        shape_{segment.codec, kv_heads, dim, std::max<int64_t>(segment.tokens, 1)} {}

  void Read(int64_t head, int64_t token, double* key, double* value) const {
    const int64_t block = token / kBlockTokens, in_block = token % kBlockTokens;
    const int64_t held = segment_.padded_blocks ? kBlockTokens : shape_.block_tokens(block);
    const int64_t at = segment_.block_table != nullptr ? segment_.block_table[block] : block;
    const std::byte* base = data_ + head * segment_.head_stride + at * segment_.block_stride;
    const std::byte* scales = base + shape_.scale_offset(held);
    ReadRow(base + in_block * shape_.row_bytes(), scales + in_block * 4, key);
    ReadRow(base + shape_.value_offset(held) + in_block * shape_.row_bytes(), scales + (held + in_block) * 4, value);
  }

 private:
  void ReadRow(const std::byte* row, const std::byte* scale, double* out) const {
    const int64_t dim = shape_.head_dim;
    switch (segment_.codec) {
      case Codec::kRawF32:
        for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<double>(LoadBytes<float>(row + 4 * d));
        break;
      case Codec::kRawBf16:
        for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<double>(Bf16ToFloat(LoadBytes<uint16_t>(row + 2 * d)));
        break;
      default: {
        const double factor = static_cast<double>(LoadBytes<float>(scale));
        for (int64_t d = 0; d < dim; ++d) out[d] = factor * static_cast<double>(LoadBytes<int8_t>(row + d));
      }
    }
  }
  const KvSegment& segment_;
  const std::byte* const data_;
  const SlabShape shape_;
};

}  // namespace kvlink::kernels::ref

#endif  // KVLINK_KERNELS_REF_SEGMENT_READER_H_
