#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests_source_dir.h"

namespace kvlink::kernels {
namespace {

RopeConfig ConfigOf(const nlohmann::json& entry) {
  const nlohmann::json& parameters = entry.at("parameters");
  RopeConfig config;
  config.type = ParseRopeType(entry.at("type").get<std::string>()).value();
  config.theta = entry.at("theta");
  config.rotary_dim = entry.at("rotary_dim");
  config.factor = parameters.value("factor", 1.0);
  config.low_freq_factor = parameters.value("low_freq_factor", 1.0);
  config.high_freq_factor = parameters.value("high_freq_factor", 4.0);
  config.original_context = parameters.value("original_max_position_embeddings", int64_t{0});
  config.beta_fast = parameters.value("beta_fast", 32.0);
  config.beta_slow = parameters.value("beta_slow", 1.0);
  config.attention_factor = parameters.value("attention_factor", 0.0);
  config.mscale = parameters.value("mscale", 0.0);
  config.mscale_all_dim = parameters.value("mscale_all_dim", 0.0);
  config.truncate = parameters.value("truncate", true);
  return config;
}

nlohmann::json Golden() {
  std::ifstream file(std::string(KVLINK_SOURCE_DIR) + "/tests/golden/rope.json");
  return nlohmann::json::parse(file);
}

TEST(RopeTest, FrequenciesEqualTransformers) {
  const nlohmann::json golden = Golden();
  ASSERT_GE(golden.at("cases").size(), 10u);
  for (const nlohmann::json& entry : golden.at("cases")) {
    SCOPED_TRACE(entry.at("type").get<std::string>() + " " + entry.at("parameters").dump());
    const Rope rope = MakeRope(ConfigOf(entry)).value();
    ASSERT_EQ(rope.inv_freq.size(), entry.at("inv_freq").size());
    EXPECT_NEAR(rope.attention_factor, entry.at("attention_factor").get<double>(), 1e-12);
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const double in_f64 = entry.at("inv_freq")[i], in_f32 = entry.at("inv_freq_f32")[i];
      EXPECT_NEAR(rope.inv_freq[i], in_f64, 1e-12 * in_f64);
      // transformers computes a power, a quotient and a blend in f32: a few roundings of 6e-8.
      EXPECT_NEAR(rope.inv_freq[i], in_f32, 2e-6 * in_f32);
    }
  }
}

TEST(RopeTest, AnglesHoldTo131072) {
  const nlohmann::json golden = Golden();
  for (const nlohmann::json& entry : golden.at("cases")) {
    const Rope rope = MakeRope(ConfigOf(entry)).value();
    std::vector<float> cosine(rope.inv_freq.size()), sine(rope.inv_freq.size());
    for (const nlohmann::json& angles : entry.at("angles")) {
      rope.Angles(angles.at("position"), absl::MakeSpan(cosine), absl::MakeSpan(sine));
      for (size_t j = 0; j < entry.at("pairs").size(); ++j) {
        const size_t i = entry.at("pairs")[j];
        // One rounding to f32 (6e-8); the f64 angle of position 131072 is good to 3e-11.
        EXPECT_NEAR(cosine[i], angles.at("cos")[j].get<double>(), 6e-8);
        EXPECT_NEAR(sine[i], angles.at("sin")[j].get<double>(), 6e-8);
      }
    }
  }
}

TEST(RopeTest, NegativePositionsTurnBack) {
  const Rope rope = MakeRope({.theta = 10000, .rotary_dim = 64}).value();
  std::vector<float> cosine(32), sine(32), back_cosine(32), back_sine(32);
  rope.Angles(99999, absl::MakeSpan(cosine), absl::MakeSpan(sine));
  rope.Angles(-99999, absl::MakeSpan(back_cosine), absl::MakeSpan(back_sine));
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(cosine[i], back_cosine[i]);
    EXPECT_EQ(sine[i], -back_sine[i]);
  }
}

// A GGUF says llama3 scaling as divisors of the default frequencies.
TEST(RopeTest, DivisorsSayTheSameAsLlama3) {
  RopeConfig scaled{.type = RopeConfig::Type::kLlama3, .theta = 500000, .rotary_dim = 64, .factor = 32};
  scaled.original_context = 8192;
  RopeConfig plain{.theta = 500000, .rotary_dim = 64};
  const Rope wanted = MakeRope(scaled).value(), base = MakeRope(plain).value();
  for (size_t i = 0; i < 32; ++i) {
    plain.frequency_divisors.push_back(static_cast<float>(base.inv_freq[i] / wanted.inv_freq[i]));
  }
  const Rope divided = MakeRope(plain).value();
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(divided.inv_freq[i], wanted.inv_freq[i], 1e-7 * wanted.inv_freq[i]);
}

TEST(RopeTest, RefusesTypesThatAreNotLinearInThePosition) {
  for (const char* name : {"dynamic", "longrope", "su", "mrope", "", "Default"}) {
    EXPECT_EQ(ParseRopeType(name).status().code(), absl::StatusCode::kUnimplemented) << name;
  }
}

TEST(RopeTest, RefusesConfigsThatDoNotFitTogether) {
  const RopeConfig good{
      .type = RopeConfig::Type::kYarn, .theta = 10000, .rotary_dim = 64, .factor = 2, .original_context = 4096};
  ASSERT_TRUE(MakeRope(good).ok());
  const auto refused = [&](const auto& spoil) {
    RopeConfig config = good;
    spoil(config);
    const absl::Status status = MakeRope(config).status();
    return status.code() == absl::StatusCode::kInvalidArgument &&
           status.message().find('\n') == absl::string_view::npos;
  };
  EXPECT_TRUE(refused([](RopeConfig& c) { c.rotary_dim = 0; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.rotary_dim = 63; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.rotary_dim = int64_t{1} << 40; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.theta = 0; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.theta = NAN; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.theta = 1; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.factor = 0; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.factor = INFINITY; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.original_context = 0; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.beta_fast = 0; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.mscale = -1; }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.frequency_divisors.assign(32, 1.0f); }));
  const auto plain = [](RopeConfig& c) { c = {.theta = 10000, .rotary_dim = 64}; };
  EXPECT_TRUE(refused([&](RopeConfig& c) { plain(c), c.frequency_divisors.assign(31, 1.0f); }));
  EXPECT_TRUE(refused([&](RopeConfig& c) { plain(c), c.frequency_divisors.assign(32, 0.0f); }));
  EXPECT_TRUE(refused([](RopeConfig& c) { c.type = RopeConfig::Type::kLlama3, c.low_freq_factor = 4; }));
}

}  // namespace
}  // namespace kvlink::kernels
