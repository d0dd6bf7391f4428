// Operations on slabs: packing private KV, decoding to a raw slab, the materialising shift, checksums.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/codec.h"
#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"

namespace kvlink::kernels::ref {
namespace {

// Element d of a row after rotation by `position` (pure rotation); `load` reads an element of the unrotated row.
template <typename F>
float RotatedElement(const Rope& rope, int64_t position, int64_t d, const F& load) {
  const int64_t half = rope.rotary_dim / 2;
  if (d >= rope.rotary_dim) return static_cast<float>(load(d));
  const int64_t pair = d % half;
  const double angle = static_cast<double>(position) * rope.inv_freq[static_cast<size_t>(pair)];
  const double a = load(pair), b = load(pair + half);
  return static_cast<float>(d < half ? a * std::cos(angle) - b * std::sin(angle)
                                     : b * std::cos(angle) + a * std::sin(angle));
}

// The private KV of one block of one head, element by element.
class BlockSource {
 public:
  BlockSource(const PackArgs& args, int64_t head, int64_t block) : args_(args), head_(head), block_(block) {}
  float Key(int64_t token, int64_t d) const { return Element(token, d); }
  float Value(int64_t token, int64_t d) const { return Element(kBlockTokens + token, d); }
  float UnrotatedKey(int64_t token, int64_t d) const {
    const int64_t position = block_ * kBlockTokens + token;
    return RotatedElement(*args_.rope, -position, d, [&](int64_t i) { return static_cast<double>(Key(token, i)); });
  }

 private:
  float Element(int64_t row, int64_t d) const {
    return static_cast<float>(Load(args_.pages, At(args_.pages, args_.block_table[block_], head_, row, d)));
  }
  const PackArgs& args_;
  const int64_t head_;
  const int64_t block_;
};

// Each returns false if a value has no finite code. `element(d)` reads the group.
template <typename F>
bool PackRawRow(Codec codec, int64_t dim, std::byte* row, const F& element) {
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    if (codec == Codec::kRawF32) {
      finite = finite && std::isfinite(element(d));
      StoreBytes(row + 4 * d, element(d));
    } else {
      const uint16_t code = FloatToBf16(element(d));
      finite = finite && std::isfinite(Bf16ToFloat(code));
      StoreBytes(row + 2 * d, code);
    }
  }
  return finite;
}

template <typename F>
bool PackQ8Row(int64_t dim, std::byte* row, std::byte* scale, const F& element) {
  float largest = 0;
  for (int64_t d = 0; d < dim; ++d) {
    if (!std::isfinite(element(d))) return false;
    largest = std::max(largest, std::fabs(element(d)));
  }
  const Q8Group group = Q8Group::Of(largest);
  for (int64_t d = 0; d < dim; ++d) StoreBytes(row + d, group.Encode(element(d)));
  StoreBytes(scale, group.scale);
  return group.finite;
}

template <typename F>
Q4Group Q4GroupOf(int64_t count, const F& element) {
  float smallest = std::numeric_limits<float>::infinity(), largest = -smallest;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(element(i))) return Q4Group::Of(element(i), element(i));
    smallest = std::min(smallest, element(i));
    largest = std::max(largest, element(i));
  }
  return Q4Group::Of(smallest, largest);
}

void StoreNibble(std::byte* row, int64_t d, uint8_t code) {
  std::byte& byte = row[d / 2];
  byte = d % 2 == 0 ? std::byte{code} : (byte & std::byte{0x0f}) | std::byte{static_cast<uint8_t>(code << 4)};
}
double LoadNibble(const std::byte* row, int64_t d) {
  return static_cast<double>((std::to_integer<int>(row[d / 2]) >> (d % 2 == 0 ? 0 : 4)) & 0x0f);
}

// Offsets of the scales of a q4 block of n tokens.
struct Q4Scales {
  Q4Scales(int64_t n, int64_t dim) : key_scale(0), key_min(2 * dim), value_scale(4 * dim), value_min(4 * dim + 2 * n) {}
  int64_t key_scale, key_min, value_scale, value_min;
};

bool PackQ4Block(const SlabShape& shape, int64_t n, const BlockSource& source, std::byte* block) {
  const int64_t dim = shape.head_dim;
  const Q4Scales at(n, dim);
  std::byte* scales = block + shape.scale_offset(n);
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    const auto channel = [&](int64_t token) { return source.UnrotatedKey(token, d); };
    const Q4Group group = Q4GroupOf(n, channel);
    finite = finite && group.finite;
    StoreBytes(scales + at.key_scale + 2 * d, group.scale_bf16);
    StoreBytes(scales + at.key_min + 2 * d, group.min_bf16);
    if (!group.finite) continue;
    for (int64_t t = 0; t < n; ++t) StoreNibble(block + t * shape.row_bytes(), d, group.Encode(channel(t)));
  }
  for (int64_t t = 0; t < n; ++t) {
    const auto row = [&](int64_t d) { return source.Value(t, d); };
    const Q4Group group = Q4GroupOf(dim, row);
    finite = finite && group.finite;
    StoreBytes(scales + at.value_scale + 2 * t, group.scale_bf16);
    StoreBytes(scales + at.value_min + 2 * t, group.min_bf16);
    if (!group.finite) continue;
    std::byte* out = block + shape.value_offset(n) + t * shape.row_bytes();
    for (int64_t d = 0; d < dim; ++d) StoreNibble(out, d, group.Encode(row(d)));
  }
  return finite;
}

bool PackBlock(const SlabShape& shape, int64_t n, const BlockSource& source, std::byte* block) {
  if (shape.codec == Codec::kQ4) return PackQ4Block(shape, n, source, block);
  bool finite = true;
  for (int64_t t = 0; t < n; ++t) {
    const auto key = [&](int64_t d) { return source.Key(t, d); };
    const auto value = [&](int64_t d) { return source.Value(t, d); };
    std::byte* key_row = block + t * shape.row_bytes();
    std::byte* value_row = key_row + shape.value_offset(n);
    std::byte* scales = block + shape.scale_offset(n) + 4 * t;
    if (shape.codec == Codec::kQ8) {
      finite = PackQ8Row(shape.head_dim, key_row, scales, key) && finite;
      finite = PackQ8Row(shape.head_dim, value_row, scales + 4 * n, value) && finite;
    } else {
      finite = PackRawRow(shape.codec, shape.head_dim, key_row, key) && finite;
      finite = PackRawRow(shape.codec, shape.head_dim, value_row, value) && finite;
    }
  }
  return finite;
}

// Reads a stored block of n tokens element by element; keys in their stored rotation.
class StoredBlock {
 public:
  StoredBlock(const SlabShape& shape, const std::byte* block, int64_t n)
      : shape_(shape), block_(block), scales_(block + shape.scale_offset(n)), n_(n), q4_(n, shape.head_dim) {}
  double Key(int64_t t, int64_t d) const {
    return Element(block_ + t * shape_.row_bytes(), d, 4 * t, q4_.key_scale + 2 * d, q4_.key_min + 2 * d);
  }
  double Value(int64_t t, int64_t d) const {
    const std::byte* row = block_ + shape_.value_offset(n_) + t * shape_.row_bytes();
    return Element(row, d, 4 * (n_ + t), q4_.value_scale + 2 * t, q4_.value_min + 2 * t);
  }

 private:
  double Element(const std::byte* row, int64_t d, int64_t q8_scale, int64_t q4_scale, int64_t q4_min) const {
    switch (shape_.codec) {
      case Codec::kRawF32:
        return static_cast<double>(LoadBytes<float>(row + 4 * d));
      case Codec::kRawBf16:
        return static_cast<double>(Bf16ToFloat(LoadBytes<uint16_t>(row + 2 * d)));
      case Codec::kQ8:
        return static_cast<double>(LoadBytes<float>(scales_ + q8_scale)) *
               static_cast<double>(LoadBytes<int8_t>(row + d));
      case Codec::kQ4:
        return static_cast<double>(Bf16ToFloat(LoadBytes<uint16_t>(scales_ + q4_min))) +
               static_cast<double>(Bf16ToFloat(LoadBytes<uint16_t>(scales_ + q4_scale))) * LoadNibble(row, d);
    }
    return 0;
  }
  const SlabShape& shape_;
  const std::byte* const block_;
  const std::byte* const scales_;
  const int64_t n_;
  const Q4Scales q4_;
};

void StoreRaw(Codec codec, std::byte* row, int64_t d, float value) {
  if (codec == Codec::kRawF32) {
    StoreBytes(row + 4 * d, value);
  } else {
    StoreBytes(row + 2 * d, FloatToBf16(value));
  }
}

}  // namespace

void Pack(HostStream& stream, const PackArgs& args) {
  const SlabShape& shape = args.shape;
  std::byte* slab = args.slab.as<std::byte>();
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t b = 0; b < shape.blocks(); ++b) {
      const BlockSource source(args, head, b);
      if (!PackBlock(shape, shape.block_tokens(b), source, slab + shape.block_offset(head, b))) {
        stream.Fail(absl::InternalError(absl::StrCat("Pack: head ", head, ", tokens ", b * kBlockTokens, " to ",
                                                     b * kBlockTokens + shape.block_tokens(b) - 1,
                                                     " hold a key or value that is not finite")));
      }
    }
  }
  std::fill(slab + shape.used_bytes(), slab + shape.slab_bytes(), std::byte{0});
}

void Decode(const DecodeArgs& args) {
  const SlabShape& from = args.source_shape;
  SlabShape to = from;
  to.codec = args.codec;
  std::byte* slab = args.out.as<std::byte>();
  for (int64_t head = 0; head < from.kv_heads; ++head) {
    for (int64_t b = 0; b < from.blocks(); ++b) {
      const int64_t n = from.block_tokens(b);
      const StoredBlock block(from, args.source.as<const std::byte>() + from.block_offset(head, b), n);
      std::byte* out = slab + to.block_offset(head, b);
      for (int64_t t = 0; t < n; ++t) {
        std::byte* key_row = out + t * to.row_bytes();
        std::byte* value_row = key_row + to.value_offset(n);
        const auto key = [&](int64_t d) { return block.Key(t, d); };
        for (int64_t d = 0; d < from.head_dim; ++d) {
          const float rotated = from.keys_rotated() ? static_cast<float>(key(d))
                                                    : RotatedElement(*args.rope, b * kBlockTokens + t, d, key);
          StoreRaw(to.codec, key_row, d, rotated);
          StoreRaw(to.codec, value_row, d, static_cast<float>(block.Value(t, d)));
        }
      }
    }
  }
  std::fill(slab + to.used_bytes(), slab + to.slab_bytes(), std::byte{0});
}

void ShiftKeys(HostStream& stream, const ShiftKeysArgs& args) {
  const int64_t tokens = args.in.sizes[0], kv_heads = args.in.sizes[1], dim = args.in.sizes[2];
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = args.slots.as<const int64_t>()[t];
    if (slot < 0 || slot >= args.out.sizes[0]) {
      stream.Fail(
          absl::InternalError(absl::StrCat("ShiftKeys: token ", t, " has slot ", slot, " of ", args.out.sizes[0])));
      continue;
    }
    for (int64_t g = 0; g < kv_heads; ++g) {
      const auto load = [&](int64_t d) { return Load(args.in, At(args.in, t, g, d)); };
      for (int64_t d = 0; d < dim; ++d) {
        Store(args.out, At(args.out, slot, g, d), static_cast<double>(RotatedElement(*args.rope, args.delta, d, load)));
      }
    }
  }
}

void Checksum(const ChecksumArgs& args) {
  const std::byte* bytes = args.bytes.as<const std::byte>();
  for (size_t i = 0; i < args.offsets.size(); ++i) {
    args.out.as<uint64_t>()[i] = XXH3_64bits(bytes + args.offsets[i], static_cast<size_t>(args.lengths[i]));
  }
}

}  // namespace kvlink::kernels::ref
