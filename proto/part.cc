#include "proto/part.h"

#include "absl/strings/str_cat.h"
#include "base/slab.h"
#include "proto/data.h"

namespace kvlink {
namespace {

constexpr uint32_t kKeysAndValues =
    1u << static_cast<uint32_t>(ComponentKind::kKey) | 1u << static_cast<uint32_t>(ComponentKind::kValue);

}  // namespace

absl::StatusOr<std::vector<Piece>> PiecesOf(const Manifest& manifest, const proto::Part& part) {
  const int64_t all_layers = static_cast<int64_t>(manifest.layers.size());
  const int64_t first_layer = part.first_layer();
  const int64_t layers = part.layers() == 0 ? all_layers - first_layer : part.layers();
  if (layers < 1 || first_layer + layers > all_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers ", first_layer, " to ", first_layer + layers, " of an encoding of ", all_layers));
  }
  if (part.components() != 0 && part.components() != kKeysAndValues) {
    return absl::InvalidArgumentError("keys and values are interleaved and can only be pulled together");
  }
  const int64_t tokens = part.tokens() == 0 ? manifest.tokens : part.tokens();
  if (tokens < 0 || tokens > manifest.tokens || (tokens != manifest.tokens && tokens % kUnitTokens != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("the first ", tokens, " of ", manifest.tokens,
                                                   " tokens: a prefix must be a multiple of 512 tokens, or all"));
  }
  std::vector<Piece> pieces;
  for (int64_t layer = first_layer; layer < first_layer + layers; ++layer) {
    const int64_t length = manifest.layers[layer].length;
    if (length == 0) continue;
    const SlabShape shape = manifest.shape(layer);
    const int64_t first_head = part.first_head();
    const int64_t heads = part.heads() == 0 ? shape.kv_heads - first_head : part.heads();
    if (heads < 1 || first_head + heads > shape.kv_heads) {
      return absl::InvalidArgumentError(absl::StrCat("heads ", first_head, " to ", first_head + heads, " of layer ",
                                                     layer, ", which has ", shape.kv_heads));
    }
    if (heads == shape.kv_heads && tokens == manifest.tokens) {
      pieces.push_back({layer, 0, length});
    } else if (tokens == manifest.tokens) {
      pieces.push_back({layer, shape.head_offset(first_head), heads * shape.head_bytes()});
    } else {
      for (int64_t head = first_head; head < first_head + heads; ++head) {
        pieces.push_back({layer, shape.head_offset(head), tokens / kBlockTokens * shape.block_stride()});
      }
    }
    if (pieces.size() > kMaxPieces) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxPieces, " pieces: pull fewer layers at a time"));
    }
  }
  return pieces;
}

}  // namespace kvlink
