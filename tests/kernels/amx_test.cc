#include "kernels/cpu/amx.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "kernels/bf16.h"
#include "tests/support/seed.h"

namespace kvlink::kernels::cpu {
namespace {

using testing::TestSeed;

constexpr float kPoison = -12345.0f;

// A product with its memory: A [tile][16] rows with a gap behind each, B as tiles, out with a gap behind each row.
// Everything that must not matter is NaN.
class Case {
 public:
  Case(int64_t rows, int64_t columns, int64_t steps, std::mt19937_64& random)
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

void ExpectProductsRight(MultiplyTiles multiply) {
  std::mt19937_64 random(TestSeed());
  const auto size = [&](uint64_t most) { return static_cast<int64_t>(1 + random() % most); };
  for (int i = 0; i < 50 && !::testing::Test::HasFatalFailure(); ++i) {
    Case first(size(70), size(70), size(5), random), second(size(40), size(40), size(3), random);
    const TileProduct products[] = {first.product(), second.product()};
    multiply(absl::MakeConstSpan(products));
    first.ExpectRight();
    second.ExpectRight();
  }
}

TEST(AmxTest, EmulatedProductsAreRight) { ExpectProductsRight(EmulatedMultiply); }

TEST(AmxTest, ProductsAreRight) {
  const MultiplyTiles multiply = AmxMultiply();
  if (multiply == nullptr) GTEST_SKIP() << "no AMX here";
  ExpectProductsRight(multiply);
}

// The sum of one row of A and one column of B, 32 numbers each.
float Dot(const std::vector<float>& a, const std::vector<float>& b) {
  uint16_t left[kTileSide][kTileDepth] = {}, right[kTileSide][kTileDepth] = {};
  for (size_t k = 0; k < a.size(); ++k) {
    left[0][k] = FloatToBf16(a[k]);
    right[k / 2][k % 2] = FloatToBf16(b[k]);
  }
  float out = kPoison;
  const TileProduct product{{left, 64, 0, 0}, {right, 64, 0, 0}, 1, 1, 1, &out, 1};
  EmulatedMultiply({&product, 1});
  return out;
}

TEST(AmxTest, TheEmulationAddsInTheOrderOfTheManual) {
  const float big = 16777216;  // 2^24: adding 1 to it is lost
  // Even numbers give 2^24 - 2^24, odd ones 1 + 1; one running sum over all would give 1.
  EXPECT_EQ(Dot({big, 1, -big, 1}, {1, 1, 1, 1}), 2.0f);
  // Within the even numbers the order is that of k: (1 + 2^24) - 2^24, and (2^24 - 2^24) + 1.
  EXPECT_EQ(Dot({1, 0, big, 0, -big}, {1, 0, 1, 0, 1}), 0.0f);
  EXPECT_EQ(Dot({big, 0, -big, 0, 1}, {1, 0, 1, 0, 1}), 1.0f);
}

TEST(AmxTest, TheEmulationTakesDenormalsForZero) {
  const float least = std::numeric_limits<float>::min(), denormal = least / 2;
  EXPECT_EQ(Dot({denormal}, {1024}), 0.0f);
  EXPECT_EQ(Dot({least}, {0.5f}), 0.0f);
  EXPECT_EQ(Dot({least}, {1}), least);
  EXPECT_TRUE(std::isnan(Dot({std::numeric_limits<float>::infinity()}, {0})));
}

}  // namespace
}  // namespace kvlink::kernels::cpu
