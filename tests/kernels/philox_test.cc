#include "kernels/philox.h"

#include <gtest/gtest.h>

namespace kvlink::kernels {
namespace {

using Counter = std::array<uint32_t, 4>;

// Known-answer vectors of the Random123 distribution (philox4x32, 10 rounds).
TEST(PhiloxTest, EqualsTheKnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformTakesTheFirstTwoWords) {
  const uint64_t words = (uint64_t{0x6627e8d5} << 32) | 0xe169c58d;
  EXPECT_EQ(PhiloxUniform(0, 0), static_cast<double>(words >> 11) / 9007199254740992.0);
  double sum = 0;
  for (uint64_t position = 0; position < 10000; ++position) {
    const double u = PhiloxUniform(7, position);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);  // five standard deviations
  EXPECT_NE(PhiloxUniform(1, 2), PhiloxUniform(2, 1));
  EXPECT_NE(PhiloxUniform(0, uint64_t{1} << 32), PhiloxUniform(0, 0));
}

}  // namespace
}  // namespace kvlink::kernels
