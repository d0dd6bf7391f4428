// Rotation angles of rows at mostly consecutive positions.
#ifndef KVLINK_KERNELS_CPU_ANGLES_H_
#define KVLINK_KERNELS_CPU_ANGLES_H_

#include <array>
#include <cstdint>

#include "kernels/rope.h"

namespace kvlink::kernels::cpu {

inline constexpr int64_t kMaxHalfRotary = 2048;

// cos and sin of position * inv_freq, times `factor`, rounded once to f32. A step to the next position rotates the last
// angle by one position in f64 (computing sine and cosine for every row would cost more than the rotation they serve);
// every 64th position restarts, so the error stays below 1e-13. About 80 KiB: meant for the stack. Not thread-safe.
class AngleWalker {
 public:
  AngleWalker(const Rope& rope, double factor) : AngleWalker(rope, factor, 0, rope.rotary_dim / 2) {}
  // Only frequencies [begin, begin + count).
  AngleWalker(const Rope& rope, double factor, int64_t begin, int64_t count)
      : frequencies_(rope.inv_freq.data() + begin), factor_(factor), half_(count) {}
  void MoveTo(int64_t position);
  const float* cosine() const { return cosine_.data(); }
  const float* sine() const { return sine_.data(); }
  // Before rounding, and without the factor.
  const double* exact_cosine() const { return c_.data(); }
  const double* exact_sine() const { return s_.data(); }
  int64_t half() const { return half_; }

 private:
  const double* const frequencies_;
  const double factor_;
  const int64_t half_;
  int64_t position_ = 0;
  bool started_ = false;
  bool has_step_ = false;
  std::array<double, kMaxHalfRotary> c_, s_, step_c_, step_s_;
  std::array<float, kMaxHalfRotary> cosine_, sine_;
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ANGLES_H_
