// Advances angles from position to position by a rotation, and restarts every 64 positions, so that errors do not
// accumulate.
#include "kernels/cpu/angles.h"

#include <cmath>

namespace kvlink::kernels::cpu {

void AngleWalker::MoveTo(int64_t position) {
  if (started_ && position == position_) return;
  const bool step = started_ && position == position_ + 1 && position % 64 != 0;
  if (step) {
    if (!has_step_) {
      for (int64_t i = 0; i < half_; ++i) {
        step_c_[i] = std::cos(frequencies_[i]);
        step_s_[i] = std::sin(frequencies_[i]);
      }
      has_step_ = true;
    }
    for (int64_t i = 0; i < half_; ++i) {
      const double c = c_[i], s = s_[i];
      c_[i] = c * step_c_[i] - s * step_s_[i];
      s_[i] = s * step_c_[i] + c * step_s_[i];
    }
  } else {
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[i];
      c_[i] = std::cos(angle);
      s_[i] = std::sin(angle);
    }
  }
  for (int64_t i = 0; i < half_; ++i) {
    cosine_[i] = static_cast<float>(c_[i] * factor_);
    sine_[i] = static_cast<float>(s_[i] * factor_);
  }
  position_ = position;
  started_ = true;
}

}  // namespace kvlink::kernels::cpu
