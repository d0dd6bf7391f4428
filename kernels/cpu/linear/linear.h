// Linear: x W^T with prepacked weights.
//
// Two forms of packed weights:
//   panels  our own multiply (matmul_simd.h), f32 arithmetic. Weights that are exact in bf16 are kept in bf16, which
//           halves what a decode step reads and changes no bit of the result. A row's result does not depend on the
//           other rows.
//   oneDNN  bf16 arithmetic: AMX if the CPU has it.
// Measured without AMX (Xeon with AVX-512, avx512_bf16): oneDNN's f32 reaches 75-90% of the FMA peak, panels 90-97%;
// oneDNN's bf16 50%.
#ifndef KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_
#define KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/linear/dnnl_matmul.h"
#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// Thread-safe.
class Linear {
 public:
  // bf16: multiply in bf16 (x and weights rounded to it, sums in f32).
  Linear(Threads threads, bool bf16);
  ~Linear();

  // Like Backend::PackWeights, LinearWorkspaceBytes and Linear; arguments are already validated.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const Tensor& weight) const;
  // Whether Pack made the matrix.
  bool Packed(const PackedMatrix& weight) const;
  int64_t WorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue epilogue) const;
  // The caller reports errors to the stream (Fail).
  absl::Status Run(const LinearArgs& args) const;

 private:
  const Threads threads_;
  const bool bf16_;
  std::unique_ptr<DnnlMatmul> dnnl_;  // null: panels only
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_
