// A change of one token's logit before it is sampled. Shared by host and device code, so that its arithmetic has one
// definition. Thread-safety: a plain value and a pure function.
#ifndef KVLINK_KERNELS_LOGIT_ADJUSTMENT_H_
#define KVLINK_KERNELS_LOGIT_ADJUSTMENT_H_

#include <cstdint>

#include "kernels/host_device.h"

namespace kvlink::kernels {

// In this order:
//   bias        is added: logit_bias of OpenAI's API
//   repetition  divides a positive logit and multiplies any other: the repetition penalty of CTRL (Keskar et al. 2019,
//               arXiv 1909.05858, section 4.1), which divides; a negative logit must be multiplied to become smaller
//   penalty     is subtracted: of OpenAI's API, count * frequency_penalty + (count > 0) * presence_penalty
struct LogitAdjustment {
  int32_t token = 0;
  float bias = 0;        // finite
  float repetition = 1;  // finite, above 0
  float penalty = 0;     // finite
};

// The product of two f32 is exact in f64, so that a compiler may fuse it with the subtraction without changing a bit.
KVLINK_HOST_DEVICE inline float AdjustedLogit(float logit, const LogitAdjustment& adjustment) {
  const double biased = static_cast<double>(logit + adjustment.bias);
  const double factor = static_cast<double>(adjustment.repetition);
  const double repeated = biased > 0 ? biased / factor : biased * factor;
  return static_cast<float>(repeated - static_cast<double>(adjustment.penalty));
}

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_LOGIT_ADJUSTMENT_H_
