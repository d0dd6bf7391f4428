#include "base/slab.h"

#include "absl/strings/str_cat.h"

namespace kvlink {

absl::string_view CodecName(Codec codec) {
  switch (codec) {
    case Codec::kRawBf16:
      return "raw-bf16";
    case Codec::kRawF32:
      return "raw-f32";
    case Codec::kQ8:
      return "q8";
    case Codec::kQ4:
      return "q4";
  }
  return "unknown";
}

absl::StatusOr<Codec> ParseCodec(absl::string_view name) {
  for (Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    if (name == CodecName(codec)) return codec;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown codec '", name, "'; use raw-bf16, raw-f32, q8 or q4"));
}

absl::Status SlabShape::Validate() const {
  if (CodecName(codec) == "unknown") {
    return absl::InvalidArgumentError(absl::StrCat("unknown codec number ", static_cast<int>(codec)));
  }
  if (kv_heads < 1 || kv_heads > 4096 || head_dim < 2 || head_dim > 4096 || head_dim % 2 != 0 || tokens < 1 ||
      tokens > (int64_t{1} << 24)) {
    return absl::InvalidArgumentError(absl::StrCat("slab shape out of range: ", kv_heads, " kv heads of dimension ",
                                                   head_dim, ", ", tokens, " tokens"));
  }
  return absl::OkStatus();
}

int64_t SlabShape::row_bytes() const {
  switch (codec) {
    case Codec::kRawBf16:
      return head_dim * 2;
    case Codec::kRawF32:
      return head_dim * 4;
    case Codec::kQ8:
      return head_dim;
    case Codec::kQ4:
      return head_dim / 2;
  }
  return 0;
}

int64_t SlabShape::block_bytes(int64_t n) const {
  const int64_t rows = 2 * n * row_bytes();
  switch (codec) {
    case Codec::kQ8:
      return rows + 2 * n * 4;
    case Codec::kQ4:
      return rows + 2 * head_dim * 2 + 2 * n * 2;
    default:
      return rows;
  }
}

int64_t SlabShape::unit_bytes(int64_t unit) const {
  const int64_t first = unit * (kUnitTokens / kBlockTokens);
  const int64_t last = first + kUnitTokens / kBlockTokens;
  if (last <= blocks() - 1) return (last - first) * block_stride();
  return head_bytes() - first * block_stride();
}

}  // namespace kvlink
