// One step of each mode against PyTorch (tests/golden/make_training.py), and what a step leaves alone.
#include "worker/train/learner.h"

#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/run_model.h"
#include "tests/worker/train/mode_name.h"
#include "tests_source_dir.h"
#include "worker/files/safetensors.h"

namespace kvlink::train {
namespace {

using ::testing::HasSubstr;

const std::string kGolden = KVLINK_SOURCE_DIR "/tests/golden/";
const std::string kModel = kGolden + "models/qwen3-sharded";
// As in make_training.py.
constexpr int64_t kLinks = 2, kSlots = 3, kHeader = 3, kTrailer = 2;
constexpr double kRate = 1e-3;

Settings SettingsOf(Mode mode) {
  Settings settings = DefaultSettings(mode);
  settings.embeddings = {};
  if (mode != Mode::kWrapper) settings.embeddings.links = kLinks;
  settings.embeddings.slots = mode == Mode::kWrapper ? 0 : kSlots;
  if (HasWrapper(mode)) {
    settings.embeddings.header = kHeader;
    settings.embeddings.trailer = kTrailer;
  }
  settings.rank = 4;
  settings.alpha = 8;
  settings.divergence = mode == Mode::kFull ? 0 : 0.7;
  settings.cross_entropy = 0.4;
  settings.weight_decay = 0.05;
  settings.clip = 0.5;
  settings.threads = 1;
  return settings;
}

std::vector<Lesson> Lessons(const Embeddings& embeddings, int64_t vocab) {
  std::vector<Lesson> lessons;
  const std::vector<std::vector<int64_t>> sizes = {{9, 14}, {5, 11, 7}};
  for (size_t number = 0; number < sizes.size(); ++number) {
    Lesson lesson;
    int64_t count = 1;
    const auto token = [&] {
      return static_cast<int32_t>(3 + (count++ * 37 + static_cast<int64_t>(number) * 101) % (vocab - 3));
    };
    std::vector<int32_t>& student = lesson.student.tokens;
    std::vector<int32_t>& teacher = lesson.teacher.tokens;
    const auto both = [&] {
      student.push_back(token());
      teacher.push_back(student.back());
    };
    for (int i = 0; i < 3; ++i) both();
    count = 3;
    for (size_t slot = 0; slot < sizes[number].size(); ++slot) {
      const auto begin = static_cast<int64_t>(student.size());
      const int64_t header = vocab + embeddings.link_rows();
      for (int64_t i = 0; i < embeddings.header; ++i) student.push_back(static_cast<int32_t>(header + i));
      for (int64_t i = 0; i < sizes[number][slot]; ++i) both();
      for (int64_t i = 0; i < embeddings.trailer; ++i) {
        student.push_back(static_cast<int32_t>(header + embeddings.header + i));
      }
      lesson.student.documents.emplace_back(begin, static_cast<int64_t>(student.size()));
      for (int64_t i = 0; i < embeddings.links; ++i) {
        student.push_back(static_cast<int32_t>(vocab + static_cast<int64_t>(slot) * embeddings.links + i));
      }
    }
    for (int i = 0; i < 10; ++i) both();
    for (int64_t i = 4; i > 0; --i) {
      lesson.student.learned.push_back(static_cast<int64_t>(student.size()) - i);
      lesson.teacher.learned.push_back(static_cast<int64_t>(teacher.size()) - i);
    }
    lessons.push_back(std::move(lesson));
  }
  return lessons;
}

std::unique_ptr<model::Weights> OpenModel() {
  auto weights = model::OpenWeights(kModel);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return *std::move(weights);
}

std::unique_ptr<Learner> Make(const model::Weights& weights, const Settings& settings) {
  auto learner = Learner::Create(weights.config(), &weights, settings);
  EXPECT_TRUE(learner.ok()) << learner.status();
  return learner.ok() ? *std::move(learner) : nullptr;
}

std::map<std::string, NamedTensor> ByName(const absl::StatusOr<std::vector<NamedTensor>>& tensors) {
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  std::map<std::string, NamedTensor> named;
  if (!tensors.ok()) return named;
  for (const NamedTensor& tensor : *tensors) named[tensor.name] = tensor;
  return named;
}

// As summary() of make_training.py.
std::pair<double, double> Summary(absl::Span<const float> values, double scale) {
  double squares = 0, product = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = values[i] * scale;
    squares += value * value;
    product += value * std::sin(static_cast<double>(i + 1));
  }
  return {std::sqrt(squares), product};
}

class Modes : public ::testing::TestWithParam<Mode> {};

TEST_P(Modes, OneStepEqualsPyTorch) {
  Settings settings = SettingsOf(GetParam());
  settings.threads = 2;
  const std::string mode(ModeName(GetParam()));
  const auto weights = OpenModel();
  const auto learner = Make(*weights, settings);
  ASSERT_NE(learner, nullptr);
  const auto golden = model::Golden::Open(kGolden + "training.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  auto begin = learner->Trained();
  ASSERT_TRUE(begin.ok());
  for (NamedTensor& tensor : *begin) {
    const std::vector<float> values = golden->Floats(absl::StrCat(mode, "/begin/", tensor.name));
    if (!values.empty()) tensor.values = values;  // parameters begin as in the model
  }
  ASSERT_TRUE(learner->Set(*begin).ok());

  const std::vector<Lesson> lessons = Lessons(settings.embeddings, weights->config().vocab);
  const std::vector<float> losses = golden->Floats(mode + "/losses");
  ASSERT_EQ(losses.size(), 3u);
  // Two packs, computed at once where that is done: gradients add up.
  const auto sum = learner->Accumulate({{lessons[0]}, {lessons[1]}}, 1 / static_cast<double>(losses[2]));
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_NEAR(sum->divergence, losses[0], 1e-4 * std::max(1.f, losses[0]));
  EXPECT_NEAR(sum->cross_entropy, losses[1], 1e-4 * losses[1]);
  EXPECT_EQ(sum->tokens, losses[2]);
  const auto norm = learner->Step(kRate);
  ASSERT_TRUE(norm.ok()) << norm.status();
  const double expected_norm = golden->Floats(mode + "/norm").at(0);
  EXPECT_NEAR(*norm, expected_norm, 1e-4 * expected_norm);

  const auto state = ByName(learner->State());
  const double clipped = std::min(1.0, settings.clip / expected_norm);
  for (const NamedTensor& tensor : *begin) {
    SCOPED_TRACE(tensor.name);
    // After one step the mean is a tenth of the clipped gradient.
    const auto gradient = Summary(state.at("m." + tensor.name).values, 1 / ((1 - settings.beta1) * clipped));
    const std::vector<float> expected = golden->Floats(absl::StrCat(mode, "/gradient/", tensor.name));
    ASSERT_EQ(expected.size(), 2u);
    const double tolerance = 1e-4 * std::max(expected_norm, static_cast<double>(expected[0]));
    EXPECT_NEAR(gradient.first, expected[0], tolerance);
    EXPECT_NEAR(gradient.second, expected[1], tolerance);
    std::vector<float> change = state.at(tensor.name).values;
    for (size_t i = 0; i < change.size(); ++i) change[i] -= tensor.values[i];
    const auto changed = Summary(change, 1);
    const std::vector<float> wanted = golden->Floats(absl::StrCat(mode, "/change/", tensor.name));
    ASSERT_EQ(wanted.size(), 2u);
    EXPECT_NEAR(changed.first, wanted[0], 2e-3 * wanted[0]);
    EXPECT_NEAR(changed.second, wanted[1], 2e-3 * std::max(wanted[0], std::abs(wanted[1])));
  }
}

TEST_P(Modes, RecomputingChangesNoGradient) {
  Settings settings = SettingsOf(GetParam());
  const auto weights = OpenModel();
  const std::vector<Lesson> lessons = Lessons(settings.embeddings, weights->config().vocab);
  std::map<std::string, NamedTensor> states[2];
  for (const bool recompute : {false, true}) {
    settings.recompute_above = recompute ? 0 : 1000;
    const auto learner = Make(*weights, settings);
    ASSERT_NE(learner, nullptr);
    for (int step = 0; step < 2; ++step) {
      ASSERT_TRUE(learner->Accumulate({lessons}, 0.125).ok());
      ASSERT_TRUE(learner->Step(kRate).ok());
    }
    states[recompute ? 1 : 0] = ByName(learner->State());
  }
  for (const auto& [name, tensor] : states[0]) {
    const NamedTensor& other = states[1].at(name);
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      ASSERT_NEAR(tensor.values[i], other.values[i], 1e-5 + 1e-4 * std::abs(tensor.values[i])) << name << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Modes,
                         ::testing::Values(Mode::kWrapper, Mode::kLinks, Mode::kWrapperLinks, Mode::kLora, Mode::kFull),
                         TestNameOf);

// The parameters of a learner equal those of the file, to the bit.
bool SameAsFile(const model::Weights& weights, Learner& learner) {
  bool same = true;
  EXPECT_TRUE(learner
                  .ForEachParameter([&](const NamedTensor& tensor) {
                    std::vector<float> there(tensor.values.size());
                    EXPECT_TRUE(weights.Read(tensor.name, 0, tensor.shape[0], absl::MakeSpan(there)).ok());
                    same &= there == tensor.values;
                    return absl::OkStatus();
                  })
                  .ok());
  return same;
}

TEST(Learner, FrozenModesLeaveTheModelAlone) {
  const auto weights = OpenModel();
  for (const Mode mode : {Mode::kWrapper, Mode::kLinks, Mode::kWrapperLinks, Mode::kLora, Mode::kFull}) {
    SCOPED_TRACE(ModeName(mode));
    const Settings settings = SettingsOf(mode);
    const auto learner = Make(*weights, settings);
    ASSERT_NE(learner, nullptr);
    EXPECT_TRUE(SameAsFile(*weights, *learner));
    const std::vector<Lesson> lessons = Lessons(settings.embeddings, weights->config().vocab);
    for (int step = 0; step < 3; ++step) {
      ASSERT_TRUE(learner->Accumulate({lessons}, 0.125).ok());
      ASSERT_TRUE(learner->Step(kRate).ok());
    }
    EXPECT_EQ(SameAsFile(*weights, *learner), Frozen(mode));
  }
}

TEST(Learner, EmbeddingsBeginAsTokens) {
  const auto weights = OpenModel();
  Settings settings = SettingsOf(Mode::kWrapper);
  settings.begin = {5, 9, 7, 8};
  const auto learner = Make(*weights, settings);
  ASSERT_NE(learner, nullptr);
  const auto trained = ByName(learner->Trained());
  std::vector<float> expected;
  for (const int64_t token : {5, 9, 7, 8, 5}) {
    std::vector<float> row(static_cast<size_t>(weights->config().hidden));
    ASSERT_TRUE(weights->Read("model.embed_tokens.weight", token, 1, absl::MakeSpan(row)).ok());
    expected.insert(expected.end(), row.begin(), row.end());
  }
  std::vector<float> values = trained.at("wrapper_header").values;
  const std::vector<float>& trailer = trained.at("wrapper_trailer").values;
  values.insert(values.end(), trailer.begin(), trailer.end());
  EXPECT_EQ(values, expected);
}

// Low-rank products begin as nothing, so that a frozen model, whose weights are rounded once, says the same as one
// whose weights are rounded with each product.
TEST(Learner, RoundingOnceChangesNothing) {
  const auto weights = OpenModel();
  std::vector<Learner::Losses> measured;
  for (const Mode mode : {Mode::kLinks, Mode::kLora}) {
    Settings settings = SettingsOf(mode);
    settings.bf16 = true;
    const auto learner = Make(*weights, settings);
    ASSERT_NE(learner, nullptr);
    const auto losses = learner->Measure({Lessons(settings.embeddings, weights->config().vocab)});
    ASSERT_TRUE(losses.ok()) << losses.status();
    measured.push_back(*losses);
  }
  EXPECT_EQ(measured[0].cross_entropy, measured[1].cross_entropy);
  EXPECT_EQ(measured[0].divergence, measured[1].divergence);
}

// A learner of the merged parameters says what the one with low-rank products said.
TEST(Learner, MergedParametersSayTheSame) {
  const auto weights = OpenModel();
  Settings settings = SettingsOf(Mode::kLora);
  settings.divergence = 0;
  const auto lora = Make(*weights, settings);
  ASSERT_NE(lora, nullptr);
  const std::vector<Lesson> lessons = Lessons(settings.embeddings, weights->config().vocab);
  for (int step = 0; step < 5; ++step) {
    ASSERT_TRUE(lora->Accumulate({lessons}, 0.125).ok());
    ASSERT_TRUE(lora->Step(0.05).ok());
  }
  const auto trained = ByName(lora->Trained());
  const auto full = Make(*weights, SettingsOf(Mode::kFull));
  ASSERT_NE(full, nullptr);
  std::vector<NamedTensor> merged;
  ASSERT_TRUE(lora->ForEachParameter([&merged](const NamedTensor& tensor) {
                    merged.push_back(tensor);
                    return absl::OkStatus();
                  })
                  .ok());
  merged.push_back(trained.at("link_embeddings"));
  ASSERT_TRUE(full->Set(merged).ok());
  const auto before = lora->Measure({lessons}), after = full->Measure({lessons});
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_NEAR(before->cross_entropy, after->cross_entropy, 1e-3);
}

TEST(Learner, AGradientThatIsNotFiniteChangesNothing) {
  const auto weights = OpenModel();
  const Settings settings = SettingsOf(Mode::kWrapper);
  const auto learner = Make(*weights, settings);
  ASSERT_NE(learner, nullptr);
  const std::vector<Lesson> lessons = Lessons(settings.embeddings, weights->config().vocab);
  const auto before = ByName(learner->State());
  ASSERT_TRUE(learner->Accumulate({lessons}, HUGE_VAL).ok());
  EXPECT_EQ(learner->Step(kRate).status().code(), absl::StatusCode::kAborted);
  for (const auto& [name, tensor] : ByName(learner->State())) EXPECT_EQ(tensor.values, before.at(name).values) << name;
  // And the gradient is gone.
  ASSERT_TRUE(learner->Accumulate({lessons}, 0.125).ok());
  EXPECT_TRUE(learner->Step(kRate).ok());
}

TEST(Learner, RefusesTensorsOfAnotherTraining) {
  const auto weights = OpenModel();
  const auto learner = Make(*weights, SettingsOf(Mode::kWrapper));
  ASSERT_NE(learner, nullptr);
  auto trained = learner->Trained();
  ASSERT_TRUE(trained.ok());
  std::vector<NamedTensor> wrong = *trained;
  wrong[0].name = "other";
  EXPECT_THAT(learner->Set(wrong).message(), HasSubstr("'other' is not the 'wrapper_header'"));
  wrong = *trained;
  wrong[0].shape = {kHeader * 64};
  EXPECT_FALSE(learner->Set(wrong).ok());
  wrong = *trained;
  wrong.pop_back();
  EXPECT_FALSE(learner->Set(wrong).ok());
}

TEST(Learner, RefusesSettingsThatDoNotFit) {
  const auto weights = OpenModel();
  Settings settings = SettingsOf(Mode::kFull);
  settings.divergence = 1;
  EXPECT_THAT(Learner::Create(weights->config(), weights.get(), settings).status().message(),
              HasSubstr("--teacher-weight"));
  settings = SettingsOf(Mode::kWrapper);
  settings.embeddings.header = settings.embeddings.trailer = 0;
  EXPECT_FALSE(Learner::Create(weights->config(), weights.get(), settings).ok());
}

}  // namespace
}  // namespace kvlink::train
