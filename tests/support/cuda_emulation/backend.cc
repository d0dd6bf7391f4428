#include "tests/support/cuda_emulation/backend.h"

#include "kernels/cuda/backend.h"

namespace kvlink::testing {

std::unique_ptr<kernels::Backend> MakeEmulatedCudaBackend() { return *kernels::cuda::MakeBackend(0); }

}  // namespace kvlink::testing
