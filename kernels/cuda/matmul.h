// The matrix product of Linear, separate so that only one file needs cuBLASLt: matmul.cc, replaced in
// tests/support/cuda_emulation by a plain loop.
#ifndef KVLINK_KERNELS_CUDA_MATMUL_H_
#define KVLINK_KERNELS_CUDA_MATMUL_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/operations.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cuda {

// out[rows, n] = x[rows, k] weight[n, k]^T (+ bias), sums in f32. Rows of x and weight are bf16, 16-byte aligned, k a
// multiple of 8. Rows of out are 16-byte aligned. With a bias, which is f32 and 16-byte aligned, out is f32 and n a
// multiple of 8. The workspace is 256-byte aligned.
struct MatmulArgs {
  const uint16_t* x = nullptr;
  int64_t x_stride = 0;
  const uint16_t* weight = nullptr;  // dense
  const float* bias = nullptr;       // or nullptr
  View out;
  int64_t rows = 0, n = 0, k = 0;
  Workspace workspace;
};

// Thread-safe.
class Matmul {
 public:
  virtual ~Matmul() = default;
  virtual int64_t WorkspaceBytes() const = 0;
  virtual absl::Status Run(void* stream, const MatmulArgs& args) = 0;
};

// For the device in use.
absl::StatusOr<std::unique_ptr<Matmul>> MakeMatmul();

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_MATMUL_H_
