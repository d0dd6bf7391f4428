// Passes as graphs: the same to the bit as one operation after another, and given up where a device does not record.
#include "tests/support/cuda_emulation/backend.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

class GraphTest : public GeneratorTest {
 protected:
  ~GraphTest() override { testing::SetEmulatedDeviceUnrecordable(false); }
  bool emulated() const { return GetParam().name == "cuda_emulated"; }
  std::unique_ptr<Generator> EngineOf(const Loaded& loaded, int64_t graph_rows) {
    GeneratorOptions options = Options();
    options.graph_rows = graph_rows;
    auto generator = Generator::Create(loaded.model.get(), loaded.fingerprint, nullptr, options);
    EXPECT_TRUE(generator.ok()) << generator.status();
    return *std::move(generator);
  }
  // Answers, turns and steps of a batch: every number that comes out.
  std::vector<float> Everything(Generator& generator) {
    std::vector<float> all;
    const auto add = [&](const Conversation& conversation) {
      all.push_back(static_cast<float>(conversation.next()));
      all.insert(all.end(), conversation.logits().begin(), conversation.logits().end());
    };
    Request chosen = Ask({2, 3, 1});
    chosen.linker = {link::Linker::kConcat, 0, link::Linker::kProphet, 10};
    const auto a = Start(generator, Ask({0, 2})), b = Start(generator, chosen), c = Start(generator, Ask({}));
    for (int turn = 0; turn < 2; ++turn) {
      for (int step = 0; step < 3; ++step) {
        EXPECT_TRUE(generator.Step(*a, {}).ok());
        add(*a);
      }
      for (int step = 0; step < 3; ++step) {
        EXPECT_TRUE(generator.StepBatch({a.get(), b.get(), c.get()}, {}).ok());
        for (const Conversation* one : {a.get(), b.get(), c.get()}) add(*one);
      }
      const auto scores = generator.Score(*b, {7, 8, 9, 10, 11}, {});
      EXPECT_TRUE(scores.ok()) << scores.status();
      all.insert(all.end(), scores->begin(), scores->end());
      EXPECT_TRUE(generator.Extend(*c, std::vector<int32_t>(70, 5 + turn), {}).ok());  // more than a graph takes
      add(*c);
    }
    return all;
  }
};

TEST_P(GraphTest, ResultsAreTheSameToTheBit) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    testing::TinyModelOptions model;
    model.seed = seed;
    model.architecture = seed == 1 ? "qwen3" : seed == 2 ? "qwen2" : "mistral";
    model.window = seed == 3 ? 50 : 0;
    model.tied = false;
    model.layers = 2;
    model.head_dim = seed == 2 ? 16 : 64;
    model.heads = 2;
    model.kv_heads = 1;
    const std::string path = directory_.path() + "/" + model.architecture;
    ASSERT_TRUE(testing::WriteTinyModel(path, model).ok());
    const Loaded loaded = LoadModel(path, GetParam().make());
    const auto plain = EngineOf(loaded, 0), graphs = EngineOf(loaded, 64);
    const std::vector<float> expected = Everything(*plain);
    EXPECT_EQ(Everything(*graphs), expected);
    EXPECT_EQ(plain->stats().graphs, 0);
    if (!GetParam().on_device) {
      EXPECT_EQ(graphs->stats().graphs, 0) << "a host has none";
    } else {
      EXPECT_GE(graphs->stats().graphs, 10);
    }
    EXPECT_EQ(graphs->stats().graphs_failed, 0);
  }
}

TEST_P(GraphTest, WhereADeviceDoesNotRecordPassesRunAsTheyAre) {
  if (!emulated()) GTEST_SKIP() << "another one cannot be told to fail";
  const auto plain = EngineOf(loaded_, 0), graphs = EngineOf(loaded_, 64);
  testing::SetEmulatedDeviceUnrecordable(true);
  EXPECT_EQ(Everything(*graphs), Everything(*plain));
  EXPECT_EQ(graphs->stats().graphs, 0);
  // After some in a row it is not tried any more, by nobody who uses the model.
  EXPECT_EQ(graphs->stats().graphs_failed, 3);
  EXPECT_EQ(loaded_.model->recording().code(), absl::StatusCode::kInternal);
  testing::SetEmulatedDeviceUnrecordable(false);
  const auto others = EngineOf(loaded_, 64);
  EXPECT_EQ(Everything(*others), Everything(*plain));
  EXPECT_EQ(others->stats().graphs + others->stats().graphs_failed, 0);
}

TEST_P(GraphTest, ARecordingThatFailsNowAndThenIsTriedAgain) {
  if (!emulated()) GTEST_SKIP() << "another one cannot be told to fail";
  const auto generator = EngineOf(loaded_, 64);
  const auto conversation = Start(*generator, Ask({0}));
  const auto step = [&](bool recordable) {
    testing::SetEmulatedDeviceUnrecordable(!recordable);
    EXPECT_TRUE(generator->Step(*conversation, {}).ok());
  };
  step(true);  // the first pass of a shape runs as it is
  for (int round = 0; round < 4; ++round) {
    for (const bool recordable : {false, false, true}) step(recordable);
  }
  EXPECT_EQ(generator->stats().graphs, 4);
  EXPECT_EQ(generator->stats().graphs_failed, 8);
  EXPECT_TRUE(loaded_.model->recording().ok());
}

// More shapes than graphs are kept, in turn.
TEST_P(GraphTest, ManyShapesTakeTurns) {
  const auto plain = EngineOf(loaded_, 0), graphs = EngineOf(loaded_, 64);
  const auto scores = [&](Generator& generator) {
    std::vector<float> all;
    const auto conversation = Start(generator, Ask({0}));
    for (int round = 0; round < 3; ++round) {
      for (const int64_t rows : {1, 2, 3, 4, 1, 5, 6, 7, 8, 1, 9, 10, 11, 12, 1, 12, 11}) {
        const auto some = generator.Score(*conversation, std::vector<int32_t>(rows, 9), {});
        EXPECT_TRUE(some.ok()) << some.status();
        all.insert(all.end(), some->begin(), some->end());
      }
    }
    return all;
  };
  EXPECT_EQ(scores(*graphs), scores(*plain));
  EXPECT_EQ(graphs->stats().graphs > 0, GetParam().on_device);
}

INSTANTIATE_TEST_SUITE_P(Backends, GraphTest, ::testing::ValuesIn(GeneratorBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
