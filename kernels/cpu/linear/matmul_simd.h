// The vector kernels of Linear, selected for the CPU at run time. Sizes are in elements.
#ifndef KVLINK_KERNELS_CPU_LINEAR_MATMUL_SIMD_H_
#define KVLINK_KERNELS_CPU_LINEAR_MATMUL_SIMD_H_

#include <cstdint>

namespace kvlink::kernels::cpu {

// A panel holds `panel` output columns of the weights, the steps of k one after another, and zeros beyond the last
// column:
//   f32:  panel floats for a step
//   bf16: panel 32-bit words for two steps: the even step in the low half, the odd one (zero beyond k) in the high half
struct MatmulKernels {
  int64_t panel = 0;
  int tile_rows = 0;
  // c[rows][panel] (+)= x[rows][k] * panel, rows of c c_stride apart, each element one chain of fused multiply-adds in
  // the order of k. Meanwhile prefetches `ahead_lines` cache lines from `ahead` every four steps.
  void (*tile_f32)(int rows, const float* x, int64_t x_stride, const float* panel, int64_t k, float* c,
                   int64_t c_stride, bool accumulate, const void* ahead, int64_t ahead_lines) = nullptr;
  // As tile_f32; k is even unless it ends the matrix.
  void (*tile_bf16)(int rows, const float* x, int64_t x_stride, const uint32_t* panel, int64_t k, float* c,
                    int64_t c_stride, bool accumulate, const void* ahead, int64_t ahead_lines) = nullptr;
  // out[rows][columns] = c + bias; bias may be nullptr.
  void (*finish)(int64_t rows, const float* c, int64_t c_stride, const float* bias, int64_t columns, void* out,
                 int64_t out_stride, bool out_bf16) = nullptr;
  // out = silu(gate + gate_bias) * (up + up_bias). gate and up have the same stride.
  void (*finish_silu)(int64_t rows, const float* gate, const float* up, int64_t stride, const float* gate_bias,
                      const float* up_bias, int64_t columns, void* out, int64_t out_stride, bool out_bf16) = nullptr;
};

const MatmulKernels& GetMatmulKernels();

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_LINEAR_MATMUL_SIMD_H_
