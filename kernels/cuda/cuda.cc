#include "kernels/cuda/cuda.h"

#include "kernels/cuda/backend.h"

namespace kvlink::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options) {
  return cuda::MakeBackend(options.device);
}

}  // namespace kvlink::kernels
