// Elements of stored blocks, for kernels. base/slab.h defines the layout.
#ifndef KVLINK_KERNELS_CUDA_SLABS_SLAB_VIEW_H_
#define KVLINK_KERNELS_CUDA_SLABS_SLAB_VIEW_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/operations.h"

namespace kvlink::kernels::cuda {

// The values of base/slab.h's Codec; backend.cc asserts that they agree.
inline constexpr int kCodecRawBf16 = 1, kCodecRawF32 = 2, kCodecQ8 = 3, kCodecQ4 = 4;
inline constexpr int64_t kBlock = 64;  // tokens

KVLINK_DEVICE float LoadBf16(const unsigned char* at) { return Bf16ToFloat(*reinterpret_cast<const uint16_t*>(at)); }
KVLINK_DEVICE float LoadF32(const unsigned char* at) { return *reinterpret_cast<const float*>(at); }

// A block of `tokens` tokens: keys, values, scales.
struct BlockView {
  unsigned char* data;
  int64_t tokens, dim, row_bytes;
  int codec;

  KVLINK_DEVICE BlockView(const SlabView& slab, int64_t head, int64_t block) : BlockView(slab, head, block, block) {}
  // At the place of block `at`.
  KVLINK_DEVICE BlockView(const SlabView& slab, int64_t head, int64_t block, int64_t at)
      : data(slab.data + head * slab.head_bytes + at * slab.block_stride),
        tokens(slab.tokens - block * kBlock < kBlock ? slab.tokens - block * kBlock : kBlock),
        dim(slab.dim),
        row_bytes(slab.row_bytes),
        codec(slab.codec) {}
  KVLINK_DEVICE unsigned char* Key(int64_t t) const { return data + t * row_bytes; }
  KVLINK_DEVICE unsigned char* Value(int64_t t) const { return data + (tokens + t) * row_bytes; }
  KVLINK_DEVICE unsigned char* Scales() const { return data + 2 * tokens * row_bytes; }
  // Scale of q8's key t (value t: row tokens + t).
  KVLINK_DEVICE unsigned char* Q8Scale(int64_t row) const { return Scales() + 4 * row; }
  // q4: scale and min of key channel d; of value t.
  KVLINK_DEVICE unsigned char* KeyScale(int64_t d) const { return Scales() + 2 * d; }
  KVLINK_DEVICE unsigned char* KeyMin(int64_t d) const { return Scales() + 2 * (dim + d); }
  KVLINK_DEVICE unsigned char* ValueScale(int64_t t) const { return Scales() + 4 * dim + 2 * t; }
  KVLINK_DEVICE unsigned char* ValueMin(int64_t t) const { return Scales() + 4 * dim + 2 * (tokens + t); }

  // Element d of key or value t in its stored form: keys of q4 are not rotated.
  KVLINK_DEVICE float LoadKey(int64_t t, int64_t d) const {
    if (codec == kCodecQ4) return LoadBf16(KeyMin(d)) + LoadBf16(KeyScale(d)) * Nibble(Key(t), d);
    return LoadPlain(Key(t), d, t);
  }
  KVLINK_DEVICE float LoadValue(int64_t t, int64_t d) const {
    if (codec == kCodecQ4) return LoadBf16(ValueMin(t)) + LoadBf16(ValueScale(t)) * Nibble(Value(t), d);
    return LoadPlain(Value(t), d, tokens + t);
  }
  // For raw blocks.
  KVLINK_DEVICE void StoreRaw(unsigned char* row, int64_t d, float value) const {
    if (codec == kCodecRawBf16) {
      reinterpret_cast<uint16_t*>(row)[d] = ToBf16(value);
    } else {
      reinterpret_cast<float*>(row)[d] = value;
    }
  }

 private:
  KVLINK_DEVICE float LoadPlain(const unsigned char* row, int64_t d, int64_t scale) const {
    if (codec == kCodecRawBf16) return LoadBf16(row + 2 * d);
    if (codec == kCodecRawF32) return LoadF32(row + 4 * d);
    return LoadF32(Q8Scale(scale)) * static_cast<float>(reinterpret_cast<const int8_t*>(row)[d]);
  }
  static KVLINK_DEVICE float Nibble(const unsigned char* row, int64_t d) {
    return static_cast<float>((row[d / 2] >> (d % 2 * 4)) & 15);
  }
};

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_SLABS_SLAB_VIEW_H_
