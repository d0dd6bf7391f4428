// Packs private KV into slabs, decodes slabs to raw ones, and shifts keys.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/codec.h"
#include "kernels/cpu/angles.h"
#include "kernels/cpu/element_rows.h"
#include "kernels/cpu/first_error.h"
#include "kernels/cpu/operations.h"

namespace kvlink::kernels::cpu {
namespace {

// Channels of a q4 block rotated back and coded together: pairs (i, i + half), or channels without rotation.
constexpr int64_t kChannels = 64;

template <typename T>
T* At(std::byte* bytes, int64_t offset) {
  return reinterpret_cast<T*>(bytes + offset);
}

// Stores a raw row; false if a number is not finite.
bool StoreRaw(Codec codec, const float* row, int64_t dim, std::byte* to) {
  if (codec == Codec::kRawF32) {
    std::memcpy(to, row, static_cast<size_t>(dim) * 4);
    return std::isfinite(GetRowKernels().largest_magnitude(row, dim));
  }
  GetRowKernels().narrow(row, dim, At<uint16_t>(to, 0));
  // A value that rounds to infinity counts as not finite.
  const float largest = GetRowKernels().largest_magnitude(row, dim);
  return std::isfinite(largest) && std::isfinite(Bf16ToFloat(FloatToBf16(largest)));
}

bool StoreQ8(const float* row, int64_t dim, std::byte* to, std::byte* scale) {
  const Q8Group group = Q8Group::Of(GetRowKernels().largest_magnitude(row, dim));
  if (!group.finite) return false;
  GetRowKernels().encode_q8(row, dim, group.inverse, At<int8_t>(to, 0));
  std::memcpy(scale, &group.scale, 4);
  return true;
}

// One block of one head of private KV.
class PageBlock {
 public:
  PageBlock(const PackArgs& args, int64_t head, int64_t block)
      : args_(args),
        base_(args.block_table[block] * args.pages.strides[0] + head * args.pages.strides[1]),
        first_(block * kBlockTokens) {}
  // Numbers [begin, begin + count) of a key (or value) row.
  void Load(bool value, int64_t token, int64_t begin, int64_t count, float* to) const {
    const int64_t row = (value ? kBlockTokens : 0) + token;
    LoadRow(args_.pages, base_ + row * args_.pages.strides[2] + begin, count, to);
  }
  int64_t position(int64_t token) const { return first_ + token; }
  const Rope& rope() const { return *args_.rope; }

 private:
  const PackArgs& args_;
  const int64_t base_;
  const int64_t first_;
};

void StoreNibble(std::byte* row, int64_t d, uint8_t code) {
  std::byte& byte = row[d / 2];
  byte = d % 2 == 0 ? std::byte{code} : (byte & std::byte{0x0f}) | std::byte{static_cast<uint8_t>(code << 4)};
}

// Codes channel d; the number of token t is column[t * stride].
bool StoreQ4Channel(const SlabShape& shape, int64_t n, int64_t d, const float* column, int64_t stride,
                    std::byte* block) {
  float smallest = column[0], largest = column[0];
  bool finite = true;
  for (int64_t t = 0; t < n; ++t) {
    const float x = column[t * stride];
    finite = finite && std::isfinite(x);
    smallest = std::min(smallest, x);
    largest = std::max(largest, x);
  }
  const Q4Group group = Q4Group::Of(smallest, largest);
  if (!finite || !group.finite) return false;
  std::byte* scales = block + shape.scale_offset(n);
  std::memcpy(scales + 2 * d, &group.scale_bf16, 2);
  std::memcpy(scales + 2 * (shape.head_dim + d), &group.min_bf16, 2);
  for (int64_t t = 0; t < n; ++t) StoreNibble(block + t * shape.row_bytes(), d, group.Encode(column[t * stride]));
  return true;
}

bool StoreQ4Keys(const SlabShape& shape, int64_t n, const PageBlock& source, std::byte* block) {
  const int64_t half = source.rope().rotary_dim / 2, dim = shape.head_dim;
  alignas(64) float channels[kBlockTokens * 2 * kChannels];
  constexpr int64_t kStride = 2 * kChannels;
  bool finite = true;
  // A byte holds the nibbles of two neighbouring channels: the even one is stored first, so that neither is
  // overwritten.
  for (int64_t i = 0; i < half; i += kChannels) {
    const int64_t count = std::min(kChannels, half - i);
    AngleWalker angles(source.rope(), 1.0, i, count);
    for (int64_t t = 0; t < n; ++t) {
      float* row = channels + t * kStride;
      alignas(64) float first[kChannels], second[kChannels];
      source.Load(false, t, i, count, first);
      source.Load(false, t, i + half, count, second);
      angles.MoveTo(source.position(t));
      for (int64_t j = 0; j < count; ++j) {
        const double c = angles.exact_cosine()[j], s = angles.exact_sine()[j];
        row[j] = static_cast<float>(first[j] * c + second[j] * s);
        row[kChannels + j] = static_cast<float>(second[j] * c - first[j] * s);
      }
    }
    for (int64_t j = 0; j < count; ++j)
      finite = StoreQ4Channel(shape, n, i + j, channels + j, kStride, block) && finite;
    for (int64_t j = 0; j < count; ++j) {
      finite = StoreQ4Channel(shape, n, i + half + j, channels + kChannels + j, kStride, block) && finite;
    }
  }
  for (int64_t i = 2 * half; i < dim; i += kStride) {
    const int64_t count = std::min(kStride, dim - i);
    for (int64_t t = 0; t < n; ++t) source.Load(false, t, i, count, channels + t * kStride);
    for (int64_t j = 0; j < count; ++j)
      finite = StoreQ4Channel(shape, n, i + j, channels + j, kStride, block) && finite;
  }
  return finite;
}

bool StoreQ4Values(const SlabShape& shape, int64_t n, const PageBlock& source, std::byte* block) {
  const int64_t dim = shape.head_dim;
  const RowKernels& kernels = GetRowKernels();
  std::byte* scales = block + shape.scale_offset(n) + 4 * dim;
  alignas(64) float row[kMaxHeadDim];
  bool finite = true;
  for (int64_t t = 0; t < n; ++t) {
    source.Load(true, t, 0, dim, row);
    float smallest, largest;
    kernels.extremes(row, dim, &smallest, &largest);
    const Q4Group group = Q4Group::Of(smallest, largest);
    if (!group.finite || !std::isfinite(kernels.largest_magnitude(row, dim))) {
      finite = false;
      continue;
    }
    std::memcpy(scales + 2 * t, &group.scale_bf16, 2);
    std::memcpy(scales + 2 * (n + t), &group.min_bf16, 2);
    std::byte* to = block + shape.value_offset(n) + t * shape.row_bytes();
    for (int64_t d = 0; d < dim; ++d) StoreNibble(to, d, group.Encode(row[d]));
  }
  return finite;
}

bool PackBlock(const SlabShape& shape, int64_t n, const PageBlock& source, std::byte* block) {
  if (shape.codec == Codec::kQ4) {
    const bool keys = StoreQ4Keys(shape, n, source, block);
    return StoreQ4Values(shape, n, source, block) && keys;
  }
  alignas(64) float row[kMaxHeadDim];
  bool finite = true;
  for (const bool value : {false, true}) {
    std::byte* to = block + (value ? shape.value_offset(n) : 0);
    std::byte* scale = block + shape.scale_offset(n) + (value ? 4 * n : 0);
    for (int64_t t = 0; t < n; ++t, to += shape.row_bytes(), scale += 4) {
      source.Load(value, t, 0, shape.head_dim, row);
      finite = (shape.codec == Codec::kQ8 ? StoreQ8(row, shape.head_dim, to, scale)
                                          : StoreRaw(shape.codec, row, shape.head_dim, to)) &&
               finite;
    }
  }
  return finite;
}

// One block of one head of a stored slab, row by row as f32; keys in their stored rotation.
class StoredBlock {
 public:
  StoredBlock(const SlabShape& shape, const std::byte* block, int64_t n) : shape_(shape), block_(block), n_(n) {}
  void Load(bool value, int64_t t, float* to) const {
    const RowKernels& kernels = GetRowKernels();
    const int64_t dim = shape_.head_dim;
    const std::byte* row = block_ + (value ? shape_.value_offset(n_) : 0) + t * shape_.row_bytes();
    const std::byte* scales = block_ + shape_.scale_offset(n_);
    switch (shape_.codec) {
      case Codec::kRawF32:
        std::memcpy(to, row, static_cast<size_t>(dim) * 4);
        break;
      case Codec::kRawBf16:
        kernels.widen(reinterpret_cast<const uint16_t*>(row), dim, to);
        break;
      case Codec::kQ8: {
        float scale;
        std::memcpy(&scale, scales + 4 * ((value ? n_ : 0) + t), 4);
        kernels.decode_q8(reinterpret_cast<const int8_t*>(row), dim, scale, to);
        break;
      }
      case Codec::kQ4: {
        const uint8_t* codes = reinterpret_cast<const uint8_t*>(row);
        const uint16_t* channels = reinterpret_cast<const uint16_t*>(scales);
        if (value) {
          const uint16_t* tokens = channels + 2 * dim;
          kernels.decode_q4(codes, dim, Bf16ToFloat(tokens[t]), Bf16ToFloat(tokens[n_ + t]), to);
        } else {
          kernels.decode_q4_channels(codes, dim, channels, channels + dim, to);
        }
      }
    }
  }

 private:
  const SlabShape& shape_;
  const std::byte* const block_;
  const int64_t n_;
};

void DecodeBlock(const DecodeArgs& args, const SlabShape& to, int64_t b) {
  const SlabShape& from = args.source_shape;
  const int64_t n = from.block_tokens(b), dim = from.head_dim;
  const Rope none{};
  AngleWalker angles(args.rope == nullptr || from.keys_rotated() ? none : *args.rope, 1.0);
  alignas(64) float row[kMaxHeadDim];
  const auto store = [&](std::byte* out) {
    if (to.codec == Codec::kRawF32) {
      std::memcpy(out, row, static_cast<size_t>(dim) * 4);
    } else {
      GetRowKernels().narrow(row, dim, At<uint16_t>(out, 0));
    }
  };
  // Tokens outside, heads inside, so that all heads share the angles of a token.
  for (int64_t t = 0; t < n; ++t) {
    if (!from.keys_rotated()) angles.MoveTo(b * kBlockTokens + t);
    for (int64_t head = 0; head < from.kv_heads; ++head) {
      const StoredBlock block(from, args.source.as<const std::byte>() + from.block_offset(head, b), n);
      std::byte* out = args.out.as<std::byte>() + to.block_offset(head, b) + t * to.row_bytes();
      block.Load(false, t, row);
      if (!from.keys_rotated()) GetRowKernels().rotate(row, angles.cosine(), angles.sine(), angles.half());
      store(out);
      block.Load(true, t, row);
      store(out + to.value_offset(n));
    }
  }
}

}  // namespace

void Pack(HostStream& stream, const PackArgs& args, const Threads& threads) {
  const SlabShape& shape = args.shape;
  std::byte* slab = args.slab.as<std::byte>();
  FirstError bad;
  threads.For(shape.kv_heads * shape.blocks(), [&](int64_t item, int) {
    const int64_t head = item / shape.blocks(), b = item % shape.blocks();
    const PageBlock source(args, head, b);
    if (!PackBlock(shape, shape.block_tokens(b), source, slab + shape.block_offset(head, b))) bad.Note(item);
  });
  std::fill(slab + shape.used_bytes(), slab + shape.slab_bytes(), std::byte{0});
  if (const int64_t item = bad.first(); item != FirstError::kNone) {
    const int64_t head = item / shape.blocks(), b = item % shape.blocks();
    stream.Fail(absl::InternalError(absl::StrCat("Pack: head ", head, ", tokens ", b * kBlockTokens, " to ",
                                                 b * kBlockTokens + shape.block_tokens(b) - 1,
                                                 " hold a key or value that is not finite")));
  }
}

void Decode(const DecodeArgs& args, const Threads& threads) {
  SlabShape to = args.source_shape;
  to.codec = args.codec;
  std::byte* out = args.out.as<std::byte>();
  if (args.source_shape.codec == args.codec) {
    constexpr int64_t kPiece = 1 << 18;
    threads.For((to.used_bytes() + kPiece - 1) / kPiece, [&](int64_t item, int) {
      const int64_t begin = item * kPiece, count = std::min(kPiece, to.used_bytes() - begin);
      std::memcpy(out + begin, args.source.as<const std::byte>() + begin, static_cast<size_t>(count));
    });
  } else {
    threads.For(to.blocks(), [&](int64_t b, int) { DecodeBlock(args, to, b); });
  }
  std::fill(out + to.used_bytes(), out + to.slab_bytes(), std::byte{0});
}

void ShiftKeys(HostStream& stream, const ShiftKeysArgs& args, const Threads& threads) {
  constexpr int64_t kRun = 64;
  const int64_t tokens = args.in.sizes[0], kv_heads = args.in.sizes[1], dim = args.in.sizes[2];
  const int64_t* slots = args.slots.as<const int64_t>();
  FirstError bad;
  threads.For((tokens + kRun - 1) / kRun, [&](int64_t item, int) {
    AngleWalker angles(*args.rope, 1.0);
    angles.MoveTo(args.delta);
    alignas(64) float row[kMaxHeadDim];
    for (int64_t t = item * kRun; t < std::min(tokens, (item + 1) * kRun); ++t) {
      if (slots[t] < 0 || slots[t] >= args.out.sizes[0]) {
        bad.Note(t);
        continue;
      }
      for (int64_t g = 0; g < kv_heads; ++g) {
        LoadRow(args.in, t * args.in.strides[0] + g * args.in.strides[1], dim, row);
        GetRowKernels().rotate(row, angles.cosine(), angles.sine(), angles.half());
        StoreRow(row, dim, args.out, slots[t] * args.out.strides[0] + g * args.out.strides[1]);
      }
    }
  });
  if (const int64_t t = bad.first(); t != FirstError::kNone) {
    stream.Fail(
        absl::InternalError(absl::StrCat("ShiftKeys: token ", t, " has slot ", slots[t], " of ", args.out.sizes[0])));
  }
}

}  // namespace kvlink::kernels::cpu
