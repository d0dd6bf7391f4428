// Linear: x W^T with prepacked weights.
//
// Two forms of packed weights:
//   panels  our own multiply, whose rows do not depend on each other. In f32 (matmul_simd.h) weights that are exact in
//           bf16 are kept in bf16, which halves what a decode step reads and changes no bit of the result. In bf16
//           pairs of numbers are multiplied (bf16/avx512_bf16.h).
//   oneDNN  bf16 arithmetic where pairs are not multiplied: AMX if the CPU has it.
// Measured on a Xeon with AVX-512: oneDNN's f32 reaches 75-90% of the FMA peak, panels 90-97%. On Zen 5 (AVX512_BF16,
// no AMX) pairs in a cache are multiplied at 1.7 to 2.0 times the rate of f32, by any number of rows; oneDNN reaches
// that from 64 rows on, but one row costs it what 16 cost.
#ifndef KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_
#define KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/bf16/avx512_bf16.h"
#include "kernels/cpu/linear/dnnl_matmul.h"
#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// Thread-safe.
class Linear {
 public:
  // bf16: multiply in bf16 (x and weights rounded to it, sums in f32), by `pairs` unless it is nullptr.
  Linear(Threads threads, bool bf16, MultiplyPairs pairs);
  ~Linear();

  // Like Backend::PackWeights, LinearWorkspaceBytes and Linear; arguments are already validated.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const Tensor& weight) const;
  // Whether Pack made the matrix, or would have made one like it.
  bool Packed(const PackedMatrix& weight) const;
  int64_t WorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue epilogue) const;
  // The caller reports errors to the stream (Fail).
  absl::Status Run(const LinearArgs& args) const;

 private:
  const Threads threads_;
  const bool bf16_;
  const MultiplyPairs pairs_;         // null: panels are multiplied in f32
  std::unique_ptr<DnnlMatmul> dnnl_;  // null: panels only
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_LINEAR_LINEAR_H_
