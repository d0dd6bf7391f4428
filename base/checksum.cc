// The implementation without instructions beyond the compiler's default is compiled here, those for AVX2 and AVX-512 in
// files of their own, which get the options for these.
#include "base/checksum.h"

#define KVLINK_CHECKSUM ChecksumBaseline
#include "base/checksum.inc"

namespace kvlink {
namespace {

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

}  // namespace kvlink
