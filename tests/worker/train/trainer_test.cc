// Runs over a tiny model and generated questions: continued to the bit, refused, ruined, out of room; and what a run
// leaves behind.
#include "worker/train/trainer.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/checksum.h"
#include "base/little_endian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"
#include "worker/link/profile.h"
#include "worker/train/identity.h"
#include "worker/train/output.h"

namespace kvlink::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Training : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::TinyModelOptions options;
    options.layers = 2;
    options.hidden = 32;
    options.heads = 2;
    options.kv_heads = 1;
    options.intermediate = 48;
    ASSERT_TRUE(testing::WriteTinyModel(Path("model"), options).ok());
    auto weights = model::OpenWeights(Path("model"));
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *std::move(weights);
    tokenizer_ = *model::OpenTokenizer(Path("model"));
    chat_ = *model::ChatTemplate::Parse(weights_->chat_template());
    profile_ = *link::LoadLinkProfile("untuned");
    mixture_ = GeneratedMixture();
    mixture_.sources[0].documents = {2, 3};
    mixture_.sources[0].document_tokens = {50, 50};
  }

  std::string Path(const std::string& name) const { return directory_.path() + "/" + name; }

  Settings SettingsOf(Mode mode) const {
    Settings settings = DefaultSettings(mode);
    if (settings.embeddings.header > 0) settings.embeddings.header = settings.embeddings.trailer = 2;
    if (settings.embeddings.links > 0) settings.embeddings.links = 1;
    settings.batch = 2;
    settings.steps = 6;
    settings.warm_up = 1;
    settings.tokens = 1600;
    settings.held_out = 2;
    settings.every = 2;
    settings.patience = 0;
    settings.checkpoint = 2;
    settings.threads = 1;
    return settings;
  }

  // A run in a directory, in a new process as it were. `passes` made by this call at most.
  absl::StatusOr<Outcome> Train(const Settings& settings, const std::string& name, int64_t passes = 1000) {
    std::filesystem::create_directories(Path(name));
    auto learner = Learner::Create(weights_->config(), weights_.get(), settings);
    EXPECT_TRUE(learner.ok()) << learner.status();
    learner_ = *std::move(learner);
    const auto maker =
        SequenceMaker::Create(tokenizer_.get(), chat_.get(), {}, &profile_, weights_->config(), settings.embeddings);
    EXPECT_TRUE(maker.ok()) << maker.status();
    train::Run run;
    run.settings = settings;
    run.identity = {{"model", "tiny"}};
    run.directory = Path(name);
    run.learner = learner_.get();
    run.maker = &*maker;
    run.mixture = &mixture_;
    run.stopped = [&passes] { return passes-- <= 0; };
    run.reader.max_skipped = skip_damaged_;
    run.left_out = [this](const std::string& why) { left_out_.push_back(why); };
    return Trainer::Train(run);
  }

  testing::ScratchDirectory directory_{/*in_memory=*/true};
  std::unique_ptr<model::Weights> weights_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<model::ChatTemplate> chat_;
  link::LinkProfile profile_;
  Mixture mixture_;
  int64_t skip_damaged_ = 0;
  std::vector<std::string> left_out_;
  std::unique_ptr<Learner> learner_;  // of the last run
};

TEST_F(Training, AnInterruptedRunContinuesToTheBit) {
  for (const Mode mode : {Mode::kWrapperLinks, Mode::kLora, Mode::kFull}) {
    SCOPED_TRACE(ModeName(mode));
    const Settings settings = SettingsOf(mode);
    const std::string whole = absl::StrCat("whole-", ModeName(mode)), parts = absl::StrCat("parts-", ModeName(mode));
    ASSERT_TRUE(Train(settings, whole).ok());
    const int64_t concat = Frozen(mode) ? 2 : 0;                // passes, before the first step
    const auto measuring = Train(settings, parts, 7 + concat);  // what is measured after the second step
    ASSERT_TRUE(measuring.ok()) << measuring.status();
    EXPECT_EQ(measuring->end, Outcome::End::kStopped);
    EXPECT_EQ(measuring->step, 2);
    const auto first = Train(settings, parts, 5);  // within the fourth step
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(first->end, Outcome::End::kStopped);
    EXPECT_EQ(first->step, 3);
    // Killed behind its checkpoint: what it measured since is measured again.
    std::ofstream(Path(parts) + "/metrics.jsonl", std::ios::app) << "{\"step\": 4, \"loss\": 17}\n{\"step\": 5, \"lo";
    const auto second = Train(settings, parts);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(second->end, Outcome::End::kSteps);
    EXPECT_EQ(second->step, 6);
    const std::string metrics = Bytes(Path(whole) + "/metrics.jsonl");
    EXPECT_THAT(metrics, HasSubstr("\"step\":6"));
    EXPECT_EQ(metrics, Bytes(Path(parts) + "/metrics.jsonl"));
    EXPECT_EQ(Bytes(Path(whole) + "/checkpoint.kvtc"), Bytes(Path(parts) + "/checkpoint.kvtc"));
    EXPECT_EQ(Bytes(Path(whole) + "/events.out.tfevents.kvlink"), Bytes(Path(parts) + "/events.out.tfevents.kvlink"));
  }
}

// Killed between a measurement's line and the checkpoint that knows of it.
TEST_F(Training, AMeasurementIsWrittenOnce) {
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.steps = 2;
  ASSERT_TRUE(Train(settings, "whole").ok());
  const auto begun = Train(settings, "parts", 1);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->end, Outcome::End::kStopped);
  EXPECT_EQ(begun->step, 0);
  const std::string metrics = Bytes(Path("whole") + "/metrics.jsonl");
  EXPECT_THAT(metrics.substr(0, metrics.find('\n')), AllOf(HasSubstr("\"step\":0"), HasSubstr("held_out_divergence")));
  std::ofstream(Path("parts") + "/metrics.jsonl", std::ios::app) << metrics.substr(0, metrics.find('\n') + 1);
  ASSERT_TRUE(Train(settings, "parts").ok());
  EXPECT_EQ(metrics, Bytes(Path("parts") + "/metrics.jsonl"));
}

TEST(Curves, OnlyWhatConcatLosesIsALevel) {
  const std::string plot = CurvesPlot({{0, {{"held_out_divergence", 2}, {"concat_divergence", 3}}},
                                       {1, {{"divergence", 4}}},
                                       {2, {{"divergence", 5}}}});
  EXPECT_THAT(plot, HasSubstr("$concat_divergence << END\n0 3\n2 3\nEND\n"));
  EXPECT_THAT(plot, HasSubstr("$held_out_divergence << END\n0 2\nEND\n"));
  EXPECT_THAT(plot, HasSubstr("$divergence << END\n1 4\n2 5\nEND\n"));
}

TEST_F(Training, AContinuedRunCanBeStoppedWhileItSkips) {
  std::ofstream file(Path("s.jsonl"));
  for (int i = 0; i < 60; ++i)
    file << R"({"id": "i", "dialogue": "A: hi", "summary": "b"})"
         << "\n";
  file.close();
  mixture_ = *ParseMixture(R"({"sources": [{"format": "samsum", "path": "s.jsonl"}]})", directory_.path());
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.steps = 2;
  settings.held_out = 0;
  settings.schedule = Schedule::kConstant;
  ASSERT_TRUE(Train(settings, "run").ok());
  const std::string path = Path("run") + "/checkpoint.kvtc";
  auto checkpoint = DecodeCheckpoint(Bytes(path));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  // More than these steps can draw.
  checkpoint->drawn = int64_t{1} << 32;
  ASSERT_TRUE(WriteCheckpoint(path, *checkpoint).ok());
  EXPECT_THAT(Train(settings, "run").status().message(), HasSubstr("4294967296 examples are more than 2 steps draw"));
  checkpoint->step = int64_t{1} << 31;
  ASSERT_TRUE(WriteCheckpoint(path, *checkpoint).ok());
  const std::string before = Bytes(path);
  EXPECT_EQ(Train(settings, "run", /*passes=*/0).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Bytes(path), before);
  // What is passed over in files is read by the first step.
  checkpoint->step = 1 << 20;
  checkpoint->drawn = 1 << 20;
  ASSERT_TRUE(WriteCheckpoint(path, *checkpoint).ok());
  settings.steps = 1 << 21;
  const auto stopped = Train(settings, "run", /*passes=*/(1 << 20) / 1024);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->end, Outcome::End::kStopped);
  EXPECT_EQ(stopped->step, 1 << 20);
}

TEST_F(Training, LearnsAndEndsWithTheBest) {
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.steps = 20;
  settings.learning_rate = 0.03;
  settings.checkpoint = 20;
  const auto outcome = Train(settings, "run");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const auto metrics = Metrics::Open(Path("run"), 1000);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  std::vector<double> held_out, concat;
  for (const Metric& metric : (*metrics)->all()) {
    for (const auto& [name, value] : metric.values) {
      if (name == "held_out_divergence") held_out.push_back(value);
      if (name == "concat_divergence") concat.push_back(value);
    }
  }
  ASSERT_EQ(held_out.size(), 11u);
  ASSERT_EQ(concat.size(), 1u);
  EXPECT_GT(concat[0], 0);
  EXPECT_THAT(outcome->curves, HasSubstr(absl::StrCat("$concat_divergence << END\n0 ", concat[0], "\n20 ", concat[0])));
  EXPECT_LT(*outcome->held_out, 0.9 * held_out.front());
  const auto least = std::min_element(held_out.begin(), held_out.end());
  EXPECT_EQ(*outcome->held_out, *least);
  EXPECT_EQ(outcome->chosen, (least - held_out.begin()) * settings.every);
  const auto checkpoint = DecodeCheckpoint(Bytes(Path("run") + "/checkpoint.kvtc"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->best_step, outcome->chosen);
  const auto trained = learner_->Trained();
  ASSERT_TRUE(trained.ok()) << trained.status();
  ASSERT_EQ(checkpoint->chosen.size(), trained->size());
  for (size_t i = 0; i < trained->size(); ++i) EXPECT_EQ(checkpoint->chosen[i].values, (*trained)[i].values);
}

TEST_F(Training, EndsWhenNothingGetsBetter) {
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.learning_rate = 1e-12;
  settings.schedule = Schedule::kConstant;
  settings.steps = 100;
  settings.every = 1;
  settings.patience = 3;
  const auto outcome = Train(settings, "run");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->end, Outcome::End::kEarly);
  EXPECT_LT(outcome->step, 30);
}

TEST_F(Training, ARuinedRunKeepsTheLastGoodState) {
  for (const int64_t held_out : {2, 0}) {
    SCOPED_TRACE(held_out);
    Settings settings = SettingsOf(Mode::kFull);
    settings.learning_rate = 30;
    settings.warm_up = 0;
    settings.steps = 100;
    settings.held_out = held_out;
    const std::string name = absl::StrCat("run-", held_out);
    const auto outcome = Train(settings, name);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->end, Outcome::End::kRuined);
    EXPECT_THAT(outcome->why, HasSubstr("training diverged at step "));
    EXPECT_LT(outcome->step, 30);
    // The learner holds what it held at the checkpoint, or where the held-out loss was best.
    EXPECT_LE(outcome->chosen, outcome->step);
    const auto trained = learner_->Trained();
    ASSERT_TRUE(trained.ok());
    for (const NamedTensor& tensor : *trained) {
      for (const float value : tensor.values) ASSERT_TRUE(std::isfinite(value)) << tensor.name;
    }
    const auto checkpoint = DecodeCheckpoint(Bytes(Path(name) + "/checkpoint.kvtc"));
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  }
}

TEST_F(Training, RefusesTheCheckpointOfAnotherRun) {
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.steps = 2;
  settings.schedule = Schedule::kConstant;
  ASSERT_TRUE(Train(settings, "run").ok());
  Settings other = settings;
  other.learning_rate = 1e-5;
  other.embeddings.header = 3;
  const auto refused = Train(other, "run").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("header was 2 and is 3, lr was 0.0005 and is 1e-05"));
  mixture_.sources[0].seed = 2;
  EXPECT_THAT(Train(settings, "run").status().message(), HasSubstr("data was generated-"));
  mixture_.sources[0].seed = 1;
  // A constant rate can be continued for longer.
  settings.steps = 4;
  const auto longer = Train(settings, "run");
  ASSERT_TRUE(longer.ok()) << longer.status();
  EXPECT_EQ(longer->step, 4);
}

TEST_F(Training, RefusesADamagedCheckpoint) {
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.steps = 2;
  ASSERT_TRUE(Train(settings, "run").ok());
  const std::string path = Path("run") + "/checkpoint.kvtc", bytes = Bytes(path);
  const auto with = [&](const std::string& damaged) {
    std::ofstream(path, std::ios::binary) << damaged;
    return Train(settings, "run").status();
  };
  for (const size_t at : {size_t{6}, size_t{9}, size_t{17}, size_t{30}, bytes.size() - 1}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    EXPECT_THAT(with(damaged).message(), HasSubstr("checkpoint.kvtc: the training checkpoint is damaged")) << at;
  }
  EXPECT_THAT(with(bytes.substr(0, bytes.size() - 1)).message(), HasSubstr("is damaged"));
  EXPECT_THAT(with("garbage").message(), HasSubstr("no training checkpoint"));
  std::string newer = bytes;
  newer[4] = 9;
  EXPECT_EQ(with(newer).code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(with(bytes).ok());
}

TEST(Checkpoints, RefuseAnotherNote) {
  const std::string good =
      R"({"run": {"lr": "1"}, "step": 1, "drawn": 2, "begun": null, "recent": 3, "best": 4, "best_step": 1, "worse": 0})";
  const auto decode = [](const std::string& note, const std::string& name = "run") {
    const std::vector<NamedTensor> state = {{"a", {1}, {1}}}, chosen = {{"a", {1}, {2}}};
    std::string payload;
    AppendTensors({{"", state}, {"chosen.", chosen}}, name, note, &payload);
    std::string bytes("KVTC\1\0\0\0", 8);
    AppendField(uint64_t{payload.size()}, &bytes);
    AppendField(Xxh3(payload.data(), payload.size()), &bytes);
    return DecodeCheckpoint(bytes + payload);
  };
  const auto checkpoint = decode(good);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->drawn, 2);
  EXPECT_EQ(checkpoint->begun, std::nullopt);
  EXPECT_EQ(checkpoint->state[0].values, std::vector<float>{1});
  EXPECT_EQ(checkpoint->chosen[0].name, "a");
  EXPECT_FALSE(decode(good, "runs").ok());
  EXPECT_FALSE(decode("[]").ok());
  for (const char* field : {"run", "step", "drawn", "begun", "recent", "best", "best_step", "worse"}) {
    std::string note = good;
    note.replace(note.find(absl::StrCat("\"", field, "\"")) + 1, 1, "x");
    EXPECT_THAT(decode(note).status().message(), HasSubstr(absl::StrCat("'", field, "'"))) << note;
  }
  EXPECT_FALSE(decode(absl::StrReplaceAll(good, {{"\"drawn\": 2", "\"drawn\": -2"}})).ok());
  EXPECT_FALSE(decode(absl::StrReplaceAll(good, {{"\"lr\": \"1\"", "\"lr\": 1"}})).ok());
  // Builds before it measured before they wrote.
  EXPECT_EQ(checkpoint->measured, checkpoint->step);
  const auto measured = [&](absl::string_view value) {
    return decode(absl::StrReplaceAll(good, {{"\"worse\"", absl::StrCat("\"measured\": ", value, ", \"worse\"")}}));
  };
  EXPECT_EQ(measured("null")->measured, std::nullopt);
  EXPECT_EQ(measured("7")->measured, 7);
  EXPECT_FALSE(measured("-1").ok());
  EXPECT_FALSE(measured("18446744073709551615").ok());
  // Counts are 0 to 2^32.
  for (const char* field : {"\"step\": 1", "\"drawn\": 2", "\"best_step\": 1", "\"worse\": 0"}) {
    const std::string name(field, std::strchr(field, ' '));
    EXPECT_TRUE(decode(absl::StrReplaceAll(good, {{field, name + " 4294967296"}})).ok()) << field;
    EXPECT_FALSE(decode(absl::StrReplaceAll(good, {{field, name + " 4294967297"}})).ok()) << field;
  }
}

TEST(Checkpoints, MayLackWhatEarlierBuildsDidNotCompare) {
  testing::ScratchDirectory directory(/*in_memory=*/true);
  const std::string path = directory.path() + "/c";
  Checkpoint checkpoint;
  checkpoint.run = {{"lr", "1"}};
  ASSERT_TRUE(WriteCheckpoint(path, checkpoint).ok());
  EXPECT_TRUE(ReadCheckpoint(path, {{"lr", "1"}, {"weights", "a"}}).ok());
  EXPECT_THAT(ReadCheckpoint(path, {{"lr", "1"}, {"rank", "2"}}).status().message(),
              HasSubstr("rank was none and is 2"));
  checkpoint.run["weights"] = "b";
  ASSERT_TRUE(WriteCheckpoint(path, checkpoint).ok());
  EXPECT_THAT(ReadCheckpoint(path, {{"lr", "1"}, {"weights", "a"}}).status().message(),
              HasSubstr("weights was b and is a"));
}

// What earlier builds compared means the same, and what they did not is compared from now on.
TEST_F(Training, CheckpointsOfEarlierBuildsAreOfTheSameRun) {
  profile_.mem_start = 5;
  const auto identity = [this] {
    return IdentityOf(Path("model"), weights_.get(), weights_->config(), "t", *tokenizer_, profile_);
  };
  Checkpoint checkpoint;
  checkpoint.run = identity();
  const auto status = [&] {
    EXPECT_TRUE(WriteCheckpoint(Path("c"), checkpoint).ok());
    return ReadCheckpoint(Path("c"), identity()).status();
  };
  EXPECT_TRUE(status().ok());
  std::string hashes;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const std::string bytes = tokenizer_->TokenBytes(id);
    AppendField(Xxh3(bytes.data(), bytes.size()), &hashes);
  }
  Checkpoint old;
  for (const char* name : {"model", "configuration", "weights", "chat_template", "document_template"}) {
    old.run[name] = checkpoint.run.at(name);
  }
  old.run["tokenizer"] = absl::StrCat(absl::Hex(Xxh3(hashes.data(), hashes.size()), absl::kZeroPad16));
  old.run["place"] = "in-user";
  std::swap(old, checkpoint);
  EXPECT_TRUE(status().ok()) << status();
  std::swap(old, checkpoint);
  profile_.mem_end = 6;
  EXPECT_THAT(status().message(), HasSubstr("marks was 5 none and is 5 6"));
  profile_.mem_end.reset();
  checkpoint.run["cut"] = "another";
  EXPECT_THAT(status().message(), HasSubstr("cut was another"));
}

TEST(MetricsFile, RefusesNamesThatAreNoNames) {
  testing::ScratchDirectory directory(/*in_memory=*/true);
  const std::string path = directory.path() + "/metrics.jsonl";
  std::ofstream(path) << R"({"step": 1, "loss": 2})"
                      << "\n"
                      << R"({"step": 1, "a << E\nE\nsystem('true')\n$b_divergence": 1})"
                      << "\n";
  EXPECT_THAT(Metrics::Open(directory.path(), 1).status().message(),
              HasSubstr("line 2: a metric's name is not made of"));
}

TEST(MetricsFile, ReadsBracketsHoweverDeep) {
  testing::ScratchDirectory directory(/*in_memory=*/true);
  const std::string deep(30'000, '['), end(30'000, ']');
  std::ofstream(directory.path() + "/metrics.jsonl") << R"({"step": 1, "a": )" << deep << end << R"(, "b": 2, "c": 3})"
                                                     << "\n";
  const auto metrics = Metrics::Open(directory.path(), 1);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ((*metrics)->all().size(), 1u);
  EXPECT_EQ((*metrics)->all()[0].values[1], std::pair(std::string("b"), 2.0));
}

TEST(MetricsFile, RefusesLongLines) {
  testing::ScratchDirectory directory(/*in_memory=*/true);
  std::ofstream(directory.path() + "/metrics.jsonl") << R"({"step": 1, "a": )" << std::string(1 << 20, '[') << "\n";
  EXPECT_THAT(Metrics::Open(directory.path(), 1).status().message(), HasSubstr("line 1: too long"));
}

TEST_F(Training, WithoutRoomTheLastCheckpointStays) {
  Settings settings = SettingsOf(Mode::kWrapper);
  const auto begun = Train(settings, "run", 4);
  ASSERT_TRUE(begun.ok()) << begun.status();
  const std::string before = Bytes(Path("run") + "/checkpoint.kvtc");
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old = {}, small = {};
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = before.size() / 2;
  setrlimit(RLIMIT_FSIZE, &small);
  const auto status = Train(settings, "run").status();
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("the one before it, if any, is whole"));
  EXPECT_EQ(before, Bytes(Path("run") + "/checkpoint.kvtc"));
  EXPECT_FALSE(std::filesystem::exists(Path("run") + "/checkpoint.kvtc.part"));
  EXPECT_TRUE(Train(settings, "run").ok());
}

TEST_F(Training, ADamagedExampleCostsNoStepAndCanBeSkipped) {
  std::ofstream file(Path("s.jsonl"));
  for (int i = 1; i <= 20; ++i) {
    file << absl::StrCat(R"({"id": ")", i, R"(", "dialogue": ")",
                         i == 9 ? R"(", "summary": 3})" : R"(A: hi", "summary": "b"})", "\n");
  }
  file.close();
  mixture_ = *ParseMixture(R"({"sources": [{"format": "samsum", "path": "s.jsonl"}]})", directory_.path());
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.held_out = 0;
  settings.checkpoint = 100;
  const auto status = Train(settings, "run").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("s.jsonl:9: "));
  EXPECT_THAT(status.message(), HasSubstr("; the checkpoint is of step 4"));
  skip_damaged_ = 1;
  const auto outcome = Train(settings, "run");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->step, 6);
  EXPECT_THAT(Bytes(Path("run") + "/metrics.jsonl"), HasSubstr("\"step\":1,"));  // not begun anew
}

TEST_F(Training, ChatsThatTheTemplateRefusesAreLeftOut) {
  std::ofstream(Path("c.jsonl"))
      << R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})"
      << "\n"
      << R"({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})"
      << "\n";
  mixture_ = *ParseMixture(R"({"sources": [{"format": "chat", "path": "c.jsonl"}]})", directory_.path());
  const std::string turns = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}";
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.held_out = 0;
  settings.steps = 2;
  chat_ = *model::ChatTemplate::Parse(
      absl::StrCat("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}", turns));
  const auto outcome = Train(settings, "run");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(left_out_.size(), 1u);
  EXPECT_THAT(left_out_[0], HasSubstr("no system"));
  chat_ = *model::ChatTemplate::Parse("{{ raise_exception('nothing') }}");
  EXPECT_THAT(Train(settings, "none").status().message(),
              HasSubstr("the chat template refuses them (chat example 1: "));
}

TEST_F(Training, OneProcessTrainsInADirectory) {
  const Settings settings = SettingsOf(Mode::kWrapper);
  std::filesystem::create_directories(Path("run"));
  const auto metrics = Metrics::Open(Path("run"), -1);
  ASSERT_TRUE(metrics.ok());
  EXPECT_EQ(Train(settings, "run").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(Training, FrozenModesRefuseWhatIsReadInFull) {
  mixture_.sources[0].reading = Reading::kFull;
  EXPECT_THAT(Train(SettingsOf(Mode::kWrapper), "run").status().message(), HasSubstr("learns nothing"));
}

TEST_F(Training, WritesAProfileThatLoads) {
  const Settings settings = SettingsOf(Mode::kWrapperLinks);
  ASSERT_TRUE(Train(settings, "run").ok());
  const auto trained = learner_->Trained();
  ASSERT_TRUE(trained.ok());
  ASSERT_TRUE(WriteProfile(Path("run"), "tiny", profile_, settings, *trained).ok());
  const auto profile = link::LoadLinkProfile(Path("run") + "/profile.json");
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->name, "tiny");
  EXPECT_TRUE(profile->trained);
  EXPECT_EQ(profile->links_per_document, 1);
  EXPECT_EQ(profile->document_template, profile_.document_template);
  ASSERT_TRUE(profile->wrapper.has_value());
  EXPECT_EQ(profile->wrapper->header, 2);
  EXPECT_EQ(link::LinkerName(profile->linker), "packet+links");
  const auto links = link::LoadLinkEmbeddings(*profile, weights_->config());
  ASSERT_TRUE(links.ok()) << links.status();
  EXPECT_EQ(*links, (*trained)[0].values);
  for (const auto& [name, directory, expected] :
       {std::tuple("", "run", "run"), {"", "run/", "run"}, {"", "run/.", "run"}, {"n\xff", "run", "n\xef\xbf\xbd"}}) {
    ASSERT_TRUE(WriteProfile(Path(directory), name, profile_, settings, *trained).ok());
    const auto loaded = link::LoadLinkProfile(Path("run") + "/profile.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->name, expected);
  }
}

TEST_F(Training, WritesAModelThatLoads) {
  const Settings settings = SettingsOf(Mode::kLora);
  ASSERT_TRUE(Train(settings, "run").ok());
  for (const bool bf16 : {false, true}) {
    const std::string path = Path(absl::StrCat("merged-", bf16));
    ASSERT_TRUE(WriteModel(path, Path("model"), bf16, *learner_).ok());
    const auto weights = model::OpenWeights(path);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ((*weights)->config().Canonical(), weights_->config().Canonical());
    EXPECT_EQ((*weights)->chat_template(), weights_->chat_template());
    EXPECT_TRUE(model::OpenTokenizer(path).ok());
    EXPECT_EQ(Bytes(path + "/config.json"), *MergedConfig(Path("model"), bf16));
    double changed = 0;
    ASSERT_TRUE(learner_
                    ->ForEachParameter([&](const NamedTensor& tensor) {
                      std::vector<float> there(tensor.values.size()), base = there;
                      EXPECT_TRUE((*weights)->Read(tensor.name, 0, tensor.shape[0], absl::MakeSpan(there)).ok());
                      EXPECT_TRUE(weights_->Read(tensor.name, 0, tensor.shape[0], absl::MakeSpan(base)).ok());
                      for (size_t i = 0; i < there.size(); ++i) {
                        EXPECT_NEAR(there[i], tensor.values[i], bf16 ? 0.01 * std::abs(there[i]) : 0);
                        changed += std::abs(tensor.values[i] - base[i]);
                      }
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_GT(changed, 0);
  }
}

TEST_F(Training, TheConfigurationOfAMergedModelKeepsWhatPythonWrites) {
  std::string config = Bytes(Path("model") + "/config.json");
  const std::string deep(300'000, '['), end(300'000, ']');
  config.insert(
      config.find('{') + 1,
      absl::StrCat(
          R"("limit": [Infinity, -Infinity, NaN], "said": "NaN, \"Infinity\"", "dtype": "float16", "a": {"deep": )",
          deep, end, "}, "));
  std::ofstream(Path("model") + "/config.json") << config;
  const auto merged = MergedConfig(Path("model"), /*bf16=*/true);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_THAT(absl::StrReplaceAll(*merged, {{"\n", ""}, {" ", ""}}),
              AllOf(HasSubstr(R"("limit":[Infinity,-Infinity,NaN])"), HasSubstr(R"("said":"NaN,\"Infinity\"")"),
                    HasSubstr(R"("torch_dtype":"bfloat16")"), Not(HasSubstr("\"dtype\""))));
  std::ofstream(Path("model") + "/config.json") << *merged;
  const auto weights = model::OpenWeights(Path("model"));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->config().Canonical(), weights_->config().Canonical());
  std::ofstream(Path("model") + "/config.json") << "[]";
  EXPECT_THAT(MergedConfig(Path("model"), true).status().message(), HasSubstr("config.json: not a JSON object"));
}

// As TensorBoard's own writer makes it but for the times of events. The checksum of the length 24 is known from files
// of that writer.
TEST(Events, AreRecordsWithChecksums) {
  const std::string bytes = EncodeEvents({{3, {{"some_losses", 1.5}}}});
  const std::string version =
      "\x1a\x0d"
      "brain.Event:2";
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x0f\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(12, version.size()), version);
  const std::string event("\x10\x03\x2a\x14\x0a\x12\x0a\x0bsome_losses\x15\0\0\xc0\x3f", 24);
  const size_t second = 8 + 4 + version.size() + 4;
  EXPECT_EQ(bytes.substr(second, 12), std::string("\x18\0\0\0\0\0\0\0\xa3\x7fK\"", 12));
  EXPECT_EQ(bytes.substr(second + 12, event.size()), event);
  EXPECT_EQ(bytes.size(), second + 12 + event.size() + 4);
}

}  // namespace
}  // namespace kvlink::train
