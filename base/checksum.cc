// The implementation without instructions beyond the compiler's default is compiled here, those for AVX2 and AVX-512 in
// files of their own, which get the options for these.
#include "base/checksum.h"

#include <array>
#include <cstring>

#define KVLINK_CHECKSUM ChecksumBaseline
#include "base/checksum.inc"

namespace kvlink {
namespace {

// Eight bytes at a time: table t is for a byte followed by t others.
using CrcTables = std::array<std::array<uint32_t, 256>, 8>;
constexpr CrcTables MakeCrcTables() {
  CrcTables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    tables[0][i] = crc;
  }
  for (size_t t = 1; t < tables.size(); ++t) {
    for (uint32_t i = 0; i < 256; ++i) {
      const uint32_t before = tables[t - 1][i];
      tables[t][i] = tables[0][before & 0xff] ^ (before >> 8);
    }
  }
  return tables;
}
constexpr CrcTables kCrcTables = MakeCrcTables();

using Function = uint64_t (*)(const void*, size_t);

Function Choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return internal::ChecksumAvx512;
  if (__builtin_cpu_supports("avx2")) return internal::ChecksumAvx2;
#endif
  return internal::ChecksumBaseline;
}

}  // namespace

uint64_t Xxh3(const void* data, size_t bytes) {
  static const Function function = Choose();
  return function(data, bytes);
}

uint32_t MaskedCrc32c(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  uint32_t crc = ~0u;
  for (; bytes >= 8; at += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    word ^= crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= kCrcTables[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (; bytes > 0; ++at, --bytes) crc = kCrcTables[0][(crc ^ *at) & 0xff] ^ (crc >> 8);
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace kvlink
