// Tensors as views, and bf16 rounding.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "tests/support/seed.h"

namespace kvlink::kernels {
namespace {

TEST(TensorTest, DenseAndSlice) {
  std::vector<float> data(2 * 3 * 4);
  const Tensor tensor = Tensor::Dense(data.data(), Dtype::kF32, Device{}, {2, 3, 4});
  EXPECT_EQ(tensor.rank, 3);
  EXPECT_EQ(tensor.elements(), 24);
  EXPECT_EQ(tensor.bytes, 96);
  EXPECT_EQ(tensor.strides[0], 12);
  EXPECT_EQ(tensor.strides[2], 1);
  const Tensor second = tensor.Slice(1, 1);
  EXPECT_EQ(second.as<float>(), data.data() + 12);
  EXPECT_EQ(second.sizes[0], 1);
  EXPECT_EQ(second.bytes, 48);
  EXPECT_EQ(tensor.Slice(2, 0).elements(), 0);
}

TEST(Bf16Test, RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.00390625f), 0x3f80);  // halfway: to even
  EXPECT_EQ(FloatToBf16(1.01171875f), 0x3f82);  // halfway: to even
  EXPECT_EQ(FloatToBf16(1.00390637f), 0x3f81);  // just above halfway
  EXPECT_EQ(FloatToBf16(-0.0f), 0x8000);
  EXPECT_EQ(FloatToBf16(3.4e38f), 0x7f80);
  EXPECT_EQ(FloatToBf16(-INFINITY), 0xff80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(NAN))));
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Bf16Test, DirectedRoundingBrackets) {
  std::mt19937_64 random(kvlink::testing::TestSeed());
  for (int i = 0; i < 20000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    const float down = Bf16ToFloat(FloatToBf16Down(value)), up = Bf16ToFloat(FloatToBf16Up(value));
    ASSERT_LE(down, value);
    ASSERT_GE(up, value);
    const float nearest = Bf16ToFloat(FloatToBf16(value));
    ASSERT_TRUE(nearest == down || nearest == up) << value;
  }
  EXPECT_EQ(FloatToBf16Down(2.5f), FloatToBf16(2.5f));
  EXPECT_EQ(FloatToBf16Up(-2.5f), FloatToBf16(-2.5f));
  EXPECT_EQ(FloatToBf16Up(0.0f), 0);
}

}  // namespace
}  // namespace kvlink::kernels
