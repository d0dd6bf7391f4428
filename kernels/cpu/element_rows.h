// Rows of f32 or bf16 numbers as f32, and back; loops over rows.
#ifndef KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_
#define KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows_simd.h"
#include "kernels/cpu/threads.h"
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

// Offset in elements of the key (which 0) or value (which 1) of a slot of a head.
inline int64_t PageElement(const Tensor& pages, int64_t slot, int64_t head, int64_t which) {
  return slot / kBlockTokens * pages.strides[0] + head * pages.strides[1] +
         (which * kBlockTokens + slot % kBlockTokens) * pages.strides[2];
}

// Rows per work item; fewer do not justify waking threads.
inline constexpr int64_t kRowRun = 16;

// Calls body(begin, end) for runs of [0, rows).
template <typename Body>
void ForRows(const Threads& threads, int64_t rows, Body&& body) {
  threads.For((rows + kRowRun - 1) / kRowRun,
              [&](int64_t item, int) { body(item * kRowRun, std::min(rows, (item + 1) * kRowRun)); });
}

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ELEMENT_ROWS_H_
