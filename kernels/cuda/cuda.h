// The CUDA backend: cuBLASLt for bf16 matrix products, our own kernels for everything else, for devices of compute
// capability 8.0 (A100) and later.
#ifndef KVLINK_KERNELS_CUDA_CUDA_H_
#define KVLINK_KERNELS_CUDA_CUDA_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

struct CudaOptions {
  int device = 0;
};

// UNAVAILABLE, suggesting --device cpu, without a driver or a suitable device, or in a build without CUDA. Thread-safe.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options);

// Bytes of device memory in use by all backends of this process, except memory allocated for networks. UNAVAILABLE as
// above. Thread-safe.
absl::StatusOr<int64_t> CudaMemoryInUse(int device);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CUDA_CUDA_H_
