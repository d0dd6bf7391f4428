// Linear: rounds x to bf16 if necessary, multiplies, and then does what the library's epilogues cannot (silu-mul; a
// bias with a bf16 output, which would have to be bf16 too).
#ifndef KVLINK_KERNELS_CUDA_LINEAR_H_
#define KVLINK_KERNELS_CUDA_LINEAR_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/matmul.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cuda {

// Thread-safe. Arguments are already validated; the device is that of the calling thread.
class Linear {
 public:
  explicit Linear(std::unique_ptr<Matmul> matmul) : matmul_(std::move(matmul)) {}

  // Converts to bf16, with copies in `upload`; complete on return.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const Tensor& weight, Device device, void* upload) const;
  // Whether Pack made this matrix, for this device.
  static bool Packed(const PackedMatrix& weight, Device device);
  int64_t WorkspaceBytes(int64_t rows, const PackedMatrix& weight) const;
  absl::Status Run(void* stream, const LinearArgs& args) const;

 private:
  const std::unique_ptr<Matmul> matmul_;
};

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_LINEAR_H_
