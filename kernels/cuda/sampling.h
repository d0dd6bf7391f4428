// The host side of sampling: uploads what the caller gives of each row, and launches. Arguments are already validated.
// Thread-safety: of a stream, one thread at a time.
#ifndef KVLINK_KERNELS_CUDA_SAMPLING_H_
#define KVLINK_KERNELS_CUDA_SAMPLING_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cuda {

// Of the workspace: a copy of the logits of each row with adjustments.
inline int64_t AdjustedBytes(int64_t adjusted, int64_t vocab) {
  return std::max<int64_t>(adjusted, 0) * vocab * static_cast<int64_t>(sizeof(float));
}

absl::Status Sample(CudaStream& stream, const SampleArgs& args);
absl::Status Logprobs(CudaStream& stream, const LogprobsArgs& args);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_SAMPLING_H_
