// The arithmetic of the q8 and q4 codecs, defined to the bit. base/slab.h defines the layout. Fast backends vectorise
// exactly this, so that one encoding has the same bytes on every backend (up to rounding when q4's keys are rotated
// back).
//
// q8, a row x[0..dim) of one token of one head (keys as they are rotated; values):
//   scale = max|x| / 127, inverse = 1 / scale, code = round-to-nearest-even(x * inverse), within -127..127, all in f32.
//   A row whose scale is below kSmallestScale codes to zeros with scale 0.
// q4, a group x (channel of K over the tokens of a block, after rotating back; or a row of V):
//   min = the largest bf16 not above the smallest x; scale = the smallest bf16 not below (max - min) / 15;
//   inverse = 1 / scale; code = round-to-nearest-even((x - min) * inverse), within 0..15, all in f32.
//   min and scale are rounded first and outwards, so that no x lies beyond the codes and the error is at most scale
//   / 2. A group whose scale is below kSmallestScale codes to zeros with scale 0.
// Decoding in f32: q8 scale * code, q4 min + scale * code (scale * code is exact, so fusing the addition changes
// nothing).
//
// A group with a value that is not finite, or so large that its scale or min is not, has no code: `finite` is false.
#ifndef KVLINK_KERNELS_CODEC_H_
#define KVLINK_KERNELS_CODEC_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/host_device.h"

namespace kvlink::kernels {

// Below this, 1 / scale would exceed the range of f32.
inline constexpr float kSmallestScale = 1e-30f;

struct Q8Group {
  float scale = 0;
  float inverse = 0;  // 0 where scale is 0
  bool finite = true;

  // `largest` is max|x|; NaN or infinity if any x is.
  KVLINK_HOST_DEVICE static Q8Group Of(float largest) {
    Q8Group group;
    group.finite = std::isfinite(largest);
    const float scale = largest / 127.0f;
    if (group.finite && scale >= kSmallestScale) {
      group.scale = scale;
      group.inverse = 1.0f / scale;
    }
    return group;
  }
  KVLINK_HOST_DEVICE int8_t Encode(float x) const {
    return static_cast<int8_t>(std::clamp(std::nearbyintf(x * inverse), -127.0f, 127.0f));
  }
};

struct Q4Group {
  uint16_t scale_bf16 = 0;
  uint16_t min_bf16 = 0;
  float min = 0;      // of min_bf16
  float inverse = 0;  // 0 where scale is 0
  bool finite = true;

  KVLINK_HOST_DEVICE static Q4Group Of(float smallest, float largest) {
    Q4Group group;
    group.finite = std::isfinite(smallest) && std::isfinite(largest);
    if (!group.finite) return group;
    group.min_bf16 = FloatToBf16Down(smallest);
    group.min = Bf16ToFloat(group.min_bf16);
    const float range = (largest - group.min) / 15.0f;
    group.finite = std::isfinite(group.min) && std::isfinite(range);
    if (!group.finite) return group;
    const uint16_t scale_bf16 = FloatToBf16Up(range);
    const float scale = Bf16ToFloat(scale_bf16);
    group.finite = std::isfinite(scale);
    if (group.finite && scale >= kSmallestScale) {
      group.scale_bf16 = scale_bf16;
      group.inverse = 1.0f / scale;
    }
    return group;
  }
  KVLINK_HOST_DEVICE uint8_t Encode(float x) const {
    return static_cast<uint8_t>(std::clamp(std::nearbyintf((x - min) * inverse), 0.0f, 15.0f));
  }
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CODEC_H_
