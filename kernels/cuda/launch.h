// Launches kernels; for the files that define them. See kernels/cuda/device.h.
#ifndef KVLINK_KERNELS_CUDA_LAUNCH_H_
#define KVLINK_KERNELS_CUDA_LAUNCH_H_

#include "kernels/cuda/device.h"

#ifndef KVLINK_EMULATE_CUDA

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace kvlink::kernels::cuda {

// Launches `grid_x` x `grid_y` blocks (grid_y <= 65535) of `threads` threads (whole warps) with `shared` bytes of
// shared memory. Returns the launch error, for LaunchStatus of runtime.h.
template <typename... P>
int Launch(void* stream, int64_t grid_x, int64_t grid_y, int threads, int64_t shared, void (*kernel)(P...),
           const std::type_identity_t<P>&... arguments) {
  constexpr int64_t kWithoutAsking = 48 << 10;
  if (shared > kWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y));
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared), static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_EMULATE_CUDA

#endif  // KVLINK_KERNELS_CUDA_LAUNCH_H_
