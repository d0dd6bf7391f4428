#include "kernels/cuda/cuda.h"

namespace kvlink::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions&) {
  return absl::UnavailableError("this build has no CUDA; build with the preset cuda, or use --device cpu");
}

}  // namespace kvlink::kernels
