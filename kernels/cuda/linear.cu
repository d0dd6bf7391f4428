// Kernels before and after the matrix product of Linear.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLog2E = 1.44269504f;

KVLINK_KERNEL(kThreads, 4) RoundRowsKernel(RoundRowsLaunch l) {
  const int64_t index = BlockX() * kThreads + ThreadIndex();
  if (index >= l.rows * l.padded) return;
  const int64_t row = index / l.padded, column = index % l.padded;
  l.to[index] = column < l.columns ? ToBf16(Load(l.from, row * l.from.strides[0] + column)) : uint16_t{0};
}

KVLINK_DEVICE float Biased(const FinishLinearLaunch& l, int64_t row, int64_t column) {
  const float value = Load(l.product, row * l.product.strides[0] + column);
  return l.bias == nullptr ? value : value + l.bias[column];
}

KVLINK_KERNEL(kThreads, 4) FinishLinearKernel(FinishLinearLaunch l) {
  const int64_t index = BlockX() * kThreads + ThreadIndex();
  if (index >= l.rows * l.columns) return;
  const int64_t row = index / l.columns, column = index % l.columns;
  float value = Biased(l, row, column);
  if (l.silu_mul) value = value / (1.0f + Exp2(-value * kLog2E)) * Biased(l, row, l.columns + column);
  Store(l.out, row * l.out.strides[0] + column, value);
}

}  // namespace

int LaunchRoundRows(void* stream, const RoundRowsLaunch& launch) {
  return Launch(stream, (launch.rows * launch.padded + kThreads - 1) / kThreads, 1, kThreads, 0, RoundRowsKernel,
                launch);
}

int LaunchFinishLinear(void* stream, const FinishLinearLaunch& launch) {
  return Launch(stream, (launch.rows * launch.columns + kThreads - 1) / kThreads, 1, kThreads, 0, FinishLinearKernel,
                launch);
}

}  // namespace kvlink::kernels::cuda
