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

  using Rows = std::vector<kernels::RowAdjustments>;
  std::vector<int32_t> Run(kernels::Backend* backend, const std::vector<float>& logits, int64_t vocab,
                           const std::vector<SampleParams>& params, const Rows& adjustments = {}) {
    const int64_t rows = static_cast<int64_t>(params.size());
    const auto in = DeviceTensor::Of(backend, Dtype::kF32, {rows, vocab}, logits, {vocab + 3, 1});
    const std::vector<std::byte> before = in.Bytes();
    const auto out = DeviceTensor::Poisoned(backend, Dtype::kI32, {rows});
    const auto adjusted =
        std::count_if(adjustments.begin(), adjustments.end(), [](const auto& row) { return row.any(); });
    const DeviceWorkspace workspace(backend, backend->SampleWorkspaceBytes(rows, vocab, adjusted));
    auto stream = backend->NewStream();
    EXPECT_TRUE(backend->Sample(*stream, {in, params, out, workspace, adjustments}).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
    EXPECT_TRUE(in.Bytes() == before) << "the logits themselves were changed";
    return out.Ints<int32_t>();
  }
  std::vector<int32_t> Run(const std::vector<float>& logits, int64_t vocab, const std::vector<SampleParams>& params,
                           const Rows& adjustments = {}) {
    return Run(backend_.get(), logits, vocab, params, adjustments);
  }

  struct Logprobs {
    std::vector<float> out;
    std::vector<int32_t> likeliest;
  };
  Logprobs RunLogprobs(kernels::Backend* backend, const std::vector<float>& logits, int64_t vocab,
                       const std::vector<int64_t>& rows, const std::vector<int32_t>& tokens, int64_t top) {
    const auto all = static_cast<int64_t>(tokens.size()), count = static_cast<int64_t>(rows.size());
    const auto in = DeviceTensor::Of(backend, Dtype::kF32, {all, vocab}, logits, {vocab + 3, 1});
    const auto of = DeviceTensor::OfInts(backend, Dtype::kI32, tokens);
    const auto out = DeviceTensor::Poisoned(backend, Dtype::kF32, {count, 1 + top});
    const auto likeliest = DeviceTensor::Poisoned(backend, Dtype::kI32, {count, top});
    auto stream = backend->NewStream();
    EXPECT_TRUE(backend->Logprobs(*stream, {in, rows, of, top, out, likeliest}).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
    return {out.Floats(), likeliest.Ints<int32_t>()};
  }

  std::unique_ptr<kernels::Backend> backend_;
};

TEST_P(SampleTest, GreedyTakesTheLowestOfTheLargest) {
  const float inf = INFINITY;
  const std::vector<float> logits = {1,    5,   5,   2,       //
                                     -inf, -7,  NAN, -7,      //
                                     NAN,  NAN, NAN, -3e38f,  //
                                     0,    inf, 1,   inf};
  EXPECT_EQ(Run(logits, 4, std::vector<SampleParams>(4)), (std::vector<int32_t>{1, 1, 3, 1}));
}

TEST_P(SampleTest, ARowWithoutAnyLogitHasNoToken) {
  for (const float temperature : {0.0f, 1.0f}) {
    const std::vector<float> logits = {1, 2, -INFINITY, NAN, -INFINITY, -INFINITY, 2, 1};
    std::vector<SampleParams> params(4, {.temperature = temperature, .top_p = 0});
    EXPECT_EQ(Run(logits, 2, params), (std::vector<int32_t>{1, kernels::kNoToken, kernels::kNoToken, 0}));
  }
}

TEST_P(SampleTest, AdjustmentsFollowTheirFormulas) {
  using kernels::LogitAdjustment;
  const std::vector<SampleParams> greedy(1);
  // The largest that token 1 may be adjusted to without being the best beside a logit of 1.
  const auto best = [&](float logit, const LogitAdjustment& adjustment) {
    return Run({1, logit}, 2, greedy, {{absl::MakeConstSpan(&adjustment, 1)}})[0];
  };
  EXPECT_EQ(best(0, {.token = 1, .bias = 1}), 0);
  EXPECT_EQ(best(0, {.token = 1, .bias = 1.0000001f}), 1);
  EXPECT_EQ(best(2, {.token = 1, .repetition = 2}), 0);  // divides
  EXPECT_EQ(best(2.000001f, {.token = 1, .repetition = 2}), 1);
  EXPECT_EQ(best(3, {.token = 1, .penalty = 2}), 0);
  EXPECT_EQ(best(3.000001f, {.token = 1, .penalty = 2}), 1);
  EXPECT_EQ(best(-4, {.token = 1, .bias = 10, .repetition = 2, .penalty = 1.999f}), 1);  // in this order: 6, 3, 1.001
  EXPECT_EQ(best(-4, {.token = 1, .bias = 10, .repetition = 2, .penalty = 2}), 0);
  // A negative logit is multiplied: -1.5 becomes -3 and loses to -2.
  const LogitAdjustment repeated{.token = 1, .repetition = 2};
  EXPECT_EQ(Run({-2, -1.5}, 2, greedy)[0], 1);
  EXPECT_EQ(Run({-2, -1.5}, 2, greedy, {{absl::MakeConstSpan(&repeated, 1)}})[0], 0);
  EXPECT_EQ(best(-INFINITY, {.token = 1, .bias = 3e38f}), 0);
  EXPECT_EQ(best(NAN, {.token = 1, .bias = 3e38f}), 0);
}

TEST_P(SampleTest, WhatIsNotAllowedIsNotDrawn) {
  constexpr int64_t kVocab = 70;
  std::vector<uint32_t> only_69(3), none(3), odd(3, 0xaaaaaaaau);
  only_69[2] = 1u << 5 | 0xffu << 6;  // and bits beyond the vocabulary
  std::vector<float> logits;
  for (int i = 0; i < 200; ++i) {
    for (int64_t id = 0; id < kVocab; ++id) logits.push_back(static_cast<float>(id % 2));
  }
  const kernels::LogitAdjustment bias{.token = 4, .bias = 100};
  std::vector<SampleParams> params(200);
  Rows rows(200);
  for (int i = 0; i < 200; ++i) {
    params[i] = {.temperature = i % 8 < 4 ? 0.0f : 1.0f, .position = i};
    if (i % 4 == 1) rows[i].allowed = only_69.data();
    if (i % 4 == 2) rows[i].allowed = none.data();
    if (i % 4 == 3) rows[i] = {absl::MakeConstSpan(&bias, 1), odd.data()};
  }
  const std::vector<int32_t> tokens = Run(logits, kVocab, params, rows), free = Run(logits, kVocab, params);
  std::set<int32_t> drawn;
  for (int i = 0; i < 200; ++i) {
    if (i % 4 == 3) {
      EXPECT_EQ(tokens[i] % 2, 1) << "whatever its bias";
      drawn.insert(tokens[i]);
    } else {
      EXPECT_EQ(tokens[i], i % 4 == 0 ? free[i] : i % 4 == 1 ? 69 : kernels::kNoToken) << i;
    }
  }
  EXPECT_GT(drawn.size(), 5);
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
    const std::vector<int32_t> tokens = Run(rows, kVocab, params);
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
    const std::vector<int32_t> tokens = Run(rows, 4, params);
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
  const int32_t alone = Run(flat, kVocab, {params})[0];
  std::vector<float> rows;
  for (int i = 0; i < 5; ++i) rows.insert(rows.end(), flat.begin(), flat.end());
  SampleParams other = params;
  other.position = 78;
  SampleParams seed = params;
  seed.seed ^= uint64_t{1} << 63;
  const std::vector<int32_t> tokens = Run(rows, kVocab, {other, params, seed, params, other});
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
  EXPECT_EQ(Run(logits, kVocab, params), Run(reference.get(), logits, kVocab, params));

  // Adjusted as well: more than one launch can take, in one row.
  std::uniform_real_distribution<float> factor(0.5, 2);
  std::vector<std::vector<kernels::LogitAdjustment>> adjustments(kRows);
  std::vector<std::vector<uint32_t>> masks(kRows, std::vector<uint32_t>((kVocab + 31) / 32));
  Rows rows(kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int32_t token = 0; row % 3 < 2 && token < kVocab; ++token) {
      if (random() % (row % 6 == 0 ? 1 : 50) != 0) continue;
      adjustments[row].push_back({token, normal(random), factor(random), normal(random)});
    }
    for (uint32_t& word : masks[row]) word = static_cast<uint32_t>(random() & random());
    rows[row].tokens = adjustments[row];
    if (row % 2 == 0) rows[row].allowed = masks[row].data();
  }
  const std::vector<int32_t> tokens = Run(logits, kVocab, params, rows);
  EXPECT_EQ(tokens, Run(reference.get(), logits, kVocab, params, rows));
  // And as if the logits had been so.
  for (int64_t row = 0; row < kRows; ++row) {
    float* const own = logits.data() + row * kVocab;
    for (const kernels::LogitAdjustment& one : adjustments[row]) own[one.token] = AdjustedLogit(own[one.token], one);
    for (int64_t id = 0; row % 2 == 0 && id < kVocab; ++id) {
      if ((masks[row][id / 32] >> (id % 32) & 1) == 0) own[id] = -INFINITY;
    }
  }
  EXPECT_EQ(tokens, Run(reference.get(), logits, kVocab, params));
}

TEST_P(SampleTest, LogprobsAreTheLogSoftmax) {
  constexpr int64_t kVocab = 3001, kAll = 6, kTop = kernels::kMaxLikeliest;
  std::mt19937_64 random(TestSeed() + 2);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(kVocab * kAll);
  for (float& logit : logits) logit = std::round(normal(random) * 64) / 64;  // with ties
  for (int i = 0; i < 100; ++i) logits[random() % logits.size()] = i % 2 == 0 ? -INFINITY : NAN;
  std::vector<int32_t> tokens(kAll);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % kVocab);
  tokens[4] = kernels::kNoToken;
  const std::vector<int64_t> rows = {4, 1, 5, 2};
  for (const int64_t top : {int64_t{0}, int64_t{3}, kTop}) {
    const Logprobs result = RunLogprobs(backend_.get(), logits, kVocab, rows, tokens, top);
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* const own = logits.data() + rows[i] * kVocab;
      std::vector<int32_t> order;
      for (int32_t id = 0; id < kVocab; ++id) {
        if (own[id] > -INFINITY) order.push_back(id);
      }
      double sum = 0;
      for (const int32_t id : order) sum += std::exp(static_cast<double>(own[id]));
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return own[a] > own[b]; });
      const float* const out = result.out.data() + static_cast<int64_t>(i) * (1 + top);
      const int32_t token = tokens[static_cast<size_t>(rows[i])];
      if (token == kernels::kNoToken || !(own[token] > -INFINITY)) {
        EXPECT_EQ(out[0], -INFINITY);
      } else {
        EXPECT_NEAR(out[0], own[token] - std::log(sum), 1e-5);  // rounded to f32
      }
      for (int64_t rank = 0; rank < top; ++rank) {
        EXPECT_EQ(result.likeliest[static_cast<int64_t>(i) * top + rank], order[rank]);
        EXPECT_NEAR(out[1 + rank], own[order[rank]] - std::log(sum), 1e-5);
      }
    }
  }
}

TEST_P(SampleTest, LogprobsOfRowsWithFewLogits) {
  const float inf = INFINITY;
  const std::vector<float> logits = {-inf, 2,   NAN,  -inf,  //
                                     -inf, NAN, -inf, -inf,  //
                                     1,    inf, 0,    inf};
  const Logprobs result = RunLogprobs(backend_.get(), logits, 4, {0, 1, 2}, {1, 1, 0}, 3);
  const float half = std::log(0.5f);
  EXPECT_EQ(result.out, (std::vector<float>{0, 0, -inf, -inf, -inf, -inf, -inf, -inf, -inf, half, half, -inf}));
  EXPECT_EQ(result.likeliest, (std::vector<int32_t>{1, -1, -1, -1, -1, -1, 1, 3, 0}));
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
