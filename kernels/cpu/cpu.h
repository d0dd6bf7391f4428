// The fast CPU backend: Highway kernels selected for the CPU at run time, and its own pool of threads. bf16 is
// multiplied in AMX (matrices by oneDNN, attention to bf16 segments by our own tiles), otherwise by AVX512_BF16; a CPU
// with neither emulates it. In a build without Highway, MakeCpuBackend returns the scalar backend of kernels/ref, as
// its name() says.
#ifndef KVLINK_KERNELS_CPU_CPU_H_
#define KVLINK_KERNELS_CPU_CPU_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

inline constexpr int kMaxThreads = 1024;

struct CpuOptions {
  int threads = 0;  // at most kMaxThreads; 0: one per core this process may use
  // The type to multiply in. kAuto: bf16 if the CPU multiplies it (AMX, AVX512_BF16), otherwise f32, which is faster
  // than bf16 emulated.
  enum class Compute { kAuto, kF32, kBf16 } compute = Compute::kAuto;
};

// INVALID_ARGUMENT for a negative or absurd thread count. Thread-safe.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CPU_CPU_H_
