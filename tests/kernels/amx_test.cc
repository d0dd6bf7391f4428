#include "kernels/cpu/bf16/amx.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/bf16.h"
#include "tests/kernels/tile_case.h"

namespace kvlink::kernels::cpu {
namespace {

TEST(AmxTest, EmulatedProductsAreRight) { ExpectProductsRight(EmulatedAmxMultiply); }

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
  EmulatedAmxMultiply({&product, 1});
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
