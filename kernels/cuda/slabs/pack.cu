// Packs private KV into a slab; kernels/codec.h defines the arithmetic.
#include "kernels/codec.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// One block of one head of the private KV.
struct Source {
  const PackLaunch& l;
  int64_t base, first_token;

  KVLINK_DEVICE Source(const PackLaunch& launch, int64_t head, int64_t block)
      : l(launch),
        base(launch.block_table[block - launch.first_block] * launch.pages.strides[0] + head * launch.pages.strides[1]),
        first_token(block * kBlock) {}
  // Element d of key (row = token) or value (row = 64 + token).
  KVLINK_DEVICE float Element(int64_t row, int64_t d) const {
    return Load(l.pages, base + row * l.pages.strides[2] + d);
  }
  KVLINK_DEVICE float UnrotatedKey(int64_t t, int64_t d) const {
    const int64_t half = l.rope.half;
    if (d >= 2 * half) return Element(t, d);
    double c, s;
    Angle(l.rope, -(first_token + t), d % half, &c, &s);
    const float cosine = static_cast<float>(c), sine = static_cast<float>(s);
    return d < half ? Element(t, d) * cosine - Element(t, d + half) * sine
                    : Element(t, d) * cosine + Element(t, d - half) * sine;
  }
};

// The smallest and largest of a group; `finite` is false if any value is not.
struct Bounds {
  float smallest = 3.402823466e38f, largest = -3.402823466e38f;
  bool finite = true;

  KVLINK_DEVICE void Add(float x) {
    finite = finite && isfinite(x);
    smallest = fminf(smallest, x);
    largest = fmaxf(largest, x);
  }
  KVLINK_DEVICE void JoinWarp() {
    for (int mask = 16; mask > 0; mask /= 2) {
      smallest = fminf(smallest, ShuffleXor(smallest, mask));
      largest = fmaxf(largest, ShuffleXor(largest, mask));
      finite = ShuffleXor(static_cast<int>(finite), mask) != 0 && finite;
    }
  }
  KVLINK_DEVICE Q4Group Q4() const {
    const float nothing = BitsToFloat(0x7fc00000u);
    return finite ? Q4Group::Of(smallest, largest) : Q4Group::Of(nothing, nothing);
  }
};

KVLINK_DEVICE void StoreBf16(unsigned char* at, uint16_t code) { *reinterpret_cast<uint16_t*>(at) = code; }

KVLINK_DEVICE bool PackRaw(const Source& source, const BlockView& to) {
  bool finite = true;
  for (int64_t i = ThreadIndex(); i < 2 * to.tokens * to.dim; i += kThreads) {
    const int64_t row = i / to.dim, d = i % to.dim;
    const float x = source.Element(row < to.tokens ? row : kBlock + row - to.tokens, d);
    // A finite f32 may round to an infinite bf16.
    finite = finite && isfinite(to.codec == kCodecRawBf16 ? Bf16ToFloat(ToBf16(x)) : x);
    to.StoreRaw(to.Key(row), d, x);  // values follow the keys
  }
  return finite;
}

// One warp per row.
KVLINK_DEVICE bool PackQ8(const Source& source, const BlockView& to) {
  bool finite = true;
  const int lane = ThreadIndex() % 32;
  for (int64_t row = ThreadIndex() / 32; row < 2 * to.tokens; row += kWarps) {
    const int64_t from = row < to.tokens ? row : kBlock + row - to.tokens;
    Bounds bounds;
    for (int64_t d = lane; d < to.dim; d += 32) bounds.Add(fabsf(source.Element(from, d)));
    bounds.JoinWarp();
    const Q8Group group = Q8Group::Of(bounds.finite ? bounds.largest : BitsToFloat(0x7fc00000u));
    finite = finite && group.finite;
    if (!group.finite) continue;
    for (int64_t d = lane; d < to.dim; d += 32) {
      reinterpret_cast<int8_t*>(to.Key(row))[d] = group.Encode(source.Element(from, d));
    }
    if (lane == 0) *reinterpret_cast<float*>(to.Q8Scale(row)) = group.scale;
  }
  return finite;
}

// One thread per byte of the keys' rows (two channels), then one warp per value.
KVLINK_DEVICE bool PackQ4(const Source& source, const BlockView& to) {
  bool finite = true;
  for (int64_t byte = ThreadIndex(); byte < to.dim / 2; byte += kThreads) {
    Q4Group groups[2];
    for (int k = 0; k < 2; ++k) {
      const int64_t d = 2 * byte + k;
      Bounds bounds;
      for (int64_t t = 0; t < to.tokens; ++t) bounds.Add(source.UnrotatedKey(t, d));
      groups[k] = bounds.Q4();
      finite = finite && groups[k].finite;
      StoreBf16(to.KeyScale(d), groups[k].scale_bf16);
      StoreBf16(to.KeyMin(d), groups[k].min_bf16);
    }
    if (!groups[0].finite || !groups[1].finite) continue;
    for (int64_t t = 0; t < to.tokens; ++t) {
      const uint8_t low = groups[0].Encode(source.UnrotatedKey(t, 2 * byte));
      const uint8_t high = groups[1].Encode(source.UnrotatedKey(t, 2 * byte + 1));
      to.Key(t)[byte] = static_cast<unsigned char>(low | high << 4);
    }
  }
  const int lane = ThreadIndex() % 32;
  for (int64_t t = ThreadIndex() / 32; t < to.tokens; t += kWarps) {
    Bounds bounds;
    for (int64_t d = lane; d < to.dim; d += 32) bounds.Add(source.Element(kBlock + t, d));
    bounds.JoinWarp();
    const Q4Group group = bounds.Q4();
    finite = finite && group.finite;
    if (!group.finite) continue;
    for (int64_t byte = lane; byte < to.dim / 2; byte += 32) {
      const uint8_t low = group.Encode(source.Element(kBlock + t, 2 * byte));
      const uint8_t high = group.Encode(source.Element(kBlock + t, 2 * byte + 1));
      to.Value(t)[byte] = static_cast<unsigned char>(low | high << 4);
    }
    if (lane == 0) {
      StoreBf16(to.ValueScale(t), group.scale_bf16);
      StoreBf16(to.ValueMin(t), group.min_bf16);
    }
  }
  return finite;
}

// One thread block per block of each head.
KVLINK_KERNEL(kThreads, 4) PackKernel(PackLaunch l) {
  const int64_t block = l.first_block + BlockX(), head = BlockY();
  const Source source(l, head, block);
  const BlockView to(l.slab, head, block);
  bool finite;
  switch (to.codec) {
    case kCodecQ8:
      finite = PackQ8(source, to);
      break;
    case kCodecQ4:
      finite = PackQ4(source, to);
      break;
    default:
      finite = PackRaw(source, to);
  }
  if (!finite) Report(l.fault, Fault::kPackNotFinite, head, block * kBlock, block * kBlock + to.tokens - 1);
}

}  // namespace

int LaunchPack(void* stream, const PackLaunch& launch) {
  return Launch(stream, launch.blocks, launch.slab.kv_heads, kThreads, 0, PackKernel, launch);
}

}  // namespace kvlink::kernels::cuda
