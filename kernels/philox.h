// Philox4x32-10, the counter-based random number generator of Salmon et al., "Parallel random numbers: as easy as 1, 2,
// 3" (SC 2011): the same bits for the same (key, counter) on every machine. Thread-safety: pure functions.
#ifndef KVLINK_KERNELS_PHILOX_H_
#define KVLINK_KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

#include "kernels/host_device.h"

namespace kvlink::kernels {

KVLINK_HOST_DEVICE constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                                                std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in [0, 1), a multiple of 2^-53: key = seed, counter = position, both low word first, the upper counter words
// 0. The first output word gives the upper bits.
KVLINK_HOST_DEVICE constexpr double PhiloxUniform(uint64_t seed, uint64_t position) {
  const auto word = Philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                               {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>(((uint64_t{word[0]} << 32) | word[1]) >> 11) * 0x1p-53;
}

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_PHILOX_H_
