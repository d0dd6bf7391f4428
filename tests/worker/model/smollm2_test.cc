// SmolLM2-135M-Instruct against transformers (tests/golden/make_smollm2.py), on the fast backend.
//
// The goldens bound the largest difference of all logits from 64 columns of every position, the maxima of runs of 64
// columns of every eighth, and four statistics of every position. To compare every logit: KVLINK_DUMP_LOGITS=FOLDER
// writes them (f32, 1 GB for each dtype), tests/golden/compare_logits.py compares them. KVLINK_SOAK=1 runs bf16 over
// all 5,200 positions.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu.h"
#include "tests/worker/model/run_model.h"
#include "tests_source_dir.h"

namespace kvlink::model {
namespace {

constexpr int64_t kTexts = 10, kLength = 520, kVocab = 49152;

std::string ModelPath() {
  const char* path = std::getenv("KVLINK_MODEL");
  return path != nullptr ? path : KVLINK_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

bool Soak() {
  const char* soak = std::getenv("KVLINK_SOAK");
  return soak != nullptr && std::string(soak) == "1";
}

Golden OpenGolden(const std::string& name) {
  auto golden = Golden::Open(KVLINK_SOURCE_DIR "/tests/golden/logits/smollm2_" + name + ".safetensors");
  EXPECT_TRUE(golden.ok()) << golden.status();
  return *std::move(golden);
}

class Smollm2 : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!std::filesystem::exists(ModelPath())) return;
    f32_ = Make(kernels::CpuOptions::Compute::kF32);
    bf16_ = Make(kernels::CpuOptions::Compute::kBf16);
  }
  static void TearDownTestSuite() {
    f32_ = {};
    bf16_ = {};
  }
  void SetUp() override {
    if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << ModelPath() << " is missing";
    ASSERT_TRUE(f32_.runner && bf16_.runner);
  }

  struct Machine {
    std::unique_ptr<kernels::Backend> backend;
    std::unique_ptr<Runner> runner;
  };
  static Machine Make(kernels::CpuOptions::Compute compute) {
    Machine machine;
    kernels::CpuOptions options;
    options.compute = compute;
    auto backend = kernels::MakeCpuBackend(options);
    EXPECT_TRUE(backend.ok()) << backend.status();
    machine.backend = *std::move(backend);
    auto runner = Runner::Open(machine.backend.get(), ModelPath(), 20 * 128);
    EXPECT_TRUE(runner.ok()) << runner.status();
    if (runner.ok()) machine.runner = *std::move(runner);
    return machine;
  }
  // Logits of one text in pieces of 104 tokens, each given to `use(position, logits)`.
  template <typename Use>
  static void RunText(Runner& runner, absl::Span<const int32_t> tokens, const Use& use) {
    KvSequence sequence(runner.pages());
    constexpr int64_t kPiece = 104;
    for (int64_t begin = 0; begin < kLength; begin += kPiece) {
      const auto logits = runner.Run(sequence, tokens.subspan(begin, kPiece), true);
      ASSERT_TRUE(logits.ok()) << logits.status();
      for (int64_t i = 0; i < kPiece; ++i) use(begin + i, Row(*logits, i));
    }
  }

  static Machine f32_, bf16_;
};
Smollm2::Machine Smollm2::f32_, Smollm2::bf16_;

TEST_F(Smollm2, F32LogitsEqualTransformers) {
  const Golden golden = OpenGolden("logits");
  const std::vector<int32_t> tokens = golden.Ints("tokens"), columns = golden.Ints("columns"),
                             rows = golden.Ints("rows");
  const std::vector<float> expected = golden.Floats("logits"), maxima = golden.Floats("block_maxima");
  const std::vector<float> stats = golden.Floats("stats");
  ASSERT_EQ(static_cast<int64_t>(tokens.size()), kLength);
  ASSERT_EQ(expected.size(), kLength * columns.size());
  double column_worst = 0, maximum_worst = 0, stat_worst = 0;
  size_t next_row = 0;
  RunText(*f32_.runner, tokens, [&](int64_t position, absl::Span<const float> logits) {
    for (size_t c = 0; c < columns.size(); ++c) {
      column_worst =
          std::max<double>(column_worst, std::abs(logits[columns[c]] - expected[position * columns.size() + c]));
    }
    const std::vector<double> row = Stats(logits);
    for (int s = 0; s < 4; ++s) stat_worst = std::max(stat_worst, std::abs(row[s] - stats[position * 4 + s]));
    if (next_row == rows.size() || rows[next_row] != position) return;
    for (int64_t block = 0; block < kVocab / 64; ++block) {
      const float maximum = *std::max_element(logits.begin() + block * 64, logits.begin() + (block + 1) * 64);
      maximum_worst = std::max<double>(maximum_worst, std::abs(maximum - maxima[next_row * (kVocab / 64) + block]));
    }
    ++next_row;
  });
  EXPECT_EQ(next_row, rows.size());
  std::printf("f32 over %d positions: largest difference of a column %.2e, of a maximum %.2e, of a statistic %.2e\n",
              static_cast<int>(kLength), column_worst, maximum_worst, stat_worst);
  EXPECT_LE(column_worst, 1e-3);
  EXPECT_LE(maximum_worst, 1e-3);
  EXPECT_LE(stat_worst, 1e-3);
}

// 20 prompts decoded together. A text may leave the reference's only where the reference's two best logits lie within
// 1e-3.
TEST_F(Smollm2, F32GreedyTextEqualsTransformers) {
  const Golden golden = OpenGolden("greedy");
  const std::vector<int32_t> prompts = golden.Ints("prompts"), lengths = golden.Ints("prompt_lengths");
  const std::vector<int32_t> expected = golden.Ints("tokens");
  const std::vector<float> margins = golden.Floats("margins");
  constexpr size_t kPrompts = 20, kNew = 48;
  ASSERT_EQ(lengths.size(), kPrompts);
  ASSERT_EQ(expected.size(), kPrompts * kNew);
  Runner& runner = *f32_.runner;
  std::vector<std::unique_ptr<KvSequence>> sequences;
  std::vector<int32_t> next;
  size_t begin = 0;
  for (const int32_t length : lengths) {
    sequences.push_back(std::make_unique<KvSequence>(runner.pages()));
    const auto logits = runner.Run(*sequences.back(), absl::MakeConstSpan(prompts).subspan(begin, length), false);
    ASSERT_TRUE(logits.ok()) << logits.status();
    next.push_back(ArgMax(Row(*logits, 0)));
    begin += length;
  }
  std::set<size_t> differing;
  for (size_t step = 0;; ++step) {
    for (size_t i = 0; i < kPrompts; ++i) {
      if (next[i] == expected[i * kNew + step] || differing.contains(i)) continue;
      differing.insert(i);
      EXPECT_LE(margins[i * kNew + step], 1e-3) << "prompt " << i << " at step " << step;
    }
    if (step + 1 == kNew) break;
    const auto logits = runner.Step(sequences, next);
    ASSERT_TRUE(logits.ok()) << logits.status();
    for (size_t i = 0; i < kPrompts; ++i) next[i] = ArgMax(Row(*logits, static_cast<int64_t>(i)));
  }
  std::printf("greedy: %d of %d texts equal to their end\n", static_cast<int>(kPrompts - differing.size()),
              static_cast<int>(kPrompts));
}

// bf16 loses no more than transformers' own bf16 does. The f32 side is ours, held against transformers above.
TEST_F(Smollm2, Bf16StaysCloseToF32) {
  const Golden golden = OpenGolden("tokens");
  const std::vector<int32_t> tokens = golden.Ints("tokens"), f32_top1 = golden.Ints("f32_top1");
  const std::vector<int32_t> bf16_top1 = golden.Ints("bf16_top1");
  ASSERT_EQ(static_cast<int64_t>(tokens.size()), kTexts * kLength);
  const char* dump = std::getenv("KVLINK_DUMP_LOGITS");
  std::ofstream f32_file, bf16_file;
  if (dump != nullptr) {
    f32_file.open(std::string(dump) + "/smollm2.f32", std::ios::binary);
    bf16_file.open(std::string(dump) + "/smollm2.bf16", std::ios::binary);
  }
  const int64_t texts = Soak() || dump != nullptr ? kTexts : 1;
  double divergence = 0;
  int64_t agreed = 0, reference_agreed = 0, reference_f32 = 0;
  for (int64_t text = 0; text < texts; ++text) {
    const auto part = absl::MakeConstSpan(tokens).subspan(text * kLength, kLength);
    std::vector<float> exact(kLength * kVocab);
    RunText(*f32_.runner, part, [&](int64_t position, absl::Span<const float> logits) {
      std::copy(logits.begin(), logits.end(), exact.begin() + position * kVocab);
    });
    RunText(*bf16_.runner, part, [&](int64_t position, absl::Span<const float> logits) {
      const auto reference = absl::MakeConstSpan(exact).subspan(position * kVocab, kVocab);
      divergence += KlDivergence(reference, logits);
      const int64_t at = text * kLength + position;
      agreed += ArgMax(logits) == f32_top1[at];
      reference_agreed += bf16_top1[at] == f32_top1[at];
      reference_f32 += ArgMax(reference) == f32_top1[at];
      if (dump != nullptr) bf16_file.write(reinterpret_cast<const char*>(logits.data()), kVocab * 4);
    });
    if (dump != nullptr)
      f32_file.write(reinterpret_cast<const char*>(exact.data()), static_cast<int64_t>(exact.size()) * 4);
  }
  const auto positions = static_cast<double>(texts * kLength);
  std::printf("bf16 over %.0f positions: mean KL %.2e, top-1 agreement %.4f (transformers' bf16 %.4f, our f32 %.4f)\n",
              positions, divergence / positions, agreed / positions, reference_agreed / positions,
              reference_f32 / positions);
  EXPECT_LE(divergence / positions, 0.01);
  EXPECT_GE(agreed / positions, reference_agreed / positions - 0.005 - (texts == 1 ? 0.005 : 0));
  EXPECT_GE(reference_f32 / positions, 0.998);
}

}  // namespace
}  // namespace kvlink::model
