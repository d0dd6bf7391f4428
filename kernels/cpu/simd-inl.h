// Per-target helpers (Highway's include guard idiom: this file is compiled once per instruction set).
#if defined(KVLINK_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVLINK_KERNELS_CPU_SIMD_INL_H_
#undef KVLINK_KERNELS_CPU_SIMD_INL_H_
#else
#define KVLINK_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvlink::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::ScalableTag<uint32_t>;
using DI = hn::ScalableTag<int32_t>;
using DH = hn::Rebind<uint16_t, DF>;  // as many 16-bit lanes as DF has floats
using DB = hn::Rebind<int8_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using VI = hn::Vec<DI>;

HWY_INLINE int64_t LaneCount() { return static_cast<int64_t>(hn::Lanes(DF())); }

// 2^f for |f| <= 1/2: minimax polynomial, largest relative error 7.5e-8 before rounding.
HWY_INLINE VF Exp2Fraction(VF f) {
  const DF d;
  VF p = hn::Set(d, 1.3276472028e-03f);
  p = hn::MulAdd(p, f, hn::Set(d, 9.6755414799e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5507132747e-02f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022119721e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314696706e-01f));
  return hn::MulAdd(p, f, hn::Set(d, 1.0f));
}

// p * 2^n for whole n; 0 where n < -126, and n is taken as at most 127 (2^127 * p may be infinite).
HWY_INLINE VF ScaleByPower(VF p, VF n) {
  const DF d;
  const DI di;
  const VF clamped = hn::Min(hn::Max(n, hn::Set(d, -126.0f)), hn::Set(d, 127.0f));
  const VI bits = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, clamped), hn::Set(di, 127)));
  return hn::IfThenElseZero(hn::Ge(n, hn::Set(d, -126.0f)), hn::Mul(p, hn::BitCast(d, bits)));
}

// 2^x for x <= 0; 0 for x < -126 and for -infinity. Adding 1.5 * 2^23 leaves the nearest whole number in the low bits,
// from which it is added to the exponent.
HWY_INLINE VF Exp2NotAboveZero(VF x) {
  const DF d;
  const DI di;
  const VF least = hn::Set(d, -126.0f), shift = hn::Set(d, 12582912.0f);
  const auto tiny = hn::Lt(x, least);
  x = hn::Max(x, least);
  const VF shifted = hn::Add(x, shift);
  const VF p = Exp2Fraction(hn::Sub(x, hn::Sub(shifted, shift)));
  const VI power = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::IfThenZeroElse(tiny, hn::BitCast(d, hn::Add(hn::BitCast(di, p), power)));
}

// e^x, within about 2 units in the last place.
HWY_INLINE VF Exp(VF x) {
  const DF d;
  x = hn::Min(hn::Max(x, hn::Set(d, -120.0f)), hn::Set(d, 88.72f));
  const VF high = hn::Set(d, 1.44269502162933349609375f);  // log2(e) rounded to f32, and the rest
  const VF low = hn::Set(d, 1.92596299e-8f);
  const VF n = hn::Round(hn::Mul(x, high));
  return ScaleByPower(Exp2Fraction(hn::MulAdd(x, low, hn::MulSub(x, high, n))), n);
}

// Lane count at most Lanes(DF()); lanes beyond `count` are zero.
HWY_INLINE VF LoadSome(const float* from, int64_t count) {
  const DF d;
  if (count >= LaneCount()) return hn::LoadU(d, from);
  HWY_ALIGN float lanes[HWY_MAX_BYTES / 4] = {};
  std::memcpy(lanes, from, static_cast<size_t>(count) * 4);
  return hn::Load(d, lanes);
}

HWY_INLINE VF FromBf16(const uint16_t* from) {
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), hn::LoadU(DH(), from))));
}

// As bf16, in the low halves. Rounds to nearest even; NaN stays NaN.
HWY_INLINE VU Bf16Bits(VF value) {
  const DU du;
  const VU bits = hn::BitCast(du, value);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const VU rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff))));
  const VU quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::IfThenElse(is_nan, quiet, rounded);
}
HWY_INLINE void ToBf16(VF value, uint16_t* to) { hn::StoreU(hn::TruncateTo(DH(), Bf16Bits(value)), DH(), to); }

// Stores min(count, lanes) of the lanes.
HWY_INLINE void StoreSome(VF value, int64_t count, bool bf16, void* out, int64_t at) {
  const int64_t lanes = LaneCount();
  if (count >= lanes) {
    if (bf16) {
      ToBf16(value, static_cast<uint16_t*>(out) + at);
    } else {
      hn::StoreU(value, DF(), static_cast<float*>(out) + at);
    }
    return;
  }
  HWY_ALIGN float some[HWY_MAX_BYTES / 4];
  HWY_ALIGN uint16_t half[HWY_MAX_BYTES / 4];
  if (bf16) {
    ToBf16(value, half);
    std::memcpy(static_cast<uint16_t*>(out) + at, half, static_cast<size_t>(count) * 2);
  } else {
    hn::Store(value, DF(), some);
    std::memcpy(static_cast<float*>(out) + at, some, static_cast<size_t>(count) * 4);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvlink::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif
