// bf16 matrix multiply by oneDNN, behind an interface without its types or exceptions.
#ifndef KVLINK_KERNELS_CPU_LINEAR_DNNL_MATMUL_H_
#define KVLINK_KERNELS_CPU_LINEAR_DNNL_MATMUL_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvlink::kernels::cpu {

// Thread-safe.
class DnnlMatmul {
 public:
  // A weight matrix in oneDNN's layout. Immutable.
  class Weights {
   public:
    virtual ~Weights() = default;
    virtual int64_t bytes() const = 0;
  };

  // UNIMPLEMENTED in a build without oneDNN, or if oneDNN cannot multiply bf16 on this CPU.
  static absl::StatusOr<std::unique_ptr<DnnlMatmul>> Make(int threads);
  virtual ~DnnlMatmul() = default;

  // The number of rows computed for a call with `rows`: primitives exist for a few row counts only, which bounds their
  // number.
  static int64_t PaddedRows(int64_t rows);

  // weight: [n, k] bf16, dense.
  virtual absl::StatusOr<std::unique_ptr<Weights>> Pack(const uint16_t* weight, int64_t n, int64_t k) = 0;
  // out[rows][n] f32 = x[rows][k] W^T; rows is a value of PaddedRows.
  virtual absl::Status Run(const uint16_t* x, int64_t rows, const Weights& weights, float* out) = 0;
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_LINEAR_DNNL_MATMUL_H_
