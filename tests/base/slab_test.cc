#include "base/slab.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvlink {
namespace {

constexpr Codec kCodecs[] = {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4};

TEST(SlabTest, CodecNamesGoBothWays) {
  for (Codec codec : kCodecs) EXPECT_EQ(ParseCodec(CodecName(codec)).value(), codec);
  EXPECT_EQ(ParseCodec("fp8").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ParseCodec("fp8").status().message().find("q4"), absl::string_view::npos);
  EXPECT_FALSE(ParseCodec("").ok());
}

TEST(SlabTest, StoredNumbersNeverChange) {
  EXPECT_EQ(static_cast<int>(Codec::kRawBf16), 1);
  EXPECT_EQ(static_cast<int>(Codec::kRawF32), 2);
  EXPECT_EQ(static_cast<int>(Codec::kQ8), 3);
  EXPECT_EQ(static_cast<int>(Codec::kQ4), 4);
}

// Bytes of a block written out by hand from the layout's text.
TEST(SlabTest, BlockBytesFollowTheLayout) {
  for (int64_t n : {1, 7, 63, 64}) {
    for (int64_t dim : {64, 80, 96, 128}) {
      const auto bytes = [&](Codec codec) { return SlabShape{codec, 1, dim, n}.block_bytes(n); };
      EXPECT_EQ(bytes(Codec::kRawBf16), 2 * n * dim * 2);
      EXPECT_EQ(bytes(Codec::kRawF32), 2 * n * dim * 4);
      EXPECT_EQ(bytes(Codec::kQ8), 2 * n * dim + 2 * n * 4);
      EXPECT_EQ(bytes(Codec::kQ4), 2 * n * dim / 2 + 2 * dim * 2 + 2 * n * 2);
    }
  }
}

// Heads, blocks and units tile the slab without gap or overlap.
TEST(SlabTest, PartsTileTheSlab) {
  for (Codec codec : kCodecs) {
    for (int64_t tokens : {1, 63, 64, 65, 511, 512, 513, 1024, 1500}) {
      const SlabShape shape{codec, 3, 80, tokens};
      ASSERT_TRUE(shape.Validate().ok());
      int64_t at = 0;
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        EXPECT_EQ(shape.head_offset(head), at);
        int64_t unit_at = at, covered = 0;
        for (int64_t unit = 0; unit < shape.units_per_head(); ++unit) {
          EXPECT_EQ(shape.unit_offset(head, unit), unit_at);
          unit_at += shape.unit_bytes(unit);
        }
        for (int64_t block = 0; block < shape.blocks(); ++block) {
          EXPECT_EQ(shape.block_offset(head, block), at);
          const int64_t n = shape.block_tokens(block);
          EXPECT_EQ(shape.value_offset(n), n * shape.row_bytes());
          EXPECT_EQ(shape.scale_offset(n), 2 * n * shape.row_bytes());
          EXPECT_GE(shape.block_bytes(n), shape.scale_offset(n));
          at += shape.block_bytes(n);
          covered += n;
        }
        EXPECT_EQ(unit_at, at);
        EXPECT_EQ(covered, tokens);
      }
      EXPECT_EQ(shape.used_bytes(), at);
      EXPECT_EQ(shape.slab_bytes() % kSlabAlignment, 0);
      EXPECT_GE(shape.slab_bytes(), at);
      EXPECT_LT(shape.slab_bytes() - at, kSlabAlignment);
    }
  }
}

TEST(SlabTest, ScalesAreAligned) {
  for (Codec codec : {Codec::kQ8, Codec::kQ4}) {
    for (int64_t dim : {2, 6, 64, 80, 96, 98, 128}) {
      for (int64_t tokens : {1, 3, 64, 67}) {
        const SlabShape shape{codec, 2, dim, tokens};
        const int64_t grain = codec == Codec::kQ8 ? 4 : 2;
        for (int64_t block = 0; block < shape.blocks(); ++block) {
          const int64_t at = shape.block_offset(1, block) + shape.scale_offset(shape.block_tokens(block));
          EXPECT_EQ(at % grain, 0) << CodecName(codec) << " dim " << dim << " tokens " << tokens;
        }
      }
    }
  }
}

TEST(SlabTest, RefusesHostileShapes) {
  const std::vector<SlabShape> bad = {{Codec::kQ8, 0, 64, 1},
                                      {Codec::kQ8, -1, 64, 1},
                                      {Codec::kQ8, 4097, 64, 1},
                                      {Codec::kQ8, 1, 0, 1},
                                      {Codec::kQ8, 1, 63, 1},
                                      {Codec::kQ8, 1, 4098, 1},
                                      {Codec::kQ8, 1, 64, 0},
                                      {Codec::kQ8, 1, 64, -5},
                                      {Codec::kQ8, 1, 64, (1 << 24) + 1},
                                      {static_cast<Codec>(0), 1, 64, 1},
                                      {static_cast<Codec>(200), 1, 64, 1}};
  for (const SlabShape& shape : bad) {
    EXPECT_EQ(shape.Validate().code(), absl::StatusCode::kInvalidArgument)
        << shape.kv_heads << " " << shape.head_dim << " " << shape.tokens;
  }
  // The largest shape stays far from overflow.
  const SlabShape largest{Codec::kRawF32, 4096, 4096, 1 << 24};
  ASSERT_TRUE(largest.Validate().ok());
  EXPECT_EQ(largest.slab_bytes(), int64_t{4096} * 4096 * (int64_t{1} << 24) * 8);
}

}  // namespace
}  // namespace kvlink
