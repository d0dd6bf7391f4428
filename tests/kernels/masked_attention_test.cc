#include "kernels/ref/masked_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace kvlink::kernels {
namespace {

// [s] d1 d1 [link] d2 d2 [question], as the method draws it: a row is a query, x marks what it sees.
TEST(MaskedAttentionTest, TheMaskIsThatOfTheMethod) {
  const std::vector<MaskedToken> tokens = {{0, 0}, {1, 1}, {2, 1}, {3, 0}, {4, 2}, {5, 2}, {6, 0}};
  const std::vector<std::string> mask = {"x......", ".x.....", ".xx....", "xxxx...", "....x..", "....xx.", "xxxxxxx"};
  for (size_t q = 0; q < tokens.size(); ++q) {
    for (size_t k = 0; k < tokens.size(); ++k) {
      EXPECT_EQ(MaskedSees(tokens[q], tokens[k], 0), mask[q][k] == 'x') << q << " sees " << k;
    }
  }
}

TEST(MaskedAttentionTest, AWindowCountsTheQueryItself) {
  const MaskedToken query{10, 0};
  EXPECT_TRUE(MaskedSees(query, {10, 0}, 1));
  EXPECT_FALSE(MaskedSees(query, {9, 0}, 1));
  EXPECT_TRUE(MaskedSees(query, {7, 3}, 4));
  EXPECT_FALSE(MaskedSees(query, {6, 3}, 4));
}

// A recomputed token replaces its cached one for fresh tokens; cached tokens keep the cached view.
TEST(MaskedAttentionTest, HiddenTokensAreHiddenFromFreshOnes) {
  const MaskedToken cached{4, 1, true}, recomputed{4, 0}, later_cached{5, 1}, later_fresh{5, 0};
  EXPECT_FALSE(MaskedSees(later_fresh, cached, 0));
  EXPECT_TRUE(MaskedSees(later_fresh, recomputed, 0));
  EXPECT_TRUE(MaskedSees(later_cached, cached, 0));
  EXPECT_FALSE(MaskedSees(later_cached, recomputed, 0));
  EXPECT_TRUE(MaskedSees(recomputed, recomputed, 0));
  EXPECT_FALSE(MaskedSees(recomputed, cached, 0));
}

// One pair, worked by hand: q at 1 and k at 0 rotate by one radian against each other.
TEST(MaskedAttentionTest, OnePairByHand) {
  Rope rope{.rotary_dim = 2, .inv_freq = {1.0}};
  const AttentionParams params{.heads = 1, .kv_heads = 1, .head_dim = 2, .scale = 1};
  const std::vector<MaskedToken> queries = {{1, 0}}, tokens = {{0, 1}, {1, 0}};
  const auto result = MaskedAttention(params, rope, queries, std::vector<float>{1, 0}, tokens,
                                      std::vector<float>{1, 0, 1, 0}, std::vector<float>{1, 0, 0, 1});
  const double a = std::exp(std::cos(1.0)), b = std::exp(1.0);
  EXPECT_NEAR(result.out[0], a / (a + b), 1e-12);
  EXPECT_NEAR(result.out[1], b / (a + b), 1e-12);
  EXPECT_NEAR(result.lse[0], std::log(a + b), 1e-12);
}

TEST(MaskedAttentionTest, NothingSeenGivesZeroAndMinusInfinity) {
  Rope rope{.rotary_dim = 2, .inv_freq = {1.0}};
  const AttentionParams params{.heads = 1, .kv_heads = 1, .head_dim = 2, .scale = 1};
  const auto result =
      MaskedAttention(params, rope, std::vector<MaskedToken>{{1, 0}}, std::vector<float>{1, 0},
                      std::vector<MaskedToken>{{2, 0}}, std::vector<float>{1, 0}, std::vector<float>{1, 0});
  EXPECT_EQ(result.out, (std::vector<double>{0, 0}));
  EXPECT_EQ(result.lse[0], -INFINITY);
}

}  // namespace
}  // namespace kvlink::kernels
