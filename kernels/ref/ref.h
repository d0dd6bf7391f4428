// The scalar oracle: every operation of kernels.h in plain loops, accumulated in f64 where rounding would hide an error
// of a fast backend. Slow by design.
#ifndef KVLINK_KERNELS_REF_REF_H_
#define KVLINK_KERNELS_REF_REF_H_

#include <memory>

#include "kernels/kernels.h"

namespace kvlink::kernels {

// Thread-safe. `compute` is the result of compute_dtype(): f32 or bf16.
std::unique_ptr<Backend> MakeRefBackend(Dtype compute = Dtype::kF32);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_REF_REF_H_
