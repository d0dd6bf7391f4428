// The CUDA backend on top of runtime.h, launch.h and matmul.h; MakeCudaBackend runs it on CUDA, tests on an emulation.
#ifndef KVLINK_KERNELS_CUDA_BACKEND_H_
#define KVLINK_KERNELS_CUDA_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cuda {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(int device);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_BACKEND_H_
