// The forward pass of small random models against transformers' logits (tests/golden/make_models.py, make_variants.py),
// and its own promises.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/ref/ref.h"
#include "tests/support/backends.h"
#include "tests/worker/model/run_model.h"
#include "tests_source_dir.h"

namespace kvlink::model {
namespace {

using ::testing::HasSubstr;

const std::string kGolden = KVLINK_SOURCE_DIR "/tests/golden/";

struct Case {
  const char* model;
  const char* logits;
};

class Forward : public ::testing::TestWithParam<Case> {
 protected:
  void ExpectEqualTransformers(kernels::Backend* backend, const std::string& name);
};

TEST_P(Forward, LogitsEqualTransformers) {
  for (const testing::BackendFactory& factory : testing::AllBackends()) {
    const auto backend = factory.make();
    ExpectEqualTransformers(backend.get(), factory.name);
  }
}

void Forward::ExpectEqualTransformers(kernels::Backend* backend, const std::string& name) {
  SCOPED_TRACE(name);
  const auto golden = Golden::Open(kGolden + "logits/" + GetParam().logits + ".safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto runner = Runner::Open(backend, kGolden + "models/" + GetParam().model, 1024);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const std::vector<int32_t> tokens = golden->Ints("tokens"), rows = golden->Ints("rows");
  const std::vector<float> expected = golden->Floats("logits"), stats = golden->Floats("stats");
  ASSERT_EQ(tokens.size(), 520u);
  KvSequence sequence((*runner)->pages());
  const auto logits = (*runner)->Run(sequence, tokens, true);
  ASSERT_TRUE(logits.ok()) << logits.status();
  const int64_t vocab = (*runner)->model().config().vocab;
  double worst = 0, worst_stat = 0, divergence = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const absl::Span<const float> row = Row(*logits, rows[i]);
    divergence += KlDivergence(absl::MakeConstSpan(expected).subspan(i * vocab, vocab), row);
    for (int64_t j = 0; j < vocab; ++j) worst = std::max<double>(worst, std::abs(row[j] - expected[i * vocab + j]));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::vector<double> row = Stats(Row(*logits, static_cast<int64_t>(i)));
    for (int j = 0; j < 4; ++j) worst_stat = std::max(worst_stat, std::abs(row[j] - stats[i * 4 + j]));
  }
  std::printf("%s on %s: largest difference of a logit %.2e, of a statistic %.2e\n", GetParam().model, name.c_str(),
              worst, worst_stat);
  if (backend->compute_dtype() == kernels::Dtype::kBf16) {
    std::printf("  mean KL %.2e\n", divergence / static_cast<double>(rows.size()));
    EXPECT_LE(divergence / static_cast<double>(rows.size()), 0.01);
    return;
  }
  EXPECT_LE(worst, 1e-3);
  EXPECT_LE(worst_stat, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Forward,
    ::testing::Values(Case{"llama-tied-f16", "llama-tied-f16"}, Case{"llama-linear", "llama-linear"},
                      Case{"llama-llama3", "llama-llama3"}, Case{"llama-llama3.gguf", "llama-llama3"},
                      Case{"llama-yarn", "llama-yarn"}, Case{"llama-yarn.gguf", "llama-yarn"},
                      Case{"mistral-window", "mistral-window"}, Case{"qwen2-window", "qwen2-window"},
                      Case{"qwen2-plain.gguf", "qwen2-plain"}, Case{"qwen3-sharded", "qwen3-sharded"},
                      Case{"llama-bias", "llama-bias"}, Case{"llama-untied", "llama-untied"},
                      Case{"mistral-mixed", "mistral-mixed"}),
    [](const auto& info) {
      std::string name = info.param.model;
      std::replace_if(
          name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
      return name;
    });

class ForwardPromises : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = kernels::MakeRefBackend();
    auto runner = Runner::Open(backend_.get(), kGolden + "models/qwen2-window", 2048);
    ASSERT_TRUE(runner.ok()) << runner.status();
    runner_ = *std::move(runner);
    tokens_.resize(200);
    for (size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = static_cast<int32_t>((i * 97 + i / 7) % 256);
  }
  std::vector<float> Copy(const kernels::Tensor& logits) {
    return {logits.as<float>(), logits.as<float>() + logits.elements()};
  }
  static double Worst(absl::Span<const float> a, absl::Span<const float> b) {
    EXPECT_EQ(a.size(), b.size());
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max<double>(worst, std::abs(a[i] - b[i]));
    return worst;
  }
  // A batch over `tokens_` in one new sequence, ready to be changed.
  struct Prepared {
    std::vector<int64_t> positions, slots, wanted;
    kernels::KvSegment segment;
    kernels::KvRead read;
    ForwardBatch batch;
  };
  void Prepare(KvSequence& sequence, Prepared* p) {
    p->positions.resize(tokens_.size());
    std::iota(p->positions.begin(), p->positions.end(), 0);
    p->slots = *sequence.Append(p->positions);
    p->wanted = {static_cast<int64_t>(tokens_.size()) - 1};
    p->segment = sequence.segment();
    p->read = {0, 0, static_cast<int64_t>(tokens_.size()), 0, nullptr};
    p->batch.tokens = tokens_;
    p->batch.positions = p->positions;
    p->batch.slots = p->slots;
    p->batch.pages = runner_->pages();
    p->batch.segments = {&p->segment, 1};
    p->batch.reads = {&p->read, 1};
    p->batch.logits_rows = p->wanted;
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Runner> runner_;
  std::vector<int32_t> tokens_;
};

TEST_F(ForwardPromises, PiecesGiveWhatOnePassGives) {
  KvSequence whole(runner_->pages()), pieces(runner_->pages());
  const std::vector<float> expected = Copy(*runner_->Run(whole, tokens_, true));
  const int64_t vocab = runner_->model().config().vocab;
  std::vector<float> got;
  size_t begin = 0;
  for (const size_t size : {1, 63, 64, 1, 1, 70}) {
    const auto logits = runner_->Run(pieces, absl::MakeConstSpan(tokens_).subspan(begin, size), true);
    ASSERT_TRUE(logits.ok()) << logits.status();
    const std::vector<float> part = Copy(*logits);
    got.insert(got.end(), part.begin(), part.end());
    begin += size;
  }
  ASSERT_EQ(begin, tokens_.size());
  ASSERT_EQ(static_cast<int64_t>(got.size()), vocab * 200);
  EXPECT_LE(Worst(got, expected), 1e-4);
}

TEST_F(ForwardPromises, SequencesOfABatchDoNotMix) {
  std::vector<std::unique_ptr<KvSequence>> sequences;
  std::vector<std::vector<float>> alone;
  std::vector<int32_t> next;
  for (int i = 0; i < 3; ++i) {
    const auto part = absl::MakeConstSpan(tokens_).subspan(i * 10, 30 + 40 * i);
    KvSequence single(runner_->pages());
    ASSERT_TRUE(runner_->Run(single, part, false).ok());
    next.push_back(100 + i);
    alone.push_back(Copy(*runner_->Run(single, {next.back()}, false)));
    sequences.push_back(std::make_unique<KvSequence>(runner_->pages()));
    ASSERT_TRUE(runner_->Run(*sequences.back(), part, false).ok());
  }
  const auto logits = runner_->Step(sequences, next);
  ASSERT_TRUE(logits.ok()) << logits.status();
  for (int i = 0; i < 3; ++i) EXPECT_LE(Worst(Row(*logits, i), alone[i]), 1e-4);
}

TEST_F(ForwardPromises, ScatteredRowsGetTheirOwnLogits) {
  KvSequence all(runner_->pages()), some(runner_->pages());
  const auto full = runner_->Run(all, tokens_, true);
  ASSERT_TRUE(full.ok()) << full.status();
  const std::vector<float> expected = Copy(*full);
  const int64_t vocab = full->sizes[1];
  Prepared p;
  Prepare(some, &p);
  p.wanted = {0, 3, 4, 77, 199};
  p.batch.logits_rows = p.wanted;
  const auto logits = runner_->model().Forward(runner_->context(), p.batch);
  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->sizes[0], 5);
  for (size_t i = 0; i < p.wanted.size(); ++i) {
    EXPECT_LE(
        Worst(Row(*logits, static_cast<int64_t>(i)), absl::MakeConstSpan(expected).subspan(p.wanted[i] * vocab, vocab)),
        1e-5);
  }
}

TEST_F(ForwardPromises, EncodeWritesTheSameKeysAndValues) {
  KvSequence with(runner_->pages()), without(runner_->pages());
  ASSERT_TRUE(runner_->Run(with, tokens_, true).ok());
  Prepared p;
  Prepare(without, &p);
  p.batch.logits_rows = {};
  std::vector<int64_t> layers;
  p.batch.before_layer = [&](int64_t layer) {
    layers.push_back(layer);
    return absl::OkStatus();
  };
  const auto logits = runner_->model().Forward(runner_->context(), p.batch);
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_EQ(logits->sizes[0], 0);
  EXPECT_EQ(layers, (std::vector<int64_t>{0, 1}));  // the last layer reads nothing
  const KvPages& pages = *runner_->pages();
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (size_t block = 0; block < with.block_table().size(); ++block) {
      const auto page = [&](const KvSequence& sequence) {
        return reinterpret_cast<const float*>(pages.layer_data()[layer] +
                                              sequence.block_table()[block] * pages.block_stride());
      };
      const int64_t floats = pages.block_stride() / 4, tail = block == 3 ? 8 : 64;
      for (int64_t i = 0; i < floats; ++i) {
        if (i / 16 % 64 >= tail) continue;
        ASSERT_EQ(page(with)[i], page(without)[i]) << layer << " " << block << " " << i;
      }
    }
  }
}

TEST_F(ForwardPromises, BeforeLayerMayEndThePass) {
  KvSequence sequence(runner_->pages());
  Prepared p;
  Prepare(sequence, &p);
  p.batch.before_layer = [](int64_t layer) {
    return layer == 1 ? absl::DataLossError("slab of layer 1") : absl::OkStatus();
  };
  EXPECT_EQ(runner_->model().Forward(runner_->context(), p.batch).status(), absl::DataLossError("slab of layer 1"));
  p.batch.before_layer = nullptr;
  EXPECT_TRUE(runner_->model().Forward(runner_->context(), p.batch).ok());  // the context is still good
}

TEST_F(ForwardPromises, ExtraEmbeddingsStandBehindTheVocabulary) {
  const int64_t hidden = runner_->model().config().hidden, vocab = runner_->model().config().vocab;
  std::vector<float> extra(2 * hidden);
  ASSERT_TRUE(runner_->model().EmbeddingRow(17, absl::MakeSpan(extra).first(hidden)).ok());
  ASSERT_TRUE(runner_->model().EmbeddingRow(91, absl::MakeSpan(extra).subspan(hidden)).ok());
  EXPECT_FALSE(runner_->model().EmbeddingRow(static_cast<int32_t>(vocab), absl::MakeSpan(extra).first(hidden)).ok());
  tokens_[20] = 91;
  tokens_[30] = 17;
  KvSequence plain(runner_->pages()), linked(runner_->pages());
  const std::vector<float> expected = Copy(*runner_->Run(plain, tokens_, false));
  tokens_[20] = static_cast<int32_t>(vocab) + 1;
  tokens_[30] = static_cast<int32_t>(vocab);
  Prepared p;
  Prepare(linked, &p);
  EXPECT_FALSE(runner_->model().Forward(runner_->context(), p.batch).ok());
  p.batch.extra_embeddings = kernels::Tensor::Dense(extra.data(), kernels::Dtype::kF32, {}, {2, hidden});
  const auto logits = runner_->model().Forward(runner_->context(), p.batch);
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_EQ(Copy(*logits), expected);
}

TEST_F(ForwardPromises, BadBatchesAreRefused) {
  KvSequence sequence(runner_->pages());
  Prepared p;
  Prepare(sequence, &p);
  const auto expect_refused = [&](const char* message) {
    const absl::Status status = runner_->model().Forward(runner_->context(), p.batch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  tokens_[5] = 256;
  expect_refused("token 256");
  tokens_[5] = -1;
  expect_refused("token -1");
  tokens_[5] = 0;
  p.slots[7] = runner_->pages()->total_pages() * kBlockTokens;
  expect_refused("slot");
  p.slots[7] = p.slots[8] - 1;
  p.positions[0] = -1;
  expect_refused("position");
  p.positions[0] = 0;
  p.wanted = {200};
  p.batch.logits_rows = p.wanted;
  expect_refused("logits row 200");
  p.wanted = {5, 5};
  p.batch.logits_rows = p.wanted;
  expect_refused("logits row 5");
  p.batch.slots = p.batch.slots.first(3);
  expect_refused("3 slots");
  p.batch.tokens = {};
  expect_refused("without tokens");
}

}  // namespace
}  // namespace kvlink::model
