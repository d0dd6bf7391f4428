// The fast CPU backend: Highway kernels chosen for the CPU at run time, oneDNN where matrices are multiplied in bf16
// (AMX), attention to bf16 segments in AMX tiles, a pool of threads of its own. Without oneDNN in the build bf16 is
// emulated; without Highway MakeCpuBackend gives the scalar backend of kernels/ref, which says so by its name().
#ifndef KVLINK_KERNELS_CPU_CPU_H_
#define KVLINK_KERNELS_CPU_CPU_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

inline constexpr int kMaxThreads = 1024;

struct CpuOptions {
  int threads = 0;  // at most kMaxThreads; 0: one for each core this process may use
  // The type to multiply in. kAuto: bf16 where the CPU has AMX, f32 elsewhere (bf16 without AMX is slower than f32).
  enum class Compute { kAuto, kF32, kBf16 } compute = Compute::kAuto;
};

// INVALID_ARGUMENT for a negative or absurd thread count. Thread-safe.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CPU_CPU_H_
