// Shared by kernels: elements of f32 or bf16, rotation angles, sums over a block, faults.
#ifndef KVLINK_KERNELS_CUDA_ELEMENTS_H_
#define KVLINK_KERNELS_CUDA_ELEMENTS_H_

#include <cmath>
#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/operations.h"

namespace kvlink::kernels::cuda {

KVLINK_DEVICE float Load(const View& view, int64_t index) {
  if (view.bf16) return Bf16ToFloat(static_cast<const uint16_t*>(view.data)[index]);
  return static_cast<const float*>(view.data)[index];
}
KVLINK_DEVICE void Store(const View& view, int64_t index, float value) {
  if (view.bf16) {
    static_cast<uint16_t*>(view.data)[index] = ToBf16(value);
  } else {
    static_cast<float*>(view.data)[index] = value;
  }
}

// cos and sin of position * inv_freq[i], in f64. Whole turns are subtracted first, so that sine and cosine need no
// reduction of large arguments.
KVLINK_DEVICE void Angle(const RopeView& rope, int64_t position, int64_t i, double* cosine, double* sine) {
  const double turns = static_cast<double>(position) * rope.turns[i];
  SinCosPi(2 * (turns - rint(turns)), sine, cosine);
}

KVLINK_DEVICE float WarpSum(float value) {
  for (int mask = 16; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
// The sum over all threads, returned to all. `warps`: shared memory, one float per warp of the block.
KVLINK_DEVICE float BlockSum(float value, float* warps) {
  const float sum = WarpSum(value);
  if (ThreadIndex() % 32 == 0) warps[ThreadIndex() / 32] = sum;
  SyncThreads();
  float all = 0;
  for (int i = 0; i < BlockThreads() / 32; ++i) all += warps[i];
  return all;
}

KVLINK_DEVICE void Report(FaultRecord* record, Fault fault, int64_t index, int64_t value, int64_t limit) {
  if (AtomicCas(&record->fault, 0, static_cast<uint32_t>(fault)) != 0) return;
  record->index = index;
  record->value = value;
  record->limit = limit;
}

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_ELEMENTS_H_
