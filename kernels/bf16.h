// bfloat16 as the upper half of an IEEE f32. Stored as uint16_t.
#ifndef KVLINK_KERNELS_BF16_H_
#define KVLINK_KERNELS_BF16_H_

#include <bit>
#include <cstdint>

#include "kernels/host_device.h"

namespace kvlink::kernels {

KVLINK_HOST_DEVICE inline float Bf16ToFloat(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

// Rounds to nearest, ties to even; overflow gives infinity; NaN stays a (quiet) NaN.
KVLINK_HOST_DEVICE inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The nearest bf16 that is not above (not below) `value`, which is finite.
KVLINK_HOST_DEVICE inline uint16_t FloatToBf16Down(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t truncated = static_cast<uint16_t>(bits >> 16);
  // Truncation goes towards zero: down for positive numbers; negative ones take one step more unless exact.
  if ((bits >> 31) == 0 || (bits & 0xffffu) == 0) return truncated;
  return static_cast<uint16_t>(truncated + 1);
}
KVLINK_HOST_DEVICE inline uint16_t FloatToBf16Up(float value) {
  return static_cast<uint16_t>(FloatToBf16Down(-value) ^ 0x8000u);
}

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_BF16_H_
