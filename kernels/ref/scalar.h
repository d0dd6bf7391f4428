// Element access and rotation in f64, for the scalar operations.
#ifndef KVLINK_KERNELS_REF_SCALAR_H_
#define KVLINK_KERNELS_REF_SCALAR_H_

#include <cmath>
#include <cstddef>
#include <cstring>

#include "absl/types/span.h"
#include "base/slab.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::ref {

// Index of an element in elements from tensor.data.
inline int64_t At(const Tensor& tensor, int64_t i, int64_t j = 0, int64_t k = 0, int64_t l = 0) {
  return i * tensor.strides[0] + j * tensor.strides[1] + k * tensor.strides[2] + l * tensor.strides[3];
}

inline double Load(const Tensor& tensor, int64_t index) {
  if (tensor.dtype == Dtype::kF32) return static_cast<double>(tensor.as<const float>()[index]);
  return static_cast<double>(Bf16ToFloat(tensor.as<const uint16_t>()[index]));
}

inline void Store(const Tensor& tensor, int64_t index, double value) {
  if (tensor.dtype == Dtype::kF32) {
    tensor.as<float>()[index] = static_cast<float>(value);
  } else {
    tensor.as<uint16_t>()[index] = FloatToBf16(static_cast<float>(value));
  }
}

// Index of element d of (page, head, which) for the token's slot within the page; `which` 0 is K, 1 is V.
inline int64_t PageElement(const Tensor& pages, int64_t slot, int64_t head, int64_t which, int64_t d) {
  return At(pages, slot / kBlockTokens, head, which * kBlockTokens + slot % kBlockTokens, d);
}

template <typename T>
T LoadBytes(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <typename T>
void StoreBytes(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

// Rotates row[0..rotary_dim) by `position` and multiplies it by `factor`; rotate-half order. The pure rotation has
// factor 1.
inline void Rotate(const Rope& rope, int64_t position, double factor, double* row) {
  const int64_t half = rope.rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rope.inv_freq[static_cast<size_t>(i)];
    const double cosine = std::cos(angle) * factor, sine = std::sin(angle) * factor;
    const double a = row[i], b = row[i + half];
    row[i] = a * cosine - b * sine;
    row[i + half] = b * cosine + a * sine;
  }
}

}  // namespace kvlink::kernels::ref

#endif  // KVLINK_KERNELS_REF_SCALAR_H_
