// Checksums. Thread-safety: pure functions.
#ifndef KVLINK_BASE_CHECKSUM_H_
#define KVLINK_BASE_CHECKSUM_H_

#include <stddef.h>
#include <stdint.h>

namespace kvlink {

// XXH3-64 (seed 0), computed with the widest vectors this processor has: the checksum of units, envelopes and kernels.
// The code is compiled once per instruction set; every variant returns the same value.
uint64_t Xxh3(const void* data, size_t bytes);

// CRC-32C (RFC 3720, section 12.1), masked as in the logs of LevelDB and RocksDB and in TFRecord files, so that the
// checksum of data which holds checksums is a good one.
uint32_t MaskedCrc32c(const void* data, size_t bytes);

namespace internal {

uint64_t ChecksumBaseline(const void* data, size_t bytes);
// REQUIRES: the processor supports the instruction set. The same holds for AVX-512.
uint64_t ChecksumAvx2(const void* data, size_t bytes);
uint64_t ChecksumAvx512(const void* data, size_t bytes);

}  // namespace internal
}  // namespace kvlink

#endif  // KVLINK_BASE_CHECKSUM_H_
