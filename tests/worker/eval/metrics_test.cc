// Metrics against values computed by hand.
#include "worker/eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace kvlink::eval {
namespace {

using Texts = std::vector<std::string>;
using Values = std::vector<double>;

TEST(Metrics, TextIsNormalisedAsInSquad) {
  EXPECT_EQ(Normalised("The  Quick,\tbrown-fox's AN apple.\n"), "quick brownfoxs apple");
  EXPECT_EQ(Normalised("another theory"), "another theory");
  EXPECT_EQ(Normalised(" the. "), "");
}

TEST(Metrics, AnAnswerIsContained) {
  EXPECT_TRUE(ContainsAnswer("It is the Eiffel Tower, I think.", Texts{"eiffel tower"}));
  EXPECT_TRUE(ContainsAnswer("330 m", Texts{"330 metres", "330 M."}));
  EXPECT_FALSE(ContainsAnswer("Eiffel", Texts{"Eiffel Tower"}));
  EXPECT_FALSE(ContainsAnswer("the end", Texts{"The"})) << "nothing is left of it";
  EXPECT_FALSE(ContainsAnswer("anything", Texts{}));
}

TEST(Metrics, F1CountsWordsInCommon) {
  // cat sat on mat; cat on red mat: three of four each.
  EXPECT_DOUBLE_EQ(TokenF1("The cat sat on a mat", Texts{"cat on the red mat"}), 0.75);
  // A third of the prediction, all of the answer.
  EXPECT_DOUBLE_EQ(TokenF1("go go go", Texts{"go"}), 0.5);
  EXPECT_DOUBLE_EQ(TokenF1("go", Texts{"go go go"}), 0.5);
  EXPECT_DOUBLE_EQ(TokenF1("go", Texts{"stay", "go"}), 1);
  EXPECT_DOUBLE_EQ(TokenF1("", Texts{"go"}), 0);
}

TEST(Metrics, RougeLRespectsOrder) {
  // mat on cat sat; cat on red mat: three words in common, no two of them in the same order.
  EXPECT_DOUBLE_EQ(TokenF1("mat on cat sat", Texts{"cat on red mat"}), 0.75);
  EXPECT_DOUBLE_EQ(RougeL("mat on cat sat", Texts{"cat on red mat"}), 0.25);
  // on red mat, of five and of four words.
  EXPECT_DOUBLE_EQ(RougeL("it lay on red mat", Texts{"cat on red mat"}), 2 * 0.6 * 0.75 / 1.35);
}

TEST(Metrics, DistributionsAreOfSoftmax) {
  const auto logits = [](std::vector<double> probabilities, double shift) {
    std::vector<float> logits;
    for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
    return logits;
  };
  const std::vector<float> even = logits({0.5, 0.5}, 3), uneven = logits({0.25, 0.75}, -100);
  EXPECT_NEAR(LogProbability(uneven, 1), std::log(0.75), 1e-5);
  EXPECT_NEAR(Divergence(even, uneven), 0.5 * std::log(2) + 0.5 * std::log(2.0 / 3), 1e-5);
  EXPECT_NEAR(Divergence(uneven, even), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-5);
  EXPECT_EQ(Divergence(even, even), 0);
}

TEST(Metrics, IntervalsOfMeansAreSeededAndHaveTheRightWidth) {
  std::vector<double> values(100, 0);
  std::fill(values.begin(), values.begin() + 50, 1);
  const Estimate estimate = *MeanOf(values, 1);
  EXPECT_DOUBLE_EQ(estimate.mean, 0.5);
  // The binomial distribution's 2.5% and 97.5% are at 40 and 60 of 100.
  EXPECT_NEAR(estimate.interval.low, 0.40, 0.025);
  EXPECT_NEAR(estimate.interval.high, 0.60, 0.025);
  const Estimate again = *MeanOf(values, 1);
  EXPECT_EQ(again.interval.low, estimate.interval.low);
  EXPECT_EQ(again.interval.high, estimate.interval.high);
  const std::vector<double> uneven = {0.1, 0.2, 0.7, 0.3, 0.9};
  EXPECT_NE(MeanOf(uneven, 1)->interval.low + MeanOf(uneven, 1)->interval.high,
            MeanOf(uneven, 2)->interval.low + MeanOf(uneven, 2)->interval.high);
  EXPECT_FALSE(MeanOf(Values{}, 1).has_value());
}

TEST(Metrics, WeightsSayHowOftenAValueCounts) {
  EXPECT_DOUBLE_EQ(MeanOf(Values{1, 4}, Values{3, 1}, 1)->mean, 1.75);
  const std::vector<double> values = {0.1, 0.2, 0.7, 0.3, 0.9};
  const Estimate plain = *MeanOf(values, 1), weighted = *MeanOf(values, Values(5, 2), 1);
  EXPECT_DOUBLE_EQ(weighted.mean, plain.mean);
  EXPECT_NEAR(weighted.interval.low, plain.interval.low, 1e-12) << "the same resamples";
  EXPECT_NEAR(weighted.interval.high, plain.interval.high, 1e-12);
  // One resample in four draws the first value alone, one the second.
  const Estimate two = *MeanOf(Values{1, 4}, Values{3, 1}, 1);
  EXPECT_EQ(two.interval.low, 1);
  EXPECT_EQ(two.interval.high, 4);
  EXPECT_FALSE(MeanOf(Values{}, Values{}, 1).has_value());
}

TEST(Metrics, RecoveryIsOfTheSameQuestions) {
  const std::vector<double> concat = {0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, full = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const std::vector<double> linker = {1, 1, 0, 0, 1, 0, 1, 1, 0, 1};
  const Recovery recovery = *RecoveryOf(linker, concat, full, 1);
  EXPECT_DOUBLE_EQ(recovery.value, 0.5);
  ASSERT_TRUE(recovery.interval.has_value());
  EXPECT_LT(recovery.interval->low, 0.5);
  EXPECT_GT(recovery.interval->high, 0.5);
  // Whatever questions are drawn, full recovers everything and concat nothing.
  const Recovery all = *RecoveryOf(full, concat, full, 1), none = *RecoveryOf(concat, concat, full, 1);
  EXPECT_DOUBLE_EQ(all.interval->low, 1);
  EXPECT_DOUBLE_EQ(all.interval->high, 1);
  EXPECT_DOUBLE_EQ(none.interval->low, 0);
  EXPECT_DOUBLE_EQ(none.interval->high, 0);
}

TEST(Metrics, RecoveryIsUndefinedWhereNothingIsLost) {
  EXPECT_FALSE(RecoveryOf(Values{1, 0}, Values{1, 0}, Values{0, 1}, 1).has_value());
  EXPECT_FALSE(RecoveryOf(Values{}, Values{}, Values{}, 1).has_value());
  // A third of the resamples do not draw the one question that concat loses.
  std::vector<double> concat(10, 1), full(10, 1);
  concat[3] = 0;
  const auto recovery = RecoveryOf(full, concat, full, 1);
  ASSERT_TRUE(recovery.has_value());
  EXPECT_DOUBLE_EQ(recovery->value, 1);
  EXPECT_FALSE(recovery->interval.has_value());
}

TEST(Metrics, AnOrderMovesMeansOrSingleQuestions) {
  const std::vector<Values> orders = {{1, 1, 0, 1}, {1, 0, 0, 0}, {1, 1, 0, 0}};
  const OrderEffect effect = *OrderEffectOf(orders, 1);
  EXPECT_EQ(effect.means, (Values{0.75, 0.25, 0.5}));
  EXPECT_DOUBLE_EQ(effect.difference.mean, 0.5) << "0, 1, 0, 1 between the first order and the second";
  // One resample in sixteen draws only the questions that differ.
  EXPECT_EQ(effect.difference.interval.low, 0);
  EXPECT_EQ(effect.difference.interval.high, 1);
  // Two questions do not depend on the order; one value of the others' three is another: sqrt(2 / 9).
  EXPECT_DOUBLE_EQ(effect.deviation.mean, 2 * std::sqrt(2.0 / 9) / 4);
  // What one question gains another loses.
  const OrderEffect even = *OrderEffectOf(std::vector<Values>{{1, 0}, {0, 1}}, 1);
  EXPECT_EQ(even.difference.mean, 0);
  EXPECT_EQ(even.difference.interval.low, -1);
  EXPECT_EQ(even.difference.interval.high, 1);
  EXPECT_EQ(even.deviation.mean, 0.5);
  EXPECT_FALSE(OrderEffectOf(std::vector<Values>{{1, 0}}, 1).has_value());
  EXPECT_FALSE(OrderEffectOf(std::vector<Values>{{}, {}}, 1).has_value());
}

}  // namespace
}  // namespace kvlink::eval
