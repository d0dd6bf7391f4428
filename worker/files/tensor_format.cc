// Expands each element format to f32. Written so that compilers vectorise it; the bit layouts are ggml's.
#include "worker/files/tensor_format.h"

#include <bit>
#include <cstring>

namespace kvlink::model {
namespace {

uint8_t Byte(const std::byte* in) { return static_cast<uint8_t>(*in); }

template <typename T>
T Load(const std::byte* in) {
  T value;
  std::memcpy(&value, in, sizeof(T));
  return value;
}

// Branch-free, so that it vectorises: the multiplication scales normal and subnormal numbers alike.
inline float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN keep the mantissa
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | (uint32_t{half} & 0x8000u) << 16);
}

float Half(const std::byte* in) { return HalfToFloat(Load<uint16_t>(in)); }

void ExpandF32(const std::byte* in, int64_t blocks, float* out) { std::memcpy(out, in, blocks * sizeof(float)); }

void ExpandF16(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) out[i] = HalfToFloat(Load<uint16_t>(in + 2 * i));
}

void ExpandBf16(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) out[i] = std::bit_cast<float>(uint32_t{Load<uint16_t>(in + 2 * i)} << 16);
}

void ExpandF64(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) out[i] = static_cast<float>(Load<double>(in + 8 * i));
}

// Bit 7 sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities, all ones are NaN.
void ExpandF8E4m3(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) {
    const uint32_t bits = Byte(in + i), magnitude = bits & 0x7fu;
    const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
    const uint32_t nan = magnitude == 0x7fu ? 0x7fc00000u : 0u;
    out[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | nan | (bits & 0x80u) << 24);
  }
}

// The upper half of an F16.
void ExpandF8E5m2(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) out[i] = HalfToFloat(static_cast<uint16_t>(Byte(in + i) << 8));
}

// Blocks of 32: the low nibbles of 16 bytes are elements 0..15, the high ones 16..31.
void ExpandQ40(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 18, out += 32) {
    const float d = Half(in);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = Byte(in + 2 + j);
      out[j] = d * static_cast<float>((q & 15) - 8);
      out[j + 16] = d * static_cast<float>((q >> 4) - 8);
    }
  }
}

void ExpandQ41(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 20, out += 32) {
    const float d = Half(in), m = Half(in + 2);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = Byte(in + 4 + j);
      out[j] = d * static_cast<float>(q & 15) + m;
      out[j + 16] = d * static_cast<float>(q >> 4) + m;
    }
  }
}

// As above with a fifth bit per element, bit j of a 32-bit word.
void ExpandQ50(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 22, out += 32) {
    const float d = Half(in);
    const uint32_t high = Load<uint32_t>(in + 2);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = Byte(in + 6 + j);
      out[j] = d * static_cast<float>(static_cast<int>((q & 15) | (high >> j & 1) << 4) - 16);
      out[j + 16] = d * static_cast<float>(static_cast<int>((q >> 4) | (high >> (j + 16) & 1) << 4) - 16);
    }
  }
}

void ExpandQ51(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 24, out += 32) {
    const float d = Half(in), m = Half(in + 2);
    const uint32_t high = Load<uint32_t>(in + 4);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = Byte(in + 8 + j);
      out[j] = d * static_cast<float>((q & 15) | (high >> j & 1) << 4) + m;
      out[j + 16] = d * static_cast<float>((q >> 4) | (high >> (j + 16) & 1) << 4) + m;
    }
  }
}

void ExpandQ80(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 34, out += 32) {
    const float d = Half(in);
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(Byte(in + 2 + j)));
  }
}

constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void ExpandIq4Nl(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 18, out += 32) {
    const float d = Half(in);
    for (int j = 0; j < 16; ++j) {
      const uint8_t q = Byte(in + 2 + j);
      out[j] = d * kIq4Values[q & 15];
      out[j + 16] = d * kIq4Values[q >> 4];
    }
  }
}

// d, 2 bytes with the high two bits of the scales of 8 groups of 32, 4 with their low four bits, 128 of elements.
void ExpandIq4Xs(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 136, out += 256) {
    const float d = Half(in);
    const uint16_t high = Load<uint16_t>(in + 2);
    for (int g = 0; g < 8; ++g) {
      const int scale = (Byte(in + 4 + g / 2) >> (g % 2 * 4) & 15) | (high >> (2 * g) & 3) << 4;
      const float factor = d * static_cast<float>(scale - 32);
      for (int j = 0; j < 16; ++j) {
        const uint8_t q = Byte(in + 8 + g * 16 + j);
        out[g * 32 + j] = factor * kIq4Values[q & 15];
        out[g * 32 + j + 16] = factor * kIq4Values[q >> 4];
      }
    }
  }
}

// 16 bytes with scale and minimum of a group of 16 each, 64 of elements, d, m. Each half of 128 elements has 32 bytes,
// whose bit pairs are four runs of 32.
void ExpandQ2K(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 84, out += 256) {
    const float d = Half(in + 80), m = Half(in + 82);
    for (int i = 0; i < 256; ++i) {
      const uint8_t group = Byte(in + i / 16);
      const int code = Byte(in + 16 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
      out[i] = d * static_cast<float>(group & 15) * static_cast<float>(code) - m * static_cast<float>(group >> 4);
    }
  }
}

// 32 bytes of third bits (bit r of byte j: run r, element j), 64 of low bit pairs as in Q2_K, 12 with the 6-bit scales
// of 16 groups (low nibbles in the first 8, high bit pairs in the last 4), d. A third bit of 0 subtracts 4.
void ExpandQ3K(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 110, out += 256) {
    const float d = Half(in + 108);
    for (int i = 0; i < 256; ++i) {
      const int g = i / 16;
      const int scale = (Byte(in + 96 + g % 8) >> (g / 8 * 4) & 15) | (Byte(in + 104 + g % 4) >> (g / 4 * 2) & 3) << 4;
      const int low = Byte(in + 32 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
      const int code = low - (Byte(in + i % 32) >> (i / 32) & 1 ? 0 : 4);
      out[i] = d * static_cast<float>(scale - 32) * static_cast<float>(code);
    }
  }
}

// The 6-bit scale and minimum of group g, from the 12 packed bytes: groups 0..3 in bytes 0..3 and 4..7; groups 4..7
// have their low four bits in bytes 8..11 and their high two bits on top of the bytes of groups 0..3.
struct ScaleMin {
  float scale, min;
};
ScaleMin GroupScale(const std::byte* packed, int g) {
  if (g < 4) return {static_cast<float>(Byte(packed + g) & 63), static_cast<float>(Byte(packed + g + 4) & 63)};
  const int both = Byte(packed + g + 4);
  return {static_cast<float>((both & 15) | (Byte(packed + g - 4) >> 6) << 4),
          static_cast<float>((both >> 4) | (Byte(packed + g) >> 6) << 4)};
}

void ExpandQ4K(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 144, out += 256) {
    const float d = Half(in), m = Half(in + 2);
    for (int g = 0; g < 8; ++g) {
      const ScaleMin s = GroupScale(in + 4, g);
      const float scale = d * s.scale, min = m * s.min;
      const std::byte* q = in + 16 + g / 2 * 32;
      const int shift = g % 2 * 4;
      for (int j = 0; j < 32; ++j) out[g * 32 + j] = scale * static_cast<float>(Byte(q + j) >> shift & 15) - min;
    }
  }
}

void ExpandQ5K(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 176, out += 256) {
    const float d = Half(in), m = Half(in + 2);
    for (int g = 0; g < 8; ++g) {
      const ScaleMin s = GroupScale(in + 4, g);
      const float scale = d * s.scale, min = m * s.min;
      const std::byte* high = in + 16;
      const std::byte* q = in + 48 + g / 2 * 32;
      const int shift = g % 2 * 4;
      for (int j = 0; j < 32; ++j) {
        const int code = (Byte(q + j) >> shift & 15) | (Byte(high + j) >> g & 1) << 4;
        out[g * 32 + j] = scale * static_cast<float>(code) - min;
      }
    }
  }
}

// 128 low bytes, 64 bytes of high bit pairs, 16 signed scales, d. Each half of 128 elements: 64 low bytes give four
// runs of 32.
void ExpandQ6K(const std::byte* in, int64_t blocks, float* out) {
  for (; blocks > 0; --blocks, in += 210, out += 256) {
    const float d = Half(in + 208);
    for (int run = 0; run < 8; ++run) {
      const int half = run / 4, part = run % 4;
      const std::byte* low = in + half * 64 + part % 2 * 32;
      const std::byte* high = in + 128 + half * 32;
      const int shift = part / 2 * 4;
      for (int j = 0; j < 32; ++j) {
        const float scale = d * static_cast<float>(static_cast<int8_t>(Byte(in + 192 + run * 2 + j / 16)));
        const int code = (Byte(low + j) >> shift & 15) | (Byte(high + j) >> (2 * part) & 3) << 4;
        out[run * 32 + j] = scale * static_cast<float>(code - 32);
      }
    }
  }
}

constexpr TensorFormat kFormats[] = {
    {"F32", 0, 1, 4, ExpandF32},           {"F16", 1, 1, 2, ExpandF16},         {"BF16", 30, 1, 2, ExpandBf16},
    {"F64", 28, 1, 8, ExpandF64},          {"F8_E4M3", -1, 1, 1, ExpandF8E4m3}, {"F8_E5M2", -1, 1, 1, ExpandF8E5m2},
    {"Q8_0", 8, 32, 34, ExpandQ80},        {"Q4_0", 2, 32, 18, ExpandQ40},      {"Q4_1", 3, 32, 20, ExpandQ41},
    {"Q5_0", 6, 32, 22, ExpandQ50},        {"Q5_1", 7, 32, 24, ExpandQ51},      {"IQ4_NL", 20, 32, 18, ExpandIq4Nl},
    {"IQ4_XS", 23, 256, 136, ExpandIq4Xs}, {"Q2_K", 10, 256, 84, ExpandQ2K},    {"Q3_K", 11, 256, 110, ExpandQ3K},
    {"Q4_K", 12, 256, 144, ExpandQ4K},     {"Q5_K", 13, 256, 176, ExpandQ5K},   {"Q6_K", 14, 256, 210, ExpandQ6K},
};

constexpr absl::string_view kGgmlNames[] = {
    "F32",   "F16",    "Q4_0", "Q4_1", "Q4_2", "Q4_3",    "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",   "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16"};

}  // namespace

const TensorFormat* FindTensorFormat(absl::string_view name) {
  for (const TensorFormat& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

const TensorFormat* FindGgmlTensorFormat(uint32_t ggml_type) {
  for (const TensorFormat& format : kFormats) {
    if (format.ggml_type >= 0 && static_cast<uint32_t>(format.ggml_type) == ggml_type) return &format;
  }
  return nullptr;
}

absl::string_view GgmlTypeName(uint32_t ggml_type) {
  return ggml_type < sizeof(kGgmlNames) / sizeof(kGgmlNames[0]) ? kGgmlNames[ggml_type] : "of an unknown number";
}

absl::string_view TensorFormatNames() {
  return "F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K";
}

}  // namespace kvlink::model
