// The register-blocked multiply used by Linear and LinkedAttention, per target.
#if defined(KVLINK_KERNELS_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVLINK_KERNELS_CPU_TILE_INL_H_
#undef KVLINK_KERNELS_CPU_TILE_INL_H_
#else
#define KVLINK_KERNELS_CPU_TILE_INL_H_
#endif

#include <utility>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvlink::kernels::cpu {
namespace HWY_NAMESPACE {

// The widest panel, in vectors. Four where 6 x 4 sums fit the registers (32 under AVX-512): fewer instructions per
// multiply-add than 14 x 2, which matters when two hardware threads share a core.
constexpr int kPanelVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
// Rows of a tile: as many as the registers hold sums for, beside one step's columns and a broadcast.
template <int kVectors>
constexpr int kTileRows = HWY_TARGET > HWY_AVX3 ? 6
                          : kVectors == 4       ? 6
                          : kVectors == 3       ? 8
                                                : 14;

#if HWY_COMPILER_GCC_ACTUAL
#define KVLINK_UNROLL(n) HWY_PRAGMA(GCC unroll n)
#else
#define KVLINK_UNROLL(n) HWY_PRAGMA(unroll)
#endif
#define HWY_PRAGMA(tokens) _Pragma(#tokens)

// Prefetches while a tile is computed: `lines` cache lines every four steps of k.
struct Ahead {
  const char* from = nullptr;
  int64_t lines = 0;
  HWY_INLINE void Step() {
    for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(from + line * 64, 0, 2);
    from += lines * 64;
  }
};

// The source of the right-hand side's columns: one step of k is kVectors vectors.
struct F32Columns {
  const float* data;
  int64_t stride;  // floats from one step of k to the next
  template <int kVectors>
  HWY_INLINE void Load(int64_t step, VF (&out)[kVectors]) const {
    const DF d;
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) out[v] = hn::Load(d, data + step * stride + v * hn::Lanes(d));
  }
};

// sum[row] += a(row, i) * columns(i).
template <bool kTransposed, int kRows, int kVectors>
HWY_INLINE void TileStep(VF (&sum)[kRows][kVectors], const float* HWY_RESTRICT a, int64_t stride,
                         const F32Columns& columns, int64_t i) {
  VF column[kVectors];
  columns.Load(i, column);
  KVLINK_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    const VF value = hn::Set(DF(), kTransposed ? a[i * stride + r] : a[r * stride + i]);
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(value, column[v], sum[r][v]);
  }
}

template <int kRows, int kVectors>
HWY_INLINE void TileBegin(VF (&sum)[kRows][kVectors], const float* HWY_RESTRICT c, int64_t c_stride, bool accumulate) {
  const DF d;
  KVLINK_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = accumulate ? hn::LoadU(d, c + r * c_stride + v * LaneCount()) : hn::Zero(d);
    }
  }
}

template <int kRows, int kVectors>
HWY_INLINE void TileEnd(const VF (&sum)[kRows][kVectors], float* HWY_RESTRICT c, int64_t c_stride) {
  KVLINK_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[r][v], DF(), c + r * c_stride + v * LaneCount());
  }
}

// c[row * c_stride + column] (+)= sum over k of a(row, k) * columns(k). Every element is one chain of fused
// multiply-adds in the order of k, so a row's result does not depend on how many rows there are. a(row, k) is a[row *
// stride + k], or a[k * stride + row] where kTransposed.
template <int kRows, int kVectors, bool kTransposed>
HWY_INLINE void TileF32(const float* HWY_RESTRICT a, int64_t stride, const F32Columns& columns, int64_t k,
                        float* HWY_RESTRICT c, int64_t c_stride, bool accumulate, Ahead ahead) {
  VF sum[kRows][kVectors];
  TileBegin(sum, c, c_stride, accumulate);
  int64_t i = 0;
  for (; i + 4 <= k; i += 4) {
    ahead.Step();
    KVLINK_UNROLL(4)
    for (int u = 0; u < 4; ++u) TileStep<kTransposed>(sum, a, stride, columns, i + u);
  }
  for (; i < k; ++i) TileStep<kTransposed>(sum, a, stride, columns, i);
  TileEnd(sum, c, c_stride);
}

// Calls f<rows>() for rows in 1..kMost.
template <typename F, int... kIndex>
HWY_INLINE void WithRowsImpl(int rows, F&& f, std::integer_sequence<int, kIndex...>) {
  (void)((rows == kIndex + 1 ? (f(std::integral_constant<int, kIndex + 1>()), true) : false) || ...);
}
template <int kMost, typename F>
HWY_INLINE void WithRows(int rows, F&& f) {
  WithRowsImpl(rows, f, std::make_integer_sequence<int, kMost>());
}

}  // namespace HWY_NAMESPACE
}  // namespace kvlink::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif
