// The public entry of the CUDA backend, in its own file so that tests can build the backend over an emulation.
#include "kernels/cuda/cuda.h"

#include "base/status.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"

namespace kvlink::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options) {
  return cuda::MakeBackend(options.device);
}

absl::StatusOr<int64_t> CudaMemoryInUse(int device) {
  KVLINK_RETURN_IF_ERROR(cuda::OpenDevice(device));
  KVLINK_RETURN_IF_ERROR(cuda::UseDevice(device));
  return cuda::MemoryInUse();
}

}  // namespace kvlink::kernels
