// Sampling on every backend: greedy, each filter against a distribution worked out here, the same tokens everywhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "kernels/ref/ref.h"
#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::SampleParams;

class SampleTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }

  absl::StatusOr<std::vector<int32_t>> Run(kernels::Backend* backend, const std::vector<float>& logits, int64_t vocab,
                                           const std::vector<SampleParams>& params) {
    const int64_t rows = static_cast<int64_t>(params.size());
    const auto in = DeviceTensor::Of(backend, Dtype::kF32, {rows, vocab}, logits, {vocab + 3, 1});
    const auto out = DeviceTensor::Poisoned(backend, Dtype::kI32, {rows});
    const DeviceWorkspace workspace(backend, backend->SampleWorkspaceBytes(rows, vocab));
    auto stream = backend->NewStream();
    absl::Status status = backend->Sample(*stream, {in, params, out, workspace});
    if (status.ok()) status = stream->Synchronize();
    if (!status.ok()) return status;
    return out.Ints<int32_t>();
  }
  absl::StatusOr<std::vector<int32_t>> Run(const std::vector<float>& logits, int64_t vocab,
                                           const std::vector<SampleParams>& params) {
    return Run(backend_.get(), logits, vocab, params);
  }

  std::unique_ptr<kernels::Backend> backend_;
};

TEST_P(SampleTest, GreedyTakesTheLowestOfTheLargest) {
  const float inf = INFINITY;
  const std::vector<float> logits = {1,    5,   5,   2,       //
                                     -inf, -7,  NAN, -7,      //
                                     NAN,  NAN, NAN, -3e38f,  //
                                     0,    inf, 1,   inf};
  EXPECT_EQ(Run(logits, 4, std::vector<SampleParams>(4)).value(), (std::vector<int32_t>{1, 1, 3, 1}));
}

TEST_P(SampleTest, ARowWithoutAnyLogitIsAnError) {
  for (float temperature : {0.0f, 1.0f}) {
    const auto tokens = Run({-INFINITY, NAN, -INFINITY, -INFINITY}, 4, {{.temperature = temperature}});
    EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInternal);
  }
}

// The distribution that the filters leave, computed by sorting everything.
std::vector<double> Distribution(const std::vector<float>& logits, const SampleParams& params) {
  const size_t vocab = logits.size();
  std::vector<double> weight(vocab);
  const double top = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < vocab; ++i) weight[i] = std::exp((logits[i] - top) / params.temperature);
  std::vector<size_t> order(vocab);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0) order.resize(std::min(vocab, static_cast<size_t>(params.top_k)));
  double total = 0, reached = 0;
  for (size_t i : order) total += weight[i];
  if (params.top_p < 1) {
    size_t kept = 0;
    while (kept == 0 || (kept < order.size() && reached < params.top_p * total)) reached += weight[order[kept++]];
    order.resize(kept);
  }
  std::vector<double> probability(vocab, 0.0);
  double sum = 0;
  for (size_t i : order) {
    if (weight[i] >= params.min_p) probability[i] = weight[i];
    sum += probability[i];
  }
  for (double& p : probability) p /= sum;
  return probability;
}

TEST_P(SampleTest, EachFilterGivesItsDistribution) {
  constexpr int64_t kVocab = 16;
  const bool slow = GetParam().name == "cuda_emulated";  // emulation is
  const int64_t draws = slow ? testing::kSanitized ? 500 : 1500 : 4000;
  std::mt19937_64 random(TestSeed());
  std::normal_distribution<float> normal(0, 1.5);
  std::vector<float> logits(kVocab);
  for (float& logit : logits) logit = normal(random);
  const std::vector<SampleParams> settings = {
      {.temperature = 1},
      {.temperature = 0.5f},
      {.temperature = 2, .top_k = 5},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_p = 0.8f},
      {.temperature = 1, .top_p = 0},
      {.temperature = 1.5f, .min_p = 0.2f},
      {.temperature = 1.5f, .top_k = 8, .top_p = 0.9f, .min_p = 0.1f},
      {.temperature = 1, .top_k = 1000, .top_p = 1, .min_p = 0},
  };
  std::vector<float> rows;
  for (int64_t i = 0; i < draws; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
  for (size_t s = 0; s < settings.size(); ++s) {
    const std::vector<double> expected = Distribution(logits, settings[s]);
    std::vector<SampleParams> params(static_cast<size_t>(draws), settings[s]);
    for (int64_t i = 0; i < draws; ++i) params[i].seed = TestSeed() + s, params[i].position = i;
    const std::vector<int32_t> tokens = Run(rows, kVocab, params).value();
    std::vector<int64_t> count(kVocab, 0);
    for (int32_t token : tokens) {
      ASSERT_GE(token, 0);
      ASSERT_LT(token, kVocab);
      ++count[token];
    }
    double chi_square = 0;
    for (int64_t i = 0; i < kVocab; ++i) {
      const double want = expected[i] * static_cast<double>(draws);
      if (expected[i] == 0) {
        EXPECT_EQ(count[i], 0) << "setting " << s << " drew token " << i << ", which its filters removed";
      } else {
        chi_square += (static_cast<double>(count[i]) - want) * (static_cast<double>(count[i]) - want) / want;
      }
    }
    EXPECT_LT(chi_square, 52) << "setting " << s;  // 15 degrees of freedom: p below 1e-5
  }
}

// Among equals the lower ids rank first, also at the edge of a filter.
TEST_P(SampleTest, FiltersBreakTiesByLowerId) {
  const auto drawn = [&](const SampleParams& setting) {
    std::vector<SampleParams> params(200, setting);
    std::vector<float> rows;
    for (size_t i = 0; i < params.size(); ++i) {
      params[i].temperature = 1, params[i].position = static_cast<int64_t>(i);
      rows.insert(rows.end(), {1, 2, 1, 1});
    }
    const std::vector<int32_t> tokens = Run(rows, 4, params).value();
    return std::set<int32_t>(tokens.begin(), tokens.end());
  };
  EXPECT_EQ(drawn({.top_k = 2}), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(drawn({.top_k = 3}), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(drawn({.top_k = 4}), (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.top_p = 0.6f}), (std::set<int32_t>{0, 1}));              // e / (e + 3) = 0.475, two make 0.65
  EXPECT_EQ(drawn({.top_k = 3, .top_p = 0.7f}), (std::set<int32_t>{0, 1}));  // of three: 0.576, then 0.788
  EXPECT_EQ(drawn({.min_p = 0.4f}), (std::set<int32_t>{1}));
}

TEST_P(SampleTest, ATokenDependsOnSeedAndPositionOnly) {
  constexpr int64_t kVocab = 1000;
  const std::vector<float> flat(kVocab, 0.0f);
  const SampleParams params{.temperature = 1, .seed = 12345678901234567ull, .position = 77};
  const int32_t alone = Run(flat, kVocab, {params}).value()[0];
  std::vector<float> rows;
  for (int i = 0; i < 5; ++i) rows.insert(rows.end(), flat.begin(), flat.end());
  SampleParams other = params;
  other.position = 78;
  SampleParams seed = params;
  seed.seed ^= uint64_t{1} << 63;
  const std::vector<int32_t> tokens = Run(rows, kVocab, {other, params, seed, params, other}).value();
  EXPECT_EQ(tokens[1], alone);
  EXPECT_EQ(tokens[3], alone);
  EXPECT_EQ(tokens[0], tokens[4]);
  EXPECT_NE(tokens[0], alone);
  EXPECT_NE(tokens[2], alone);
}

TEST_P(SampleTest, DrawsWhatTheScalarBackendDraws) {
  constexpr int64_t kVocab = 32003, kRows = 24;
  std::mt19937_64 random(TestSeed() + 1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(kVocab * kRows);
  for (float& logit : logits) logit = normal(random);
  for (int i = 0; i < 200; ++i) logits[random() % logits.size()] = i % 2 == 0 ? -INFINITY : NAN;
  std::vector<SampleParams> params(kRows);
  for (int64_t i = 0; i < kRows; ++i) {
    params[i] = {.temperature = i % 4 == 0 ? 0.0f : 0.3f * static_cast<float>(i % 7),
                 .top_k = i % 3 == 0 ? static_cast<int32_t>(random() % 500) : 0,
                 .top_p = i % 2 == 0 ? 0.95f : 1.0f,
                 .min_p = i % 5 == 0 ? 0.02f : 0.0f,
                 .seed = random(),
                 .position = i};
  }
  const auto reference = kernels::MakeRefBackend();
  EXPECT_EQ(Run(logits, kVocab, params).value(), Run(reference.get(), logits, kVocab, params).value());
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
