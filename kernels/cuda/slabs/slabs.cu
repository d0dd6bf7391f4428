// Decodes a slab to a raw one, and shifts keys.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTokens = 16;     // of a block's 64, per thread block
constexpr int64_t kShiftRows = 16;  // (token, head) rows per thread block

// A thread block handles 16 tokens of one block across all heads, so that they share the angles. A thread handles two
// elements of a row: a rotated pair of the key, or two neighbours.
KVLINK_KERNEL(kThreads, 4) DecodeKernel(DecodeLaunch l) {
  constexpr int64_t kParts = kBlock / kTokens;
  const int64_t block = BlockX() / kParts, first = BlockX() % kParts * kTokens;
  const int64_t half = l.source.codec == kCodecQ4 ? l.rope.half : 0, pairs = l.source.dim / 2;
  for (int64_t item = ThreadIndex(); item < kTokens * pairs; item += kThreads) {
    const int64_t t = first + item / pairs, i = item % pairs;
    if (block * kBlock + t >= l.source.tokens) break;
    const int64_t low = i < half ? i : 2 * i, high = i < half ? i + half : 2 * i + 1;
    float cosine = 1, sine = 0;
    if (i < half) {
      double c, s;
      Angle(l.rope, block * kBlock + t, i, &c, &s);
      cosine = static_cast<float>(c);
      sine = static_cast<float>(s);
    }
    for (int64_t head = 0; head < l.source.kv_heads; ++head) {
      const BlockView from(l.source, head, block), to(l.out, head, block);
      float a = from.LoadKey(t, low), b = from.LoadKey(t, high);
      if (i < half) {
        const float turned = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = turned;
      }
      to.StoreRaw(to.Key(t), low, a);
      to.StoreRaw(to.Key(t), high, b);
      to.StoreRaw(to.Value(t), 2 * i, from.LoadValue(t, 2 * i));
      to.StoreRaw(to.Value(t), 2 * i + 1, from.LoadValue(t, 2 * i + 1));
    }
  }
}

// All rows rotate by the same angles.
KVLINK_KERNEL(kThreads, 4) ShiftKeysKernel(ShiftKeysLaunch l) {
  const int64_t rest = l.dim - 2 * l.rope.half;
  for (int64_t i = ThreadIndex(); i < l.rope.half + rest; i += kThreads) {
    double c = 1, s = 0;
    if (i < l.rope.half) Angle(l.rope, l.delta, i, &c, &s);
    const float cosine = static_cast<float>(c), sine = static_cast<float>(s);
    for (int64_t row = BlockX() * kShiftRows; row < (BlockX() + 1) * kShiftRows; ++row) {
      const int64_t t = row / l.kv_heads, head = row % l.kv_heads;
      if (t >= l.tokens) break;
      const int64_t slot = l.slots[t];
      if (slot < 0 || slot >= l.slot_count) {
        if (i == 0) Report(l.fault, Fault::kShiftSlot, t, slot, l.slot_count);
        continue;
      }
      const int64_t from = t * l.in.strides[0] + head * l.in.strides[1];
      const int64_t to = slot * l.out.strides[0] + head * l.out.strides[1];
      if (i >= l.rope.half) {
        Store(l.out, to + l.rope.half + i, Load(l.in, from + l.rope.half + i));
        continue;
      }
      const float a = Load(l.in, from + i), b = Load(l.in, from + i + l.rope.half);
      Store(l.out, to + i, a * cosine - b * sine);
      Store(l.out, to + i + l.rope.half, b * cosine + a * sine);
    }
  }
}

}  // namespace

int LaunchDecode(void* stream, const DecodeLaunch& launch) {
  const int64_t blocks = (launch.source.tokens + kBlock - 1) / kBlock;
  return Launch(stream, blocks * (kBlock / kTokens), 1, kThreads, 0, DecodeKernel, launch);
}

int LaunchShiftKeys(void* stream, const ShiftKeysLaunch& launch) {
  const int64_t rows = launch.tokens * launch.kv_heads;
  return Launch(stream, (rows + kShiftRows - 1) / kShiftRows, 1, kThreads, 0, ShiftKeysKernel, launch);
}

}  // namespace kvlink::kernels::cuda
