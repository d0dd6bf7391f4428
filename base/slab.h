// Geometry of a slab: where each head, block, key, value and scale of one layer's encoding lies. Defined only here and
// in docs/formats.md "Slab": the store cuts units by it, and kernels read and write by it.
//
//   slab  = kv_heads heads, each of the same length, padded with zeros to a multiple of 4096 bytes
//   head  = blocks of 64 tokens in token order; the last one may be short (never padded)
//   block = keys [token][dim], values [token][dim], then the codec's scales
//   unit  = 512 tokens (8 blocks) of one head: the granularity of checksums
//
// Scales at the end of a block of n tokens:
//   raw-bf16, raw-f32   none
//   q8    float k_scale[n], float v_scale[n]                  x = scale * int8
//   q4    bf16 k_scale[dim], k_min[dim], v_scale[n], v_min[n]  x = min + scale * nibble; K by channel, V by token.
//         Nibbles: row [dim/2] bytes, element 2i in the low half of byte i, 2i+1 in the high half.
// Keys are rotated at local positions 0..n-1, except in q4, whose keys are unrotated.
//
// Thread-safety: pure functions on a value. Sizes and offsets are in bytes unless stated to be in tokens.
#ifndef KVLINK_BASE_SLAB_H_
#define KVLINK_BASE_SLAB_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink {

inline constexpr int64_t kBlockTokens = 64;
inline constexpr int64_t kUnitTokens = 512;
inline constexpr int64_t kSlabAlignment = 4096;

// The values are stored; never renumber.
enum class Codec : uint8_t { kRawBf16 = 1, kRawF32 = 2, kQ8 = 3, kQ4 = 4 };

// "raw-bf16", "raw-f32", "q8", "q4".
absl::string_view CodecName(Codec codec);
// INVALID_ARGUMENT for any other name; the message lists the names.
absl::StatusOr<Codec> ParseCodec(absl::string_view name);

struct SlabShape {
  Codec codec = Codec::kRawBf16;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // even
  int64_t tokens = 0;

  // INVALID_ARGUMENT unless 1 <= kv_heads <= 4096, head_dim even in 2..4096, 1 <= tokens <= 2^24 and the codec is
  // known.
  absl::Status Validate() const;

  int64_t blocks() const { return (tokens + kBlockTokens - 1) / kBlockTokens; }
  int64_t units_per_head() const { return (tokens + kUnitTokens - 1) / kUnitTokens; }
  // Tokens in block b: 64, or the remainder in the last block.
  int64_t block_tokens(int64_t block) const {
    const int64_t left = tokens - block * kBlockTokens;
    return left < kBlockTokens ? left : kBlockTokens;
  }
  // Bytes of one token's row of keys (or values) of one head, without scales.
  int64_t row_bytes() const;
  // Bytes in a block of n tokens.
  int64_t block_bytes(int64_t n) const;
  int64_t block_stride() const { return block_bytes(kBlockTokens); }
  int64_t head_bytes() const { return (blocks() - 1) * block_stride() + block_bytes(block_tokens(blocks() - 1)); }
  // Bytes without padding, and with it.
  int64_t used_bytes() const { return kv_heads * head_bytes(); }
  int64_t slab_bytes() const { return (used_bytes() + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment; }
  // Offsets within the slab. Within a block: keys at 0, values at value_offset(n), scales at scale_offset(n).
  int64_t head_offset(int64_t head) const { return head * head_bytes(); }
  int64_t block_offset(int64_t head, int64_t block) const { return head_offset(head) + block * block_stride(); }
  int64_t value_offset(int64_t n) const { return n * row_bytes(); }
  int64_t scale_offset(int64_t n) const { return 2 * n * row_bytes(); }
  // Unit u of a head: [unit_offset, unit_offset + unit_bytes).
  int64_t unit_offset(int64_t head, int64_t unit) const {
    return head_offset(head) + unit * (kUnitTokens / kBlockTokens) * block_stride();
  }
  int64_t unit_bytes(int64_t unit) const;

  bool keys_rotated() const { return codec != Codec::kQ4; }
};

}  // namespace kvlink

#endif  // KVLINK_BASE_SLAB_H_
