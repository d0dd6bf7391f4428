// XXH3-64 (seed 0), computed with the widest vectors this processor has: the checksum of units, envelopes and kernels.
// The code is compiled once per instruction set; every variant returns the same value. Thread-safety: pure functions.
#ifndef KVLINK_BASE_CHECKSUM_H_
#define KVLINK_BASE_CHECKSUM_H_

#include <stddef.h>
#include <stdint.h>

namespace kvlink {

uint64_t Xxh3(const void* data, size_t bytes);

namespace internal {

uint64_t ChecksumBaseline(const void* data, size_t bytes);
// REQUIRES: the processor supports the instruction set. The same holds for AVX-512.
uint64_t ChecksumAvx2(const void* data, size_t bytes);
uint64_t ChecksumAvx512(const void* data, size_t bytes);

}  // namespace internal
}  // namespace kvlink

#endif  // KVLINK_BASE_CHECKSUM_H_
