// How good answers are: text against expected text, distributions against distributions, and means with intervals.
// docs/quality-of-answers.md gives the formulas in short.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_EVAL_METRICS_H_
#define KVLINK_WORKER_EVAL_METRICS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::eval {

// Lower case, without punctuation, articles and surplus spaces: the normalisation of SQuAD (Rajpurkar et al., arXiv
// 1606.05250, evaluate-v1.1.py). Only ASCII letters and punctuation are recognised.
std::string Normalised(absl::string_view text);

// The metrics below normalise both texts, and take the best of several accepted answers.

// Best-subspan exact match: whether the prediction contains an answer (Liu et al., "Lost in the Middle", arXiv
// 2307.03172). An answer that is empty once normalised is contained nowhere.
bool ContainsAnswer(absl::string_view prediction, absl::Span<const std::string> answers);
// Harmonic mean of precision and recall over the words in common, counted with multiplicity (SQuAD). 0..1.
double TokenF1(absl::string_view prediction, absl::Span<const std::string> answers);
// The same over the longest common subsequence of words (Lin, "ROUGE", ACL 2004, with beta = 1). 0..1.
double RougeL(absl::string_view prediction, absl::Span<const std::string> answers);

// Natural logarithm of the probability that softmax(logits) gives to `token`. REQUIRES: 0 <= token < logits.size().
double LogProbability(absl::Span<const float> logits, int32_t token);
// Kullback-Leibler divergence of softmax(q) from softmax(p), in nats. REQUIRES: equal sizes, not 0.
double Divergence(absl::Span<const float> p, absl::Span<const float> q);

// Bounds between which 95% of bootstrap resamples lie: the percentile interval (Efron and Tibshirani, "An Introduction
// to the Bootstrap", 1993, chapter 13), from 1,000 resamples drawn with `seed`.
struct Interval {
  double low = 0;
  double high = 0;
};
struct Estimate {
  double mean = 0;
  Interval interval;
};
// nullopt: no values.
std::optional<Estimate> MeanOf(absl::Span<const double> values, uint64_t seed);
// The same where each value counts as often as its weight says. REQUIRES: equal sizes, weights above 0.
std::optional<Estimate> MeanOf(absl::Span<const double> values, absl::Span<const double> weights, uint64_t seed);

// The share of what `concat` loses that a linker wins back: (linker - concat) / (full - concat), of means over the same
// questions in the same order. 1: as good as full attention; below 0: worse than concat.
struct Recovery {
  double value = 0;
  // Resamples questions, the same for all three. Absent if full does not beat concat in more than 5% of resamples.
  std::optional<Interval> interval;
};
// nullopt: full does not beat concat, or there are no questions. REQUIRES: equal sizes.
std::optional<Recovery> RecoveryOf(absl::Span<const double> linker, absl::Span<const double> concat,
                                   absl::Span<const double> full, uint64_t seed);

// How much a measure depends on the order of the documents, over questions that were asked in each of several orders.
struct OrderEffect {
  std::vector<double> means;  // of each order
  // Between the orders with the highest and the lowest mean. Resamples questions and keeps these two orders, so that
  // the interval may hold 0.
  Estimate difference;
  Estimate deviation;  // of one question over its orders (the root of the mean square), mean over questions
};
// `orders`: of each order, the values of the same questions in the same order. nullopt: fewer than two orders, or no
// questions. REQUIRES: equal sizes.
std::optional<OrderEffect> OrderEffectOf(absl::Span<const std::vector<double>> orders, uint64_t seed);

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_METRICS_H_
