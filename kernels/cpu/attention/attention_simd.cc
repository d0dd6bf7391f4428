// Two forms, because a panel of one row would leave most lanes empty: wide over (row, head) pairs, narrow along the
// head dimension.
#include "kernels/cpu/attention/attention_simd.h"

#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/attention_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway requires.
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvlink::kernels::cpu {
namespace HWY_NAMESPACE {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

void RowsFromBf16(const std::byte* from, int64_t rows, int64_t dim, float* to, int64_t padded) {
  const int64_t lanes = LaneCount();
  for (int64_t r = 0; r < rows; ++r, from += dim * 2, to += padded) {
    const uint16_t* row = reinterpret_cast<const uint16_t*>(from);
    int64_t i = 0;
    for (; i + lanes <= dim; i += lanes) hn::StoreU(FromBf16(row + i), DF(), to + i);
    for (; i < padded; ++i) {
      const uint32_t bits = i < dim ? uint32_t{row[i]} << 16 : 0;
      std::memcpy(to + i, &bits, 4);
    }
  }
}

void RowsFromQ8(const std::byte* from, const std::byte* scales, int64_t rows, int64_t dim, float* to, int64_t padded) {
  const DF d;
  const int64_t lanes = LaneCount();
  for (int64_t r = 0; r < rows; ++r, from += dim, to += padded) {
    const int8_t* row = reinterpret_cast<const int8_t*>(from);
    float scale;
    std::memcpy(&scale, scales + 4 * r, 4);
    int64_t i = 0;
    for (; i + lanes <= dim; i += lanes) {
      const VI wide = hn::PromoteTo(DI(), hn::LoadU(DB(), row + i));
      hn::StoreU(hn::Mul(hn::ConvertTo(d, wide), hn::Set(d, scale)), d, to + i);
    }
    for (; i < padded; ++i) to[i] = i < dim ? scale * static_cast<float>(row[i]) : 0.0f;
  }
}

void TilesOfPairs(const float* from, int64_t rows, int64_t columns, int64_t padded_rows, uint32_t* to) {
  constexpr int64_t kSide = 16;
  const DF d;
  const DU du;
  const int64_t tiles = (columns + kSide - 1) / kSide, tile_words = padded_rows / 2 * kSide;
  for (int64_t row = 0; row < padded_rows; row += 2) {
    const float* even = from + row * columns;
    uint32_t* words = to + row / 2 * kSide;
    for (int64_t c = 0; c < tiles * kSide; c += LaneCount()) {
      VU pair = hn::Zero(du);
      if (c < columns && row < rows) pair = Bf16Bits(hn::Load(d, even + c));
      if (c < columns && row + 1 < rows) {
        pair = hn::Or(pair, hn::ShiftLeft<16>(Bf16Bits(hn::Load(d, even + columns + c))));
      }
      hn::StoreU(pair, du, words + c / kSide * tile_words + c % kSide);
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
// Each round interleaves rows i and i + 4, which rotates the six bits of (row, column) left by one; after three rounds
// rows and columns are swapped.
HWY_INLINE void Transpose8x8(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride) {
  const hn::FixedTag<uint16_t, 8> d;
  hn::Vec<decltype(d)> rows[8], next[8];
  KVLINK_UNROLL(8)
  for (int i = 0; i < 8; ++i) rows[i] = hn::LoadU(d, from + i * from_stride);
  KVLINK_UNROLL(3)
  for (int round = 0; round < 3; ++round) {
    KVLINK_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      next[2 * i] = hn::InterleaveLower(d, rows[i], rows[i + 4]);
      next[2 * i + 1] = hn::InterleaveUpper(d, rows[i], rows[i + 4]);
    }
    KVLINK_UNROLL(8)
    for (int i = 0; i < 8; ++i) rows[i] = next[i];
  }
  KVLINK_UNROLL(8)
  for (int i = 0; i < 8; ++i) hn::StoreU(rows[i], d, to + i * to_stride);
}
#endif

void TilesOfColumns(const std::byte* from, int64_t rows, int64_t columns, int64_t padded_columns, uint16_t* to) {
  constexpr int64_t kDepth = 32;
  const uint16_t* values = reinterpret_cast<const uint16_t*>(from);
#if HWY_TARGET == HWY_SCALAR
  const int64_t whole_rows = 0, whole_columns = 0;
#else
  const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
  for (int64_t r = 0; r < whole_rows; r += 8) {
    for (int64_t c = 0; c < whole_columns; c += 8) {
      Transpose8x8(values + r * columns + c, columns, to + c * kDepth + r, kDepth);
    }
  }
#endif
  for (int64_t c = 0; c < padded_columns; ++c) {
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < kDepth; ++r) {
      to[c * kDepth + r] = r < rows && c < columns ? values[r * columns + c] : uint16_t{0};
    }
  }
}

void TurnBack(const float* q, const float* cosine, const float* sine, int64_t half, int64_t dim, int vectors,
              float* out) {
  const DF d;
  const int64_t panel = vectors * LaneCount();
  for (int64_t i = 0; i < half; ++i) {
    const VF c = hn::Set(d, cosine[i]), s = hn::Set(d, sine[i]);
    for (int64_t j = 0; j < panel; j += LaneCount()) {
      const VF a = hn::Load(d, q + i * panel + j), b = hn::Load(d, q + (i + half) * panel + j);
      hn::Store(hn::MulAdd(a, c, hn::Mul(b, s)), d, out + i * panel + j);
      hn::Store(hn::NegMulAdd(a, s, hn::Mul(b, c)), d, out + (i + half) * panel + j);
    }
  }
  if (out != q)
    std::memcpy(out + 2 * half * panel, q + 2 * half * panel, static_cast<size_t>((dim - 2 * half) * panel) * 4);
}

template <int kVectors>
void ScoresOf(const float* q, const float* keys, int64_t key_stride, int64_t tokens, int64_t dim, float* scores) {
  constexpr int kMost = kTileRows<kVectors>;
  const int64_t panel = kVectors * LaneCount(), tiles = (tokens + kMost - 1) / kMost;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tokens * tile / tiles, count = tokens * (tile + 1) / tiles - first;
    WithRows<kMost>(static_cast<int>(count), [&](auto n) HWY_ATTR {
      TileF32<decltype(n)::value, kVectors, false>(keys + first * key_stride, key_stride, F32Columns{q, panel}, dim,
                                                   scores + first * panel, panel, false, Ahead());
    });
  }
}

void Scores(const float* q, const float* keys, int64_t key_stride, int64_t tokens, int64_t dim, int vectors,
            float* scores) {
  switch (vectors) {
    case 1:
      return ScoresOf<1>(q, keys, key_stride, tokens, dim, scores);
    case 2:
      return ScoresOf<2>(q, keys, key_stride, tokens, dim, scores);
    case 3:
      return ScoresOf<3>(q, keys, key_stride, tokens, dim, scores);
    default:
      return ScoresOf<4>(q, keys, key_stride, tokens, dim, scores);
  }
}

template <int kVectors>
void ValuesOf(const float* weights, const float* values, int64_t value_stride, int64_t tokens, int64_t dim,
              bool accumulate, float* sums) {
  constexpr int kMost = kTileRows<kVectors>;
  const int64_t panel = kVectors * LaneCount(), tiles = (dim + kMost - 1) / kMost;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = dim * tile / tiles, count = dim * (tile + 1) / tiles - first;
    WithRows<kMost>(static_cast<int>(count), [&](auto n) HWY_ATTR {
      TileF32<decltype(n)::value, kVectors, true>(values + first, value_stride, F32Columns{weights, panel}, tokens,
                                                  sums + first * panel, panel, accumulate, Ahead());
    });
  }
}

void Values(const float* weights, const float* values, int64_t value_stride, int64_t tokens, int64_t dim, int vectors,
            bool accumulate, float* sums) {
  switch (vectors) {
    case 1:
      return ValuesOf<1>(weights, values, value_stride, tokens, dim, accumulate, sums);
    case 2:
      return ValuesOf<2>(weights, values, value_stride, tokens, dim, accumulate, sums);
    case 3:
      return ValuesOf<3>(weights, values, value_stride, tokens, dim, accumulate, sums);
    default:
      return ValuesOf<4>(weights, values, value_stride, tokens, dim, accumulate, sums);
  }
}

// softcap * tanh(x / softcap) in log2 units. tanh(y) = 1 - 2 / (e^(2y) + 1).
HWY_INLINE VF Cap(VF x, VF softcap) {
  const DF d;
  const VF y = hn::Div(hn::Add(x, x), softcap);
  const VF tanh = hn::Sub(hn::Set(d, 1.0f), hn::Div(hn::Set(d, 2.0f), hn::Add(Exp(y), hn::Set(d, 1.0f))));
  return hn::Mul(hn::Mul(softcap, tanh), hn::Set(d, kLog2E));
}

HWY_INLINE bool Hidden(const uint64_t* hidden, int64_t token) {
  return hidden != nullptr && ((hidden[token / 64] >> (token % 64)) & 1) != 0;
}

// Caps and hides scores, one vector of lanes.
void MaskLanes(float* scores, int64_t tokens, int64_t panel, const ScoreMask& mask, int64_t lane, float softcap) {
  const DF d;
  const DI di;
  const bool masked = mask.lo != nullptr;
  const VI lo = masked ? hn::LoadU(di, mask.lo + lane) : hn::Zero(di);
  const VI hi = masked ? hn::LoadU(di, mask.hi + lane) : hn::Set(di, std::numeric_limits<int32_t>::max());
  for (int64_t t = 0; t < tokens; ++t) {
    VF score = hn::Load(d, scores + t * panel);
    if (softcap > 0) score = Cap(score, hn::Set(d, softcap));
    const VI token = hn::Set(di, static_cast<int32_t>(mask.first + t));
    const auto seen = hn::AndNot(hn::Lt(token, lo), hn::Lt(token, hi));
    score = hn::IfThenElse(hn::RebindMask(d, seen), score, hn::Set(d, kNothing));
    if (Hidden(mask.hidden, mask.first + t)) score = hn::Set(d, kNothing);
    hn::Store(score, d, scores + t * panel);
  }
}

// The vectors of a token side by side, so that scores are walked in memory order.
template <int kVectors>
void SoftmaxOf(float* scores, int64_t tokens, float* largest, float* sum) {
  const DF d;
  const int64_t lanes = LaneCount();
  VF most[kVectors], total[kVectors];
  KVLINK_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) most[v] = hn::Set(d, kNothing);
  for (int64_t t = 0; t < tokens; ++t) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) most[v] = hn::Max(most[v], hn::Load(d, scores + (t * kVectors + v) * lanes));
  }
  KVLINK_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) {
    hn::Store(most[v], d, largest + v * lanes);
    most[v] = hn::IfThenElse(hn::Eq(most[v], hn::Set(d, kNothing)), hn::Zero(d), most[v]);
    total[v] = hn::Zero(d);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + (t * kVectors + v) * lanes;
      const VF weight = Exp2NotAboveZero(hn::Sub(hn::Load(d, at), most[v]));
      hn::Store(weight, d, at);
      total[v] = hn::Add(total[v], weight);
    }
  }
  KVLINK_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) hn::Store(total[v], d, sum + v * lanes);
}

void Softmax(float* scores, int64_t tokens, const ScoreMask& mask, float softcap, int vectors, float* largest,
             float* sum) {
  if (mask.lo != nullptr || mask.hidden != nullptr || softcap > 0) {
    for (int v = 0; v < vectors; ++v) {
      const int64_t lane = v * LaneCount();
      MaskLanes(scores + lane, tokens, vectors * LaneCount(), mask, lane, softcap);
    }
  }
  switch (vectors) {
    case 1:
      return SoftmaxOf<1>(scores, tokens, largest, sum);
    case 2:
      return SoftmaxOf<2>(scores, tokens, largest, sum);
    case 3:
      return SoftmaxOf<3>(scores, tokens, largest, sum);
    default:
      return SoftmaxOf<4>(scores, tokens, largest, sum);
  }
}

// 2^(x - largest), where both may be -inf.
HWY_INLINE VF Weight(VF x, VF largest) {
  const DF d;
  const auto nothing = hn::Eq(x, hn::Set(d, kNothing));
  return hn::IfThenZeroElse(nothing, Exp2NotAboveZero(hn::Sub(x, largest)));
}

void Merge(float* state, const float* partial, int64_t dim, int vectors) {
  const DF d;
  const int64_t panel = vectors * LaneCount();
  for (int64_t lane = 0; lane < panel; lane += LaneCount()) {
    float* to = state + lane;
    const float* from = partial + lane;
    const VF old = hn::Load(d, to), other = hn::Load(d, from);
    const VF largest = hn::Max(old, other);
    const VF keep = Weight(old, largest), take = Weight(other, largest);
    hn::Store(largest, d, to);
    for (int64_t i = 1; i < dim + 2; ++i) {
      const VF value = hn::Mul(hn::Load(d, from + i * panel), take);
      hn::Store(hn::MulAdd(hn::Load(d, to + i * panel), keep, value), d, to + i * panel);
    }
  }
}

void Finish(float* state, const float* sinks, int64_t dim, int vectors) {
  const int64_t panel = vectors * LaneCount();
  const DF d;
  for (int64_t lane = 0; lane < panel; lane += LaneCount()) {
    float* to = state + lane;
    HWY_ALIGN float factor[HWY_MAX_BYTES / 4];
    for (int64_t i = 0; i < LaneCount(); ++i) {
      const float largest = to[i], sum = to[panel + i];
      const bool nothing = largest == kNothing;
      const float log2_sum = nothing ? kNothing : largest + std::log2(sum);
      factor[i] = nothing ? 0.0f : 1.0f / sum;
      if (sinks != nullptr && !nothing) factor[i] /= 1.0f + std::exp2(sinks[lane + i] - log2_sum);
      to[i] = log2_sum * kLn2;
    }
    const VF scale = hn::Load(d, factor);
    for (int64_t i = 2; i < dim + 2; ++i) {
      hn::Store(hn::Mul(hn::Load(d, to + i * panel), scale), d, to + i * panel);
    }
  }
}

template <int kHeads>
HWY_INLINE void NarrowScoresOf(const float* q, int64_t q_stride, const float* keys, int64_t key_stride, int64_t tokens,
                               int64_t padded, float* scores, int64_t score_stride) {
  const DF d;
  for (int64_t t = 0; t < tokens; ++t) {
    VF sum[kHeads];
    KVLINK_UNROLL(4)
    for (int h = 0; h < kHeads; ++h) sum[h] = hn::Zero(d);
    for (int64_t i = 0; i < padded; i += LaneCount()) {
      const VF key = hn::LoadU(d, keys + t * key_stride + i);
      KVLINK_UNROLL(4)
      for (int h = 0; h < kHeads; ++h) sum[h] = hn::MulAdd(hn::Load(d, q + h * q_stride + i), key, sum[h]);
    }
    KVLINK_UNROLL(4)
    for (int h = 0; h < kHeads; ++h) scores[h * score_stride + t] = hn::GetLane(hn::SumOfLanes(d, sum[h]));
  }
}

void NarrowScores(const float* q, int64_t q_stride, int64_t heads, const float* keys, int64_t key_stride,
                  int64_t tokens, int64_t padded, float* scores, int64_t score_stride) {
  for (int64_t h = 0; h < heads; h += 4) {
    const float* from = q + h * q_stride;
    float* to = scores + h * score_stride;
    switch (heads - h) {
      case 1:
        NarrowScoresOf<1>(from, q_stride, keys, key_stride, tokens, padded, to, score_stride);
        break;
      case 2:
        NarrowScoresOf<2>(from, q_stride, keys, key_stride, tokens, padded, to, score_stride);
        break;
      case 3:
        NarrowScoresOf<3>(from, q_stride, keys, key_stride, tokens, padded, to, score_stride);
        break;
      default:
        NarrowScoresOf<4>(from, q_stride, keys, key_stride, tokens, padded, to, score_stride);
    }
  }
}

void NarrowSoftmax(float* scores, int64_t tokens, const uint64_t* hidden, int64_t first, float softcap, float* largest,
                   float* sum) {
  const DF d;
  const int64_t padded = (tokens + LaneCount() - 1) / LaneCount() * LaneCount();
  for (int64_t t = tokens; t < padded; ++t) scores[t] = kNothing;
  VF most = hn::Set(d, kNothing);
  for (int64_t t = 0; t < padded; t += LaneCount()) {
    if (softcap > 0) hn::Store(Cap(hn::Load(d, scores + t), hn::Set(d, softcap)), d, scores + t);
    if (softcap > 0 || hidden != nullptr) {
      for (int64_t i = t; i < t + LaneCount(); ++i) {
        if (i >= tokens || Hidden(hidden, first + i)) scores[i] = kNothing;
      }
    }
    most = hn::Max(most, hn::Load(d, scores + t));
  }
  most = hn::MaxOfLanes(d, most);
  *largest = hn::GetLane(most);
  const VF from = hn::IfThenElse(hn::Eq(most, hn::Set(d, kNothing)), hn::Zero(d), most);
  VF total = hn::Zero(d);
  for (int64_t t = 0; t < padded; t += LaneCount()) {
    const VF weight = Exp2NotAboveZero(hn::Sub(hn::Load(d, scores + t), from));
    hn::Store(weight, d, scores + t);
    total = hn::Add(total, weight);
  }
  *sum = hn::GetLane(hn::SumOfLanes(d, total));
}

// kHeads heads, kVectors vectors of the dimension.
template <int kHeads, int kVectors>
HWY_INLINE void NarrowValuesOf(const float* weights, int64_t weight_stride, const float* values, int64_t value_stride,
                               int64_t tokens, bool accumulate, float* sums, int64_t sum_stride) {
  const DF d;
  VF sum[kHeads][kVectors];
  KVLINK_UNROLL(4)
  for (int h = 0; h < kHeads; ++h) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      sum[h][v] = accumulate ? hn::Load(d, sums + h * sum_stride + v * LaneCount()) : hn::Zero(d);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      const VF value = hn::LoadU(d, values + t * value_stride + v * LaneCount());
      KVLINK_UNROLL(4)
      for (int h = 0; h < kHeads; ++h) {
        sum[h][v] = hn::MulAdd(hn::Set(d, weights[h * weight_stride + t]), value, sum[h][v]);
      }
    }
  }
  KVLINK_UNROLL(4)
  for (int h = 0; h < kHeads; ++h) {
    KVLINK_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) hn::Store(sum[h][v], d, sums + h * sum_stride + v * LaneCount());
  }
}

template <int kHeads>
void NarrowValuesHeads(const float* weights, int64_t weight_stride, const float* values, int64_t value_stride,
                       int64_t tokens, int64_t padded, bool accumulate, float* sums, int64_t sum_stride) {
  int64_t i = 0;
  for (; i + 4 * LaneCount() <= padded; i += 4 * LaneCount()) {
    NarrowValuesOf<kHeads, 4>(weights, weight_stride, values + i, value_stride, tokens, accumulate, sums + i,
                              sum_stride);
  }
  for (; i < padded; i += LaneCount()) {
    NarrowValuesOf<kHeads, 1>(weights, weight_stride, values + i, value_stride, tokens, accumulate, sums + i,
                              sum_stride);
  }
}

void NarrowValues(const float* weights, int64_t weight_stride, int64_t heads, const float* values, int64_t value_stride,
                  int64_t tokens, int64_t padded, bool accumulate, float* sums, int64_t sum_stride) {
  for (int64_t h = 0; h < heads; h += 4) {
    const float* from = weights + h * weight_stride;
    float* to = sums + h * sum_stride;
    const auto call = [&](auto n) HWY_ATTR {
      NarrowValuesHeads<decltype(n)::value>(from, weight_stride, values, value_stride, tokens, padded, accumulate, to,
                                            sum_stride);
    };
    switch (heads - h) {
      case 1:
        call(std::integral_constant<int, 1>());
        break;
      case 2:
        call(std::integral_constant<int, 2>());
        break;
      case 3:
        call(std::integral_constant<int, 3>());
        break;
      default:
        call(std::integral_constant<int, 4>());
    }
  }
}

void NarrowMerge(float* state, const float* partial, int64_t padded) {
  const DF d;
  const VF old = hn::Set(d, state[0]), other = hn::Set(d, partial[0]);
  const VF largest = hn::Max(old, other);
  const VF keep = Weight(old, largest), take = Weight(other, largest);
  const float sum = hn::GetLane(hn::MulAdd(hn::Set(d, state[1]), keep, hn::Mul(hn::Set(d, partial[1]), take)));
  for (int64_t i = kNarrowHeader; i < kNarrowHeader + padded; i += LaneCount()) {
    const VF value = hn::Mul(hn::Load(d, partial + i), take);
    hn::Store(hn::MulAdd(hn::Load(d, state + i), keep, value), d, state + i);
  }
  state[0] = hn::GetLane(largest);
  state[1] = sum;
}

const AttentionKernels* Kernels() {
  static const AttentionKernels kernels{
      LaneCount(), kPanelVectors, RowsFromBf16, RowsFromQ8, TilesOfPairs, TilesOfColumns, TurnBack,     Scores,
      Softmax,     Values,        Merge,        Finish,     NarrowScores, NarrowSoftmax,  NarrowValues, NarrowMerge};
  return &kernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace kvlink::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvlink::kernels::cpu {
HWY_EXPORT(Kernels);
const AttentionKernels& GetAttentionKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }
}  // namespace kvlink::kernels::cpu
#endif
