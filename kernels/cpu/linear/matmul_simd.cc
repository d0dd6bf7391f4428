// Tiles of rows by panel columns whose sums stay in registers; the next weights are prefetched.
#include "kernels/cpu/linear/matmul_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear/matmul_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway requires.
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvlink::kernels::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr int kVectors = kPanelVectors;
constexpr int kRowsOfTile = kTileRows<kVectors>;

void TileFloat(int rows, const float* x, int64_t x_stride, const float* panel, int64_t k, float* c, int64_t c_stride,
               bool accumulate, const void* ahead, int64_t ahead_lines) {
  WithRows<kRowsOfTile>(rows, [&](auto n) HWY_ATTR {
    TileF32<decltype(n)::value, kVectors, false>(x, x_stride, F32Columns{panel, kVectors * LaneCount()}, k, c, c_stride,
                                                 accumulate, Ahead{static_cast<const char*>(ahead), ahead_lines});
  });
}

// sum[row] += x[row * stride] * the even (or odd) step of the words.
template <bool kOdd, int kRows>
HWY_INLINE void HalfStep(VF (&sum)[kRows][kVectors], const float* HWY_RESTRICT x, int64_t stride,
                         const uint32_t* HWY_RESTRICT words) {
  const DF d;
  const DU du;
  VF column[kVectors];
  KVLINK_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) {
    const VU word = hn::Load(du, words + v * LaneCount());
    column[v] = hn::BitCast(d, kOdd ? hn::And(word, hn::Set(du, 0xffff0000u)) : hn::ShiftLeft<16>(word));
  }
  KVLINK_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    const VF value = hn::Set(d, x[r * stride]);
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(value, column[v], sum[r][v]);
  }
}

template <int kRows>
HWY_INLINE void TileBf16(const float* HWY_RESTRICT x, int64_t stride, const uint32_t* HWY_RESTRICT panel, int64_t k,
                         float* HWY_RESTRICT c, int64_t c_stride, bool accumulate, Ahead ahead) {
  VF sum[kRows][kVectors];
  TileBegin(sum, c, c_stride, accumulate);
  const int64_t pair = kVectors * LaneCount();
  int64_t i = 0;
  for (; i + 4 <= k; i += 4, panel += 2 * pair) {
    ahead.Step();
    HalfStep<false>(sum, x + i, stride, panel);
    HalfStep<true>(sum, x + i + 1, stride, panel);
    HalfStep<false>(sum, x + i + 2, stride, panel + pair);
    HalfStep<true>(sum, x + i + 3, stride, panel + pair);
  }
  for (; i + 2 <= k; i += 2, panel += pair) {
    HalfStep<false>(sum, x + i, stride, panel);
    HalfStep<true>(sum, x + i + 1, stride, panel);
  }
  if (i < k) HalfStep<false>(sum, x + i, stride, panel);
  TileEnd(sum, c, c_stride);
}

void TileHalf(int rows, const float* x, int64_t x_stride, const uint32_t* panel, int64_t k, float* c, int64_t c_stride,
              bool accumulate, const void* ahead, int64_t ahead_lines) {
  WithRows<kRowsOfTile>(rows, [&](auto n) HWY_ATTR {
    TileBf16<decltype(n)::value>(x, x_stride, panel, k, c, c_stride, accumulate,
                                 Ahead{static_cast<const char*>(ahead), ahead_lines});
  });
}

void Finish(int64_t rows, const float* c, int64_t c_stride, const float* bias, int64_t columns, void* out,
            int64_t out_stride, bool out_bf16) {
  for (int64_t j = 0; j < columns; j += LaneCount()) {
    const int64_t left = columns - j;
    const VF add = bias == nullptr ? hn::Zero(DF()) : LoadSome(bias + j, left);
    for (int64_t r = 0; r < rows; ++r) {
      const VF value = LoadSome(c + r * c_stride + j, left);
      StoreSome(bias == nullptr ? value : hn::Add(value, add), left, out_bf16, out, r * out_stride + j);
    }
  }
}

void FinishSilu(int64_t rows, const float* gate, const float* up, int64_t stride, const float* gate_bias,
                const float* up_bias, int64_t columns, void* out, int64_t out_stride, bool out_bf16) {
  const DF d;
  for (int64_t j = 0; j < columns; j += LaneCount()) {
    const int64_t left = columns - j;
    const VF add_gate = gate_bias == nullptr ? hn::Zero(d) : LoadSome(gate_bias + j, left);
    const VF add_up = up_bias == nullptr ? hn::Zero(d) : LoadSome(up_bias + j, left);
    for (int64_t r = 0; r < rows; ++r) {
      const VF g = hn::Add(LoadSome(gate + r * stride + j, left), add_gate);
      const VF u = hn::Add(LoadSome(up + r * stride + j, left), add_up);
      const VF silu = hn::Div(g, hn::Add(hn::Set(d, 1.0f), Exp(hn::Neg(g))));
      StoreSome(hn::Mul(silu, u), left, out_bf16, out, r * out_stride + j);
    }
  }
}

const MatmulKernels* Kernels() {
  static const MatmulKernels kernels{kVectors * LaneCount(), kRowsOfTile, TileFloat, TileHalf, Finish, FinishSilu};
  return &kernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace kvlink::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvlink::kernels::cpu {
HWY_EXPORT(Kernels);
const MatmulKernels& GetMatmulKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }
}  // namespace kvlink::kernels::cpu
#endif
