// Vector kernels over rows (norms, conversions, rotations, codecs), compiled for each target and selected at run time.
#include "kernels/cpu/rows_simd.h"

#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway requires.
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvlink::kernels::cpu {
namespace HWY_NAMESPACE {
namespace {

void Widen(const uint16_t* from, int64_t count, float* to) {
  const int64_t lanes = LaneCount();
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(FromBf16(from + i), DF(), to + i);
  for (; i < count; ++i) {
    const uint32_t bits = uint32_t{from[i]} << 16;
    std::memcpy(to + i, &bits, 4);
  }
}

void Narrow(const float* from, int64_t count, uint16_t* to) {
  const int64_t lanes = LaneCount();
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) ToBf16(hn::LoadU(DF(), from + i), to + i);
  if (i < count) StoreSome(LoadSome(from + i, count - i), count - i, /*bf16=*/true, to, i);
}

void Round(const float* from, int64_t count, float* to) {
  const int64_t lanes = LaneCount();
  HWY_ALIGN uint16_t half[HWY_MAX_BYTES / 4];
  for (int64_t i = 0; i < count; i += lanes) {
    ToBf16(LoadSome(from + i, count - i), half);
    StoreSome(FromBf16(half), count - i, /*bf16=*/false, to, i);
  }
}

void Add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += LaneCount()) {
    const int64_t left = count - i;
    StoreSome(hn::Add(LoadSome(to + i, left), LoadSome(from + i, left)), left, /*bf16=*/false, to, i);
  }
}

float SumOfSquares(const float* from, int64_t count) {
  const DF d;
  const int64_t lanes = LaneCount();
  VF sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const VF a = hn::LoadU(d, from + i), b = hn::LoadU(d, from + i + lanes);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  for (; i < count; i += lanes) {
    const VF a = LoadSome(from + i, count - i);
    sum0 = hn::MulAdd(a, a, sum0);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

void Scale(const float* from, float factor, const float* weight, int64_t count, float* to) {
  const VF f = hn::Set(DF(), factor);
  for (int64_t i = 0; i < count; i += LaneCount()) {
    const int64_t left = count - i;
    StoreSome(hn::Mul(hn::Mul(LoadSome(from + i, left), f), LoadSome(weight + i, left)), left, /*bf16=*/false, to, i);
  }
}

void Rotate(float* row, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; i += LaneCount()) {
    const int64_t left = half - i;
    const VF a = LoadSome(row + i, left), b = LoadSome(row + half + i, left);
    const VF c = LoadSome(cosine + i, left), s = LoadSome(sine + i, left);
    StoreSome(hn::NegMulAdd(b, s, hn::Mul(a, c)), left, /*bf16=*/false, row, i);
    StoreSome(hn::MulAdd(a, s, hn::Mul(b, c)), left, /*bf16=*/false, row, half + i);
  }
}

int64_t ArgMax(const float* from, int64_t count) {
  const DF d;
  const int64_t lanes = LaneCount();
  const float nothing = -std::numeric_limits<float>::infinity();
  VF most = hn::Set(d, nothing);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const VF x = hn::LoadU(d, from + i);
    most = hn::IfThenElse(hn::Gt(x, most), x, most);  // ignores NaN
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  for (; i < count; ++i) largest = from[i] > largest ? from[i] : largest;
  if (largest == nothing) return -1;
  for (i = 0; i + lanes <= count; i += lanes) {
    if (!hn::AllFalse(d, hn::Eq(hn::LoadU(d, from + i), hn::Set(d, largest)))) break;
  }
  while (from[i] != largest) ++i;
  return i;
}

float LargestMagnitude(const float* from, int64_t count) {
  // As integers, magnitudes keep their order, with infinity and NaN above all others.
  const DU du;
  const VU magnitude = hn::Set(du, 0x7fffffffu);
  VU most = hn::Zero(du);
  for (int64_t i = 0; i < count; i += LaneCount()) {
    most = hn::Max(most, hn::And(hn::BitCast(du, LoadSome(from + i, count - i)), magnitude));
  }
  const uint32_t bits = hn::GetLane(hn::MaxOfLanes(du, most));
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

void Extremes(const float* from, int64_t count, float* smallest, float* largest) {
  const DF d;
  const int64_t lanes = LaneCount();
  float low = from[0], high = from[0];
  int64_t i = 0;
  if (count >= lanes) {
    VF least = hn::LoadU(d, from), most = least;
    for (i = lanes; i + lanes <= count; i += lanes) {
      const VF x = hn::LoadU(d, from + i);
      least = hn::Min(least, x);
      most = hn::Max(most, x);
    }
    low = hn::GetLane(hn::MinOfLanes(d, least));
    high = hn::GetLane(hn::MaxOfLanes(d, most));
  }
  for (; i < count; ++i) {
    low = from[i] < low ? from[i] : low;
    high = from[i] > high ? from[i] : high;
  }
  *smallest = low;
  *largest = high;
}

void EncodeQ8(const float* from, int64_t count, float inverse, int8_t* to) {
  const DF d;
  const int64_t lanes = LaneCount();
  const VF most = hn::Set(d, 127.0f), least = hn::Set(d, -127.0f);
  for (int64_t i = 0; i < count; i += lanes) {
    const VF x = hn::Mul(LoadSome(from + i, count - i), hn::Set(d, inverse));
    const auto codes = hn::DemoteTo(DB(), hn::NearestInt(hn::Min(hn::Max(x, least), most)));
    if (count - i >= lanes) {
      hn::StoreU(codes, DB(), to + i);
    } else {
      HWY_ALIGN int8_t some[HWY_MAX_BYTES];
      hn::StoreU(codes, DB(), some);
      std::memcpy(to + i, some, static_cast<size_t>(count - i));
    }
  }
}

void DecodeQ8(const int8_t* from, int64_t count, float scale, float* to) {
  const DF d;
  const int64_t lanes = LaneCount();
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const VF codes = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(DB(), from + i)));
    hn::StoreU(hn::Mul(codes, hn::Set(d, scale)), d, to + i);
  }
  for (; i < count; ++i) to[i] = scale * static_cast<float>(from[i]);
}

// The codes of elements [at, at + lanes) of a row of nibbles, lanes even.
HWY_INLINE VF Nibbles(const uint8_t* from, int64_t at) {
  const hn::Rebind<uint8_t, DU> d8;
  const hn::Half<hn::Rebind<uint16_t, DU>> pairs;  // one 16-bit lane per byte
  const hn::Rebind<uint8_t, decltype(pairs)> bytes;
  // A byte becomes a 16-bit lane with the low code in its low byte and the high code in its high byte.
  const auto wide = hn::PromoteTo(pairs, hn::LoadU(bytes, from + at / 2));
  const auto low = hn::And(wide, hn::Set(pairs, 0x0f)), high = hn::ShiftLeft<4>(hn::And(wide, hn::Set(pairs, 0xf0)));
  const auto codes = hn::BitCast(d8, hn::Or(low, high));
  return hn::ConvertTo(DF(), hn::PromoteTo(DI(), codes));
}

void DecodeQ4(const uint8_t* from, int64_t count, float scale, float min, float* to) {
  const DF d;
  const int64_t lanes = LaneCount();
  int64_t i = 0;
  if (lanes >= 2) {
    for (; i + lanes <= count; i += lanes) {
      hn::StoreU(hn::MulAdd(Nibbles(from, i), hn::Set(d, scale), hn::Set(d, min)), d, to + i);
    }
  }
  for (; i < count; ++i) to[i] = min + scale * static_cast<float>((from[i / 2] >> (i % 2 * 4)) & 0x0f);
}

void DecodeQ4Channels(const uint8_t* from, int64_t count, const uint16_t* scales_bf16, const uint16_t* mins_bf16,
                      float* to) {
  const DF d;
  const int64_t lanes = LaneCount();
  int64_t i = 0;
  if (lanes >= 2) {
    for (; i + lanes <= count; i += lanes) {
      hn::StoreU(hn::MulAdd(Nibbles(from, i), FromBf16(scales_bf16 + i), FromBf16(mins_bf16 + i)), d, to + i);
    }
  }
  for (; i < count; ++i) {
    float scale, min;
    Widen(scales_bf16 + i, 1, &scale);
    Widen(mins_bf16 + i, 1, &min);
    to[i] = min + scale * static_cast<float>((from[i / 2] >> (i % 2 * 4)) & 0x0f);
  }
}

const RowKernels* Kernels() {
  static const RowKernels kernels{
      Widen,  Narrow,           Round,    Add,      SumOfSquares, Scale,    Rotate,
      ArgMax, LargestMagnitude, Extremes, EncodeQ8, DecodeQ8,     DecodeQ4, DecodeQ4Channels};
  return &kernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace kvlink::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvlink::kernels::cpu {
HWY_EXPORT(Kernels);
const RowKernels& GetRowKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }
}  // namespace kvlink::kernels::cpu
#endif
