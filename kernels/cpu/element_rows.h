// Rows of f32 or bf16 numbers as f32, and back.
#ifndef KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_
#define KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_

#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows_simd.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// The longest row that operations hold on the stack: a head (validate.cc).
inline constexpr int64_t kMaxHeadDim = 4096;

// `count` numbers from element `at` of the tensor.
inline void LoadRow(const Tensor& tensor, int64_t at, int64_t count, float* to) {
  if (tensor.dtype == Dtype::kBf16) {
    GetRowKernels().widen(tensor.as<const uint16_t>() + at, count, to);
  } else {
    std::memcpy(to, tensor.as<const float>() + at, static_cast<size_t>(count) * sizeof(float));
  }
}

inline void StoreRow(const float* from, int64_t count, const Tensor& tensor, int64_t at) {
  if (tensor.dtype == Dtype::kBf16) {
    GetRowKernels().narrow(from, count, tensor.as<uint16_t>() + at);
  } else {
    std::memcpy(tensor.as<float>() + at, from, static_cast<size_t>(count) * sizeof(float));
  }
}

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_
