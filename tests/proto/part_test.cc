#include "proto/part.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "proto/data.h"

namespace kvlink {
namespace {

Manifest Of(int64_t layers, int64_t heads, int64_t tokens) {
  return Manifest::Uniform(SlabShape{Codec::kRawBf16, heads, 32, tokens}, layers, 32);
}

// Every byte of the wanted units, found the long way round: by their units.
std::set<std::pair<int64_t, int64_t>> Bytes(const Manifest& manifest, const proto::Part& part) {
  std::set<std::pair<int64_t, int64_t>> bytes;
  const int64_t layers = part.layers() == 0 ? static_cast<int64_t>(manifest.layers.size()) : part.layers();
  for (int64_t layer = part.first_layer(); layer < part.first_layer() + layers; ++layer) {
    const SlabShape shape = manifest.shape(layer);
    const int64_t heads = part.heads() == 0 ? shape.kv_heads : part.heads();
    const int64_t tokens = part.tokens() == 0 ? shape.tokens : part.tokens();
    for (int64_t head = part.first_head(); head < part.first_head() + heads; ++head) {
      for (int64_t unit = 0; unit * kUnitTokens < tokens; ++unit) {
        for (int64_t i = 0; i < shape.unit_bytes(unit); i += 64)
          bytes.emplace(layer, shape.unit_offset(head, unit) + i);
      }
    }
  }
  return bytes;
}

TEST(Part, PiecesAreTheWantedUnits) {
  const Manifest manifest = Of(3, 4, 1100);
  std::vector<proto::Part> parts(6);
  parts[1].set_first_layer(1);
  parts[1].set_layers(2);
  parts[2].set_first_head(1);
  parts[2].set_heads(2);
  parts[3].set_tokens(1024);
  parts[4].set_first_layer(2);
  parts[4].set_layers(1);
  parts[4].set_first_head(3);
  parts[4].set_heads(1);
  parts[4].set_tokens(512);
  parts[5].set_tokens(1100);
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto pieces = PiecesOf(manifest, parts[i]);
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    const auto wanted = Bytes(manifest, parts[i]);
    std::set<std::pair<int64_t, int64_t>> got;
    int64_t last = -1;
    for (const Piece& piece : *pieces) {
      EXPECT_GE(piece.layer, last);
      last = piece.layer;
      EXPECT_LE(piece.offset + piece.length, manifest.layers[piece.layer].length);
      for (int64_t at = 0; at < piece.length; at += 64) {
        if (piece.offset + at < manifest.shape(piece.layer).used_bytes()) got.emplace(piece.layer, piece.offset + at);
      }
    }
    EXPECT_EQ(got, wanted) << i;
  }
  EXPECT_EQ(PiecesOf(manifest, {})->size(), 3u);
  EXPECT_EQ((*PiecesOf(manifest, {}))[1].length, manifest.layers[1].length);
  EXPECT_EQ(PiecesOf(manifest, parts[2])->size(), 3u);
  EXPECT_EQ(PiecesOf(manifest, parts[3])->size(), 12u);
}

TEST(Part, LayersWithoutBytesHaveNoPiece) {
  Manifest manifest = Of(3, 1, 64);
  manifest.layers[1].components.clear();
  manifest.layers[1].length = 0;
  const auto pieces = PiecesOf(manifest, {});
  ASSERT_TRUE(pieces.ok());
  ASSERT_EQ(pieces->size(), 2u);
  EXPECT_EQ((*pieces)[1].layer, 2);
  proto::Part part;
  part.set_first_layer(1);
  part.set_layers(1);
  EXPECT_TRUE(PiecesOf(manifest, part)->empty());
}

TEST(Part, WhatIsNotThereIsRefused) {
  const Manifest manifest = Of(3, 4, 1100);
  std::vector<proto::Part> parts(9);
  parts[0].set_first_layer(3);
  parts[1].set_layers(4);
  parts[2].set_first_layer(0xFFFFFFFF);
  parts[2].set_layers(0xFFFFFFFF);
  parts[3].set_first_head(4);
  parts[4].set_first_head(0xFFFFFFFF);
  parts[4].set_heads(0xFFFFFFFF);
  parts[5].set_tokens(511);
  parts[6].set_tokens(1101);
  parts[7].set_components(2);
  parts[8].set_components(14);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(PiecesOf(manifest, parts[i]).status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
}

TEST(Part, ThePiecesOfAPullAreBounded) {
  proto::Part part;
  part.set_tokens(512);
  EXPECT_TRUE(PiecesOf(Of(16, 4096, 1000), part).ok());
  EXPECT_EQ(PiecesOf(Of(17, 4096, 1000), part).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvlink
