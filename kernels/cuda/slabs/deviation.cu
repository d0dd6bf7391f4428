// How far recomputed keys and values are from cached ones: one warp per row, so that sums have a fixed order.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// Sums of squares: of differences, and of the cached numbers.
struct Squares {
  float difference = 0, cached = 0;

  KVLINK_DEVICE void Add(float was, float is) {
    difference += (is - was) * (is - was);
    cached += was * was;
  }
  KVLINK_DEVICE float Quotient() const {
    const float numerator = WarpSum(difference), denominator = WarpSum(cached);
    return numerator == 0 ? 0 : numerator / denominator;
  }
};

KVLINK_KERNEL(kThreads, 4) KvDeviationKernel(KvDeviationLaunch l) {
  const int64_t row = BlockX() * (kThreads / 32) + ThreadIndex() / 32, lane = ThreadIndex() % 32;
  if (row >= l.rows) return;
  const int64_t token = l.tokens[row], slot = l.slots[row];
  if (token < 0 || token >= l.token_count) {
    if (lane == 0) Report(l.fault, Fault::kDeviationToken, row, token, l.token_count);
    return;
  }
  if (slot < 0 || slot >= l.slot_count) {
    if (lane == 0) Report(l.fault, Fault::kDeviationSlot, row, slot, l.slot_count);
    return;
  }
  const int64_t dim = l.cached.dim, half = l.rope.half, t = token % kBlock;
  const int64_t at = l.table == nullptr ? token / kBlock : l.table[token / kBlock];
  // Calls f(block, element of the recomputed key, of the value) for each kv head.
  const auto each_head = [&](const auto& f) {
    for (int64_t head = 0; head < l.cached.kv_heads; ++head) {
      const int64_t from = slot / kBlock * l.pages.strides[0] + head * l.pages.strides[1];
      f(BlockView(l.cached, head, token / kBlock, at), from + slot % kBlock * dim,
        from + (kBlock + slot % kBlock) * dim);
    }
  };
  Squares keys, values;
  for (int64_t i = lane; i < half; i += 32) {
    double c, s;
    Angle(l.rope, l.offset, i, &c, &s);
    const float cosine = static_cast<float>(c), sine = static_cast<float>(s);
    each_head([&](const BlockView& block, int64_t key, int64_t) {
      const float a = block.LoadKey(t, i), b = block.LoadKey(t, i + half);
      keys.Add(a * cosine - b * sine, Load(l.pages, key + i));
      keys.Add(b * cosine + a * sine, Load(l.pages, key + i + half));
    });
  }
  for (int64_t d = lane; d < dim; d += 32) {
    each_head([&](const BlockView& block, int64_t key, int64_t value) {
      if (d >= 2 * half) keys.Add(block.LoadKey(t, d), Load(l.pages, key + d));
      values.Add(block.LoadValue(t, d), Load(l.pages, value + d));
    });
  }
  const float deviation = keys.Quotient() + values.Quotient();
  if (lane == 0) l.out[row] = deviation;
}

}  // namespace

int LaunchKvDeviation(void* stream, const KvDeviationLaunch& launch) {
  constexpr int64_t kWarps = kThreads / 32;
  return Launch(stream, (launch.rows + kWarps - 1) / kWarps, 1, kThreads, 0, KvDeviationKernel, launch);
}

}  // namespace kvlink::kernels::cuda
