// Replaces the backend in builds without a CUDA compiler: returns an error that says so.
#include "kernels/cuda/cuda.h"

namespace kvlink::kernels {
namespace {

absl::Status NoCuda() {
  return absl::FailedPreconditionError("this build has no CUDA; build with the preset cuda, or use --device cpu");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions&) { return NoCuda(); }
absl::StatusOr<int64_t> CudaMemoryInUse(int) { return NoCuda(); }

}  // namespace kvlink::kernels
