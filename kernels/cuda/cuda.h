// The CUDA backend: cuBLASLt for matrix products in bf16, kernels of our own for the rest, for devices of compute
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

// UNAVAILABLE, naming --device cpu, without a driver, without such a device, or in a build without CUDA. Thread-safe.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options);

// Bytes of the device's memory that all backends of this process have in use, except for those given to networks.
// UNAVAILABLE as above. Thread-safe.
absl::StatusOr<int64_t> CudaMemoryInUse(int device);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CUDA_CUDA_H_
