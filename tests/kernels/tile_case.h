// Random products of bf16 matrices in tiles, for tests of what multiplies them.
#ifndef KVLINK_TESTS_KERNELS_TILE_CASE_H_
#define KVLINK_TESTS_KERNELS_TILE_CASE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "kernels/bf16.h"
#include "kernels/cpu/bf16/tiles.h"
#include "tests/support/seed.h"

namespace kvlink::kernels::cpu {

inline constexpr float kPoison = -12345.0f;

// A product with its memory: A [tile][16] rows with a gap behind each, B as tiles, out with a gap behind each row.
// Everything that must not matter is NaN.
class TileCase {
 public:
  TileCase(int64_t rows, int64_t columns, int64_t steps, std::mt19937_64& random)
      : rows_(rows), columns_(columns), inner_(steps * kTileDepth) {
    const int64_t row_tiles = Tiles(rows), column_tiles = Tiles(columns), a_stride = inner_ + 6;
    const uint16_t nan = FloatToBf16(std::numeric_limits<float>::quiet_NaN());
    a_.assign(static_cast<size_t>(row_tiles * kTileSide * a_stride), nan);
    b_.assign(static_cast<size_t>(column_tiles * inner_ * kTileSide), nan);
    out_.assign(static_cast<size_t>(rows * (columns + 3)), kPoison);
    std::normal_distribution<float> normal;
    const auto draw = [&] { return Bf16ToFloat(FloatToBf16(normal(random))); };
    for (int64_t i = 0; i < rows * inner_; ++i) {
      left_.push_back(draw());
      a_[static_cast<size_t>(i / inner_ * a_stride + i % inner_)] = FloatToBf16(left_.back());
    }
    for (int64_t k = 0; k < inner_; ++k) {
      for (int64_t column = 0; column < columns; ++column) {
        right_.push_back(draw());
        const int64_t tile = column / kTileSide * inner_ * kTileSide;
        b_[static_cast<size_t>(tile + (k / 2 * kTileSide + column % kTileSide) * 2 + k % 2)] =
            FloatToBf16(right_.back());
      }
    }
    product_.a = {a_.data(), a_stride * 2, kTileSide * a_stride * 2, kTileDepth * 2};
    product_.b = {b_.data(), kTileSide * 4, inner_ * kTileSide * 2, kTileBytes};
    product_.rows = rows, product_.columns = columns, product_.steps = steps;
    product_.out = out_.data(), product_.out_stride = columns + 3;
  }

  const TileProduct& product() const { return product_; }
  // What was computed, with its gaps.
  const std::vector<float>& out() const { return out_; }

  // f32 sums of `inner` products: their rounding is below 2^-24 of the sum of magnitudes for each addition.
  void ExpectRight() const {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t column = 0; column < columns_ + 3; ++column) {
        const double actual = static_cast<double>(out_[static_cast<size_t>(row * (columns_ + 3) + column)]);
        double expected = 0, magnitudes = 0;
        for (int64_t k = 0; k < inner_ && column < columns_; ++k) {
          const double term = static_cast<double>(left_[static_cast<size_t>(row * inner_ + k)]) *
                              static_cast<double>(right_[static_cast<size_t>(k * columns_ + column)]);
          expected += term;
          magnitudes += std::abs(term);
        }
        if (column >= columns_) expected = static_cast<double>(kPoison);
        ASSERT_NEAR(actual, expected, std::ldexp(static_cast<double>(inner_) * magnitudes, -24))
            << "row " << row << " of " << rows_ << ", column " << column << " of " << columns_;
      }
    }
  }

 private:
  static int64_t Tiles(int64_t count) { return (count + kTileSide - 1) / kTileSide; }

  const int64_t rows_, columns_, inner_;
  std::vector<uint16_t> a_, b_;
  std::vector<float> left_, right_, out_;
  TileProduct product_;
};

inline void ExpectProductsRight(MultiplyTiles multiply) {
  std::mt19937_64 random(testing::TestSeed());
  const auto size = [&](uint64_t most) { return static_cast<int64_t>(1 + random() % most); };
  for (int i = 0; i < 50 && !::testing::Test::HasFatalFailure(); ++i) {
    TileCase first(size(70), size(70), size(5), random), second(size(40), size(40), size(3), random);
    const TileProduct products[] = {first.product(), second.product()};
    multiply(absl::MakeConstSpan(products));
    first.ExpectRight();
    second.ExpectRight();
  }
}

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_TESTS_KERNELS_TILE_CASE_H_
