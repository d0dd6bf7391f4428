// XXH3-64 with seed 0 (xxHash 0.8's specification) for kernels: short inputs by one thread, parts of long ones by a
// warp.
#ifndef KVLINK_KERNELS_CUDA_SLABS_XXH3_H_
#define KVLINK_KERNELS_CUDA_SLABS_XXH3_H_

#include <cstdint>

#include "kernels/cuda/device.h"

namespace kvlink::kernels::cuda::xxh3 {

inline constexpr uint64_t kPrime32_1 = 0x9E3779B1, kPrime32_2 = 0x85EBCA77, kPrime32_3 = 0xC2B2AE3D;
inline constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87, kPrime64_2 = 0xC2B2AE3D27D4EB4F,
                          kPrime64_3 = 0x165667B19E3779F9, kPrime64_4 = 0x85EBCA77C2B2AE63,
                          kPrime64_5 = 0x27D4EB2F165667C5;
inline constexpr int64_t kShort = 240;  // bytes up to which an input is hashed without stripes
inline constexpr int64_t kStripe = 64, kStripes = 16, kBlockBytes = kStripe * kStripes;

// The default secret, as little-endian words.
KVLINK_DEVICE_TABLE uint64_t kSecret[24] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb,
    0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088,
    0x4ef90da297486471, 0xd8acdea946ef1938, 0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a,
    0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,
};

// 8 bytes of the secret, starting at byte `at`.
KVLINK_DEVICE uint64_t Secret(int64_t at) {
  const int64_t word = at / 8;
  const int shift = static_cast<int>(at % 8) * 8;
  return shift == 0 ? kSecret[word] : kSecret[word] >> shift | kSecret[word + 1] << (64 - shift);
}

KVLINK_DEVICE uint64_t Read(const unsigned char* from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(from[i]) << (8 * i);
  return value;
}
KVLINK_DEVICE uint64_t Read64(const unsigned char* from) {
  if (reinterpret_cast<uintptr_t>(from) % 8 == 0) return *reinterpret_cast<const uint64_t*>(from);
  if (reinterpret_cast<uintptr_t>(from) % 4 == 0) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(from);
    return words[0] | static_cast<uint64_t>(words[1]) << 32;
  }
  return Read(from, 8);
}

KVLINK_DEVICE uint64_t Fold(uint64_t a, uint64_t b) { return a * b ^ MultiplyHigh(a, b); }
KVLINK_DEVICE uint64_t RotateLeft(uint64_t x, int by) { return x << by | x >> (64 - by); }
KVLINK_DEVICE uint64_t SwapBytes(uint64_t x) {
  uint64_t swapped = 0;
  for (int i = 0; i < 8; ++i) swapped = swapped << 8 | (x >> (8 * i) & 0xff);
  return swapped;
}
KVLINK_DEVICE uint64_t Avalanche(uint64_t h) {
  h = (h ^ h >> 37) * 0x165667919E3779F9u;
  return h ^ h >> 32;
}
KVLINK_DEVICE uint64_t Avalanche64(uint64_t h) {  // XXH64's
  h = (h ^ h >> 33) * kPrime64_2;
  h = (h ^ h >> 29) * kPrime64_3;
  return h ^ h >> 32;
}
KVLINK_DEVICE uint64_t Mix(const unsigned char* in, int64_t secret) {
  return Fold(Read64(in) ^ Secret(secret), Read64(in + 8) ^ Secret(secret + 8));
}

// An input of at most kShort bytes.
KVLINK_DEVICE uint64_t OfShort(const unsigned char* in, int64_t length) {
  const uint64_t size = static_cast<uint64_t>(length);
  if (length == 0) return Avalanche64(Secret(56) ^ Secret(64));
  if (length <= 3) {
    const uint64_t combined =
        static_cast<uint64_t>(in[0]) << 16 | static_cast<uint64_t>(in[length / 2]) << 24 | in[length - 1] | size << 8;
    return Avalanche64(combined ^ ((Secret(0) ^ Secret(4)) & 0xffffffffu));
  }
  if (length <= 8) {
    uint64_t h = (Read(in + length - 4, 4) + (Read(in, 4) << 32)) ^ Secret(8) ^ Secret(16);
    h = (h ^ RotateLeft(h, 49) ^ RotateLeft(h, 24)) * 0x9FB21C651E98DF25u;
    h = (h ^ ((h >> 35) + size)) * 0x9FB21C651E98DF25u;
    return h ^ h >> 28;
  }
  if (length <= 16) {
    const uint64_t low = Read64(in) ^ Secret(24) ^ Secret(32), high = Read64(in + length - 8) ^ Secret(40) ^ Secret(48);
    return Avalanche(size + SwapBytes(low) + high + Fold(low, high));
  }
  uint64_t sum = size * kPrime64_1;
  if (length <= 128) {
    for (int64_t i = (length - 1) / 32; i >= 0; --i) {
      sum += Mix(in + 16 * i, 32 * i) + Mix(in + length - 16 * (i + 1), 32 * i + 16);
    }
    return Avalanche(sum);
  }
  for (int64_t i = 0; i < 8; ++i) sum += Mix(in + 16 * i, 16 * i);
  sum = Avalanche(sum);
  for (int64_t i = 8; i < length / 16; ++i) sum += Mix(in + 16 * i, 16 * (i - 8) + 3);
  return Avalanche(sum + Mix(in + length - 16, 136 - 17));
}

// Initial sums of the eight words of a stripe.
KVLINK_DEVICE_TABLE uint64_t kStarts[8] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                                           kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
KVLINK_DEVICE uint64_t MultiplyHalves(uint64_t x) { return (x & 0xffffffffu) * (x >> 32); }
KVLINK_DEVICE uint64_t Scramble(uint64_t sum, uint64_t secret) { return (sum ^ sum >> 47 ^ secret) * kPrime32_1; }

}  // namespace kvlink::kernels::cuda::xxh3

#endif  // KVLINK_KERNELS_CUDA_SLABS_XXH3_H_
