// Products of bf16 numbers by VDPBF16PS of AVX512_BF16, which holds 16 sums in f32 and adds two products to each: twice
// as many as an f32 multiply-add.
//
// As Intel's Software Developer's Manual defines it (volume 2, "VDPBF16PS"), the instruction adds to a sum the product
// of the odd numbers of two pairs, and then that of the even ones, each in one fused operation that rounds to nearest
// even. It neither reads nor writes MXCSR. Denormal numbers count as zero, before and after: whatever is below 2^-126
// is lost, which the f32 forms keep.
//
// Each number of a result is one chain of these additions in the order of the inner dimension. So it depends only on
// its row and its column, and the emulations give the same bits.
#ifndef KVLINK_KERNELS_CPU_BF16_AVX512_BF16_H_
#define KVLINK_KERNELS_CPU_BF16_AVX512_BF16_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cpu/bf16/tiles.h"

namespace kvlink::kernels::cpu {

// c[rows][columns] (+)= x y. The inner dimension is in pairs: 32-bit words with the even number in the low half.
struct PairProduct {
  const uint32_t* x = nullptr;  // [rows][pairs], rows x_stride apart
  int64_t x_stride = 0;
  const uint32_t* y = nullptr;  // [pairs][columns]
  int64_t rows = 0;             // at least 1
  int64_t columns = 0;          // a multiple of 16
  int64_t pairs = 0;            // at least 1
  float* c = nullptr;           // rows c_stride apart
  int64_t c_stride = 0;
  bool accumulate = false;
  // Meanwhile `ahead_lines` cache lines from `ahead` are prefetched every two pairs.
  const void* ahead = nullptr;
  int64_t ahead_lines = 0;
};

// Thread-safe.
using MultiplyPairs = void (*)(const PairProduct& product);

// Whether this CPU has AVX512_BF16, the system lets processes use it, and a small product is computed correctly.
bool HasAvx512Bf16();
// nullptr if HasAvx512Bf16() is false, or if the build's compiler did not support it.
MultiplyTiles Avx512Bf16Multiply();
MultiplyPairs Avx512Bf16MultiplyPairs();

// One lane of VDPBF16PS.
float EmulatedDot(float sum, uint32_t x, uint32_t y);
// The same products without the instruction, for tests: slow.
void EmulatedAvx512Bf16Multiply(absl::Span<const TileProduct> products);
void EmulatedMultiplyPairs(const PairProduct& product);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_BF16_AVX512_BF16_H_
