// Scores and weighted values in tiles. Keys are multiplied in place; values are transposed once for all panels of
// rows.
#include "kernels/cpu/attention/tiled_panels.h"

#include <algorithm>
#include <cstring>

#include "absl/types/span.h"

namespace kvlink::kernels::cpu {
namespace {

constexpr int64_t kTileWords = kTileBytes / 4;
constexpr int64_t kRowBytes = kTileDepth * 2;  // of a tile

// The range of tokens that are multiplied, in whole steps.
int64_t StepBegin(int64_t begin) { return begin / kTileDepth * kTileDepth; }
int64_t StepEnd(int64_t end) { return RoundUp(end, kTileDepth); }

}  // namespace

TiledPanels::TiledPanels(MultiplyTiles multiply, const AttentionSizes& sizes, int64_t max_rows, Arena& arena)
    : multiply_(multiply),
      sizes_(sizes),
      kernels_(GetAttentionKernels()),
      steps_(DivideUp(sizes.dim, kTileDepth)),
      panel_tiles_(DivideUp(sizes.panel, kTileSide)) {
  if (multiply == nullptr) return;
  queries_ = arena.Take<uint32_t>(sizes.panels(max_rows) * panel_tiles_ * steps_ * kTileWords);
  copied_keys_ = arena.Take<uint16_t>(kSplitTokens * steps_ * kTileDepth);
  values_ = arena.Take<uint16_t>(kSplitTokens * sizes.padded);
  weights_ = arena.Take<uint32_t>(panel_tiles_ * kSplitTokens / kTileDepth * kTileWords);
}

void TiledPanels::TakeQueries(int64_t p, const float* queries, int64_t width) {
  kernels_.tiles_of_pairs(queries, sizes_.dim, width, steps_ * kTileDepth,
                          queries_ + p * panel_tiles_ * steps_ * kTileWords);
}

void TiledPanels::TakeBlock(const SegmentReader& reader, int64_t block, int64_t in_split, int64_t count, bool values) {
  const int64_t dim = sizes_.dim;
  const std::byte* keys = reader.Stored(block, /*values=*/false);
  const int64_t first = in_split * kBlockTokens;
  // Tiles read whole rows of 16 tokens. Scores of tokens beyond the last are ignored, whatever is stored there.
  const bool in_place = dim % kTileDepth == 0 && RoundUp(count, kTileSide) <= reader.Held(block);
  if (in_place) {
    keys_[in_split] = {keys, dim * 2};
  } else {
    const int64_t padded = steps_ * kTileDepth;
    uint16_t* to = copied_keys_ + first * padded;
    keys_[in_split] = {reinterpret_cast<const std::byte*>(to), padded * 2};
    for (int64_t row = 0; row < count; ++row, to += padded) {
      std::memcpy(to, keys + row * dim * 2, static_cast<size_t>(dim) * 2);
      std::fill(to + dim, to + padded, uint16_t{0});
    }
    std::fill_n(to, (RoundUp(count, kTileSide) - count) * padded, uint16_t{0});
  }
  if (!values) return;
  const std::byte* value_rows = reader.Stored(block, /*values=*/true);
  for (int64_t row = 0; row < count; row += kTileDepth) {
    kernels_.tiles_of_columns(value_rows + row * dim * 2, std::min(kTileDepth, count - row), dim, sizes_.padded,
                              values_ + (first + row) * sizes_.padded);
  }
}

float* TiledPanels::Scores(int64_t p, int64_t begin, int64_t end, int64_t width, float* scratch) const {
  const int64_t first = StepBegin(begin);
  TileProduct products[kBlocks];
  int64_t count = 0;
  for (int64_t token = first; token < end;) {
    const int64_t block = token / kBlockTokens, next = std::min(end, (block + 1) * kBlockTokens);
    const Keys& keys = keys_[block];
    TileProduct& product = products[count++];
    product.a = {keys.rows + token % kBlockTokens * keys.stride, keys.stride, kTileSide * keys.stride, kRowBytes};
    product.b = {queries_ + p * panel_tiles_ * steps_ * kTileWords, kRowBytes, steps_ * kTileBytes, kTileBytes};
    product.rows = next - token;
    product.columns = width;
    product.steps = steps_;
    product.out = scratch + (token - first) * width;
    product.out_stride = width;
    token = next;
  }
  multiply_(absl::MakeConstSpan(products, static_cast<size_t>(count)));
  return scratch + (begin - first) * width;
}

void TiledPanels::Values(float* scratch, int64_t begin, int64_t end, int64_t width, float* sums) const {
  const int64_t first = StepBegin(begin), steps = (StepEnd(end) - first) / kTileDepth;
  std::fill_n(scratch, (begin - first) * width, 0.0f);  // scores of tokens before the first one seen
  kernels_.tiles_of_pairs(scratch, end - first, width, steps * kTileDepth, weights_);
  TileProduct product;
  product.a = {values_ + first * sizes_.padded, kRowBytes, kTileBytes, sizes_.padded * kRowBytes};
  product.b = {weights_, kRowBytes, steps * kTileBytes, kTileBytes};
  product.rows = sizes_.dim;
  product.columns = width;
  product.steps = steps;
  product.out = sums;
  product.out_stride = width;
  multiply_({&product, 1});
}

}  // namespace kvlink::kernels::cpu
