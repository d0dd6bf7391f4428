// Steps around attention: the angles of a plan before it, the merge of a row's slots after it.
#include <cmath>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_rows.h"
#include "kernels/cuda/launch.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 4;  // dimensions per lane

// One warp per (row, head), in two passes over the states: the largest score, then one factor per slot.
KVLINK_KERNEL(kThreads, 4) MergeAttentionKernel(AttentionLaunch l) {
  const int64_t item = BlockX() * (kThreads / 32) + ThreadIndex() / 32;
  const int64_t row = item / l.heads, head = item % l.heads, lane = ThreadIndex() % 32;
  if (row >= l.rows) return;
  const int64_t begin = l.plan.row_slots[row], end = l.plan.row_slots[row + 1];
  float largest = kNothingSeen;
  for (int64_t slot = begin; slot < end; ++slot) largest = fmaxf(largest, l.states[2 * (slot * l.heads + head)]);
  const bool nothing = largest == kNothingSeen;
  float sum = 0;
  for (int64_t slot = begin; !nothing && slot < end; ++slot) {
    const float* state = l.states + 2 * (slot * l.heads + head);
    sum += state[1] * Exp2(state[0] - largest);
  }
  const float log2_sum = nothing ? kNothingSeen : largest + log2f(sum);
  float share = nothing ? 0 : 1 / sum;
  // A sink adds a power of two but no value.
  if (l.sinks != nullptr && !nothing) share /= 1 + Exp2(l.sinks[head] * kLog2E - log2_sum);
  const int64_t to = row * l.out.strides[0] + head * l.dim;
  for (int64_t first = lane; first < l.dim; first += 32 * kAtOnce) {
    float values[kAtOnce] = {};
    for (int64_t slot = begin; !nothing && slot < end; ++slot) {
      const int64_t at = slot * l.heads + head;
      const float weight = Exp2(l.states[2 * at] - largest);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + 32 * i < l.dim) values[i] += l.values[at * l.dim + first + 32 * i] * weight;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + 32 * i < l.dim) Store(l.out, to + first + 32 * i, values[i] * share);
    }
  }
  if (l.lse != nullptr && lane == 0) l.lse[row * l.lse_strides[0] + head * l.lse_strides[1]] = log2_sum * kLn2;
}

KVLINK_KERNEL(kThreads, 4) AnglesKernel(AnglesLaunch l) {
  const int64_t index = BlockX() * kThreads + ThreadIndex();
  const int64_t row = index / l.rope.half, i = index % l.rope.half;
  if (row >= l.count) return;
  double cosine, sine;
  Angle(l.rope, l.positions[row * l.stride], i, &cosine, &sine);
  float* out = l.out + row * 2 * l.rope.half + i;
  out[0] = static_cast<float>(cosine * l.factor);
  out[l.rope.half] = static_cast<float>(sine * l.factor);
}

}  // namespace

int LaunchMergeAttention(void* stream, const AttentionLaunch& launch) {
  constexpr int64_t kWarps = kThreads / 32;
  return Launch(stream, (launch.rows * launch.heads + kWarps - 1) / kWarps, 1, kThreads, 0, MergeAttentionKernel,
                launch);
}

int LaunchAngles(void* stream, const AnglesLaunch& launch) {
  return Launch(stream, (launch.count * launch.rope.half + kThreads - 1) / kThreads, 1, kThreads, 0, AnglesKernel,
                launch);
}

}  // namespace kvlink::kernels::cuda
