// The network against transformers' logits (tests/golden/make_models.py) and against the oracle of linked attention.
#include "worker/train/network.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/masked_forward.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_model.h"
#include "tests/worker/model/run_model.h"
#include "tests_source_dir.h"
#include "worker/files/weights.h"

namespace kvlink::train {
namespace {

const std::string kGoldenFolder = KVLINK_SOURCE_DIR "/tests/golden/";

std::vector<float> Logits(const Network& network, const std::vector<const Sequence*>& pack, const at::Tensor& extra) {
  const at::NoGradGuard no_gradients;
  const at::Tensor logits = network.Logits(network.Forward(network.LayOut(pack), extra)).contiguous();
  return {logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel()};
}

double Worst(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = a.size() == b.size() ? 0 : HUGE_VAL;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = difference;  // keeps a NaN
  }
  return worst;
}

std::unique_ptr<Network> Open(const std::string& path, std::unique_ptr<model::Weights>* weights) {
  auto opened = model::OpenWeights(path);
  EXPECT_TRUE(opened.ok()) << opened.status();
  if (!opened.ok()) return nullptr;
  *weights = *std::move(opened);
  auto network = Network::Create((*weights)->config(), weights->get(), 1, {});
  EXPECT_TRUE(network.ok()) << network.status();
  return network.ok() ? *std::move(network) : nullptr;
}

class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, LogitsEqualTransformers) {
  std::unique_ptr<model::Weights> weights;
  const auto network = Open(kGoldenFolder + "models/" + GetParam(), &weights);
  ASSERT_NE(network, nullptr);
  std::string name = GetParam();
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  const auto golden = model::Golden::Open(kGoldenFolder + "logits/" + name + ".safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  Sequence sequence;
  sequence.tokens = golden->Ints("tokens");
  sequence.tokens.push_back(0);  // what the last row predicts
  for (const int32_t row : golden->Ints("rows")) sequence.learned.push_back(row + 1);
  EXPECT_LE(Worst(Logits(*network, {&sequence}, {}), golden->Floats("logits")), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Models, Families,
                         ::testing::Values("llama-tied-f16", "llama-linear", "llama-llama3", "llama-yarn", "llama-bias",
                                           "llama-untied", "llama-llama3.gguf", "mistral-window", "mistral-mixed",
                                           "qwen2-window", "qwen2-plain.gguf", "qwen3-sharded"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

struct Random {
  explicit Random(uint64_t seed) : engine(seed) {}
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1));
  }
  template <typename T>
  T Pick(std::initializer_list<T> choices) {
    return choices.begin()[engine() % choices.size()];
  }
  std::mt19937_64 engine;
};

// Documents with wrappers, links behind them, tokens around them.
Sequence RandomSequence(Random& random, int64_t vocab, int64_t extra) {
  Sequence sequence;
  const auto add = [&](int64_t count, int64_t from, int64_t to) {
    for (int64_t i = 0; i < count; ++i) sequence.tokens.push_back(static_cast<int32_t>(random.Between(from, to - 1)));
  };
  add(random.Between(0, 20), 3, vocab);
  const int64_t documents = random.Between(0, 4);
  for (int64_t i = 0; i < documents; ++i) {
    const auto begin = static_cast<int64_t>(sequence.tokens.size());
    add(random.Between(0, 3), vocab, vocab + extra);
    add(random.Between(1, 60), 3, vocab);
    add(random.Between(0, 3), vocab, vocab + extra);
    sequence.documents.emplace_back(begin, static_cast<int64_t>(sequence.tokens.size()));
    add(random.Between(0, 2), vocab, vocab + extra);
  }
  add(random.Between(2, 30), 3, vocab);
  for (int64_t token = 1; token < static_cast<int64_t>(sequence.tokens.size()); ++token) {
    if (random.Between(0, 2) == 0) sequence.learned.push_back(token);
  }
  if (sequence.learned.empty()) sequence.learned.push_back(1);
  return sequence;
}

std::vector<float> OracleLogits(const model::Weights& weights, const Sequence& sequence,
                                absl::Span<const float> extra) {
  std::vector<testing::MaskedToken> tokens;
  for (size_t i = 0; i < sequence.tokens.size(); ++i) {
    testing::MaskedToken token{sequence.tokens[i], static_cast<int64_t>(i), 0, false};
    for (size_t d = 0; d < sequence.documents.size(); ++d) {
      const auto [begin, end] = sequence.documents[d];
      if (token.position >= begin && token.position < end) token.segment = static_cast<int64_t>(d) + 1;
    }
    tokens.push_back(token);
  }
  std::vector<int64_t> wanted;
  for (const int64_t token : sequence.learned) wanted.push_back(token - 1);
  const auto logits = testing::MaskedForward(weights, tokens, extra, wanted);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *logits : std::vector<float>();
}

TEST(Network, PacksOfDocumentsEqualTheOracle) {
  const int cases = testing::Soak() ? 200 : 10;
  for (int i = 0; i < cases; ++i) {
    const uint64_t seed = testing::TestSeed() + static_cast<uint64_t>(i);
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Random random(seed);
    testing::TinyModelOptions options;
    options.seed = seed;
    const char* const families[] = {"llama", "mistral", "qwen2", "qwen3"};
    options.architecture = families[i % 4];
    options.layers = random.Between(1, 3);
    options.head_dim = random.Pick<int64_t>({16, 24, 64});
    options.kv_heads = random.Pick<int64_t>({1, 2, 3});
    options.heads = options.kv_heads * random.Pick<int64_t>({1, 2, 4});
    options.tied = random.Between(0, 1) == 0;
    if (options.architecture == "mistral") options.window = random.Between(1, 100);
    options.rope_scaling =
        random.Pick<const char*>({"", R"({"rope_type":"linear","factor":4.0})",
                                  R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":512})"});
    const testing::ScratchDirectory directory(/*in_memory=*/true);
    ASSERT_TRUE(testing::WriteTinyModel(directory.path() + "/m", options).ok());
    std::unique_ptr<model::Weights> weights;
    const auto network = Open(directory.path() + "/m", &weights);
    ASSERT_NE(network, nullptr);
    constexpr int64_t kExtra = 12;
    std::vector<float> extra(kExtra * options.hidden);
    for (float& element : extra) element = static_cast<float>(random.Between(-1000, 1000)) / 1000;
    const Sequence one = RandomSequence(random, options.vocab, kExtra);
    const Sequence two = RandomSequence(random, options.vocab, kExtra);
    std::vector<float> expected = OracleLogits(*weights, one, extra);
    const std::vector<float> second = OracleLogits(*weights, two, extra);
    expected.insert(expected.end(), second.begin(), second.end());
    const at::Tensor rows = at::from_blob(extra.data(), {kExtra, options.hidden}, at::kFloat);
    EXPECT_LE(Worst(Logits(*network, {&one, &two}, rows), expected), 1e-3);
  }
}

}  // namespace
}  // namespace kvlink::train
