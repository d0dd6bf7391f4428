// Sums are in f64 and in a fixed order, so that equal results give equal tables.
#include "worker/eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "worker/data/random.h"

namespace kvlink::eval {
namespace {

constexpr size_t kResamples = 1000;
constexpr size_t kTail = kResamples / 40;  // 2.5% on each side
constexpr size_t kMaxUndefined = kResamples / 20;

std::vector<std::string> WordsOf(absl::string_view text) {
  std::string kept;
  for (const char c : absl::AsciiStrToLower(text)) {
    if (!absl::ascii_ispunct(static_cast<unsigned char>(c))) kept.push_back(c);
  }
  std::vector<std::string> words = absl::StrSplit(kept, absl::ByAnyChar(" \t\n\r\f\v"), absl::SkipEmpty());
  std::erase_if(words, [](const std::string& word) { return word == "a" || word == "an" || word == "the"; });
  return words;
}

// Harmonic mean of the shares that `common` words are of the prediction and of the answer.
double FMeasure(size_t common, size_t prediction, size_t answer) {
  if (common == 0) return 0;
  const double precision = static_cast<double>(common) / static_cast<double>(prediction);
  const double recall = static_cast<double>(common) / static_cast<double>(answer);
  return 2 * precision * recall / (precision + recall);
}

size_t CommonWords(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::map<absl::string_view, size_t> counts;
  for (const std::string& word : a) ++counts[word];
  size_t common = 0;
  for (const std::string& word : b) {
    const auto it = counts.find(word);
    if (it == counts.end() || it->second == 0) continue;
    --it->second;
    ++common;
  }
  return common;
}

size_t LongestCommonSubsequence(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (const std::string& word : a) {
    size_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = word == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return row.back();
}

template <typename Common>
double BestF(absl::string_view prediction, absl::Span<const std::string> answers, const Common& common) {
  const std::vector<std::string> predicted = WordsOf(prediction);
  double best = 0;
  for (const std::string& answer : answers) {
    const std::vector<std::string> expected = WordsOf(answer);
    best = std::max(best, FMeasure(common(predicted, expected), predicted.size(), expected.size()));
  }
  return best;
}

// Logarithm of the sum of exponentials.
double Normaliser(absl::Span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

double Mean(absl::Span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}
double MeanAt(absl::Span<const double> values, absl::Span<const size_t> chosen) {
  double sum = 0;
  for (const size_t i : chosen) sum += values[i];
  return sum / static_cast<double>(chosen.size());
}

double WeightedMeanAt(absl::Span<const double> values, absl::Span<const double> weights,
                      absl::Span<const size_t> chosen) {
  double sum = 0, weight = 0;
  for (const size_t i : chosen) {
    sum += weights[i] * values[i];
    weight += weights[i];
  }
  return sum / weight;
}

// Draws `count` of `count` indices with replacement, kResamples times.
template <typename Each>
void Resample(size_t count, uint64_t seed, const Each& each) {
  data::Random random(seed);
  std::vector<size_t> chosen(count);
  for (size_t round = 0; round < kResamples; ++round) {
    for (size_t& index : chosen) index = random.Below(count);
    each(chosen);
  }
}

std::optional<double> Recovered(double linker, double concat, double full) {
  if (!(full > concat)) return std::nullopt;
  return (linker - concat) / (full - concat);
}

}  // namespace

std::string Normalised(absl::string_view text) { return absl::StrJoin(WordsOf(text), " "); }

bool ContainsAnswer(absl::string_view prediction, absl::Span<const std::string> answers) {
  const std::string predicted = Normalised(prediction);
  return std::any_of(answers.begin(), answers.end(), [&](const std::string& answer) {
    const std::string expected = Normalised(answer);
    return !expected.empty() && predicted.find(expected) != std::string::npos;
  });
}

double TokenF1(absl::string_view prediction, absl::Span<const std::string> answers) {
  return BestF(prediction, answers, CommonWords);
}

double RougeL(absl::string_view prediction, absl::Span<const std::string> answers) {
  return BestF(prediction, answers, LongestCommonSubsequence);
}

double LogProbability(absl::Span<const float> logits, int32_t token) { return logits[token] - Normaliser(logits); }

double Divergence(absl::Span<const float> p, absl::Span<const float> q) {
  const double p_sum = Normaliser(p), q_sum = Normaliser(q);
  double divergence = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_sum;
    divergence += std::exp(log_p) * (log_p - (q[i] - q_sum));
  }
  return divergence;
}

std::optional<Estimate> MeanOf(absl::Span<const double> values, uint64_t seed) {
  if (values.empty()) return std::nullopt;
  std::vector<double> means;
  Resample(values.size(), seed, [&](const std::vector<size_t>& chosen) { means.push_back(MeanAt(values, chosen)); });
  std::sort(means.begin(), means.end());
  return Estimate{Mean(values), {means[kTail], means[kResamples - 1 - kTail]}};
}

std::optional<Estimate> MeanOf(absl::Span<const double> values, absl::Span<const double> weights, uint64_t seed) {
  if (values.empty()) return std::nullopt;
  std::vector<size_t> all(values.size());
  std::iota(all.begin(), all.end(), 0);
  std::vector<double> means;
  Resample(values.size(), seed,
           [&](const std::vector<size_t>& chosen) { means.push_back(WeightedMeanAt(values, weights, chosen)); });
  std::sort(means.begin(), means.end());
  return Estimate{WeightedMeanAt(values, weights, all), {means[kTail], means[kResamples - 1 - kTail]}};
}

std::optional<Recovery> RecoveryOf(absl::Span<const double> linker, absl::Span<const double> concat,
                                   absl::Span<const double> full, uint64_t seed) {
  if (linker.empty()) return std::nullopt;
  const std::optional<double> value = Recovered(Mean(linker), Mean(concat), Mean(full));
  if (!value) return std::nullopt;
  std::vector<double> values;
  Resample(linker.size(), seed, [&](const std::vector<size_t>& chosen) {
    const auto one = Recovered(MeanAt(linker, chosen), MeanAt(concat, chosen), MeanAt(full, chosen));
    if (one) values.push_back(*one);
  });
  Recovery recovery{*value, std::nullopt};
  if (kResamples - values.size() > kMaxUndefined) return recovery;
  std::sort(values.begin(), values.end());
  const size_t tail = values.size() / 40;
  recovery.interval = Interval{values[tail], values[values.size() - 1 - tail]};
  return recovery;
}

std::optional<OrderEffect> OrderEffectOf(absl::Span<const std::vector<double>> orders, uint64_t seed) {
  if (orders.size() < 2 || orders[0].empty()) return std::nullopt;
  OrderEffect effect;
  for (const std::vector<double>& values : orders) effect.means.push_back(Mean(values));
  const auto [low, high] = std::minmax_element(effect.means.begin(), effect.means.end());
  const std::vector<double>& lowest = orders[low - effect.means.begin()];
  const std::vector<double>& highest = orders[high - effect.means.begin()];
  std::vector<double> differences, deviations;
  for (size_t question = 0; question < lowest.size(); ++question) {
    differences.push_back(highest[question] - lowest[question]);
    std::vector<double> values, squares;
    for (const std::vector<double>& order : orders) values.push_back(order[question]);
    const double mean = Mean(values);
    for (const double value : values) squares.push_back((value - mean) * (value - mean));
    deviations.push_back(std::sqrt(Mean(squares)));
  }
  effect.difference = *MeanOf(differences, seed);
  effect.deviation = *MeanOf(deviations, seed);
  return effect;
}

}  // namespace kvlink::eval
