// What is served from a trained profile equals what was trained: the probability of an answer by the generator, which
// reads encodings, and by the learner, which computes everything under the mask.
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/infer/fixture.h"
#include "tests/worker/train/mode_name.h"
#include "worker/files/open_tokenizer.h"
#include "worker/link/plan.h"
#include "worker/train/learner.h"
#include "worker/train/mixture.h"
#include "worker/train/output.h"
#include "worker/train/sequence.h"

namespace kvlink::train {
namespace {

// -log of the probability of `answer` after the logits [answer, vocab].
double CrossEntropy(absl::Span<const float> logits, absl::Span<const int32_t> answer, int64_t vocab) {
  double sum = 0;
  for (size_t i = 0; i < answer.size(); ++i) {
    const absl::Span<const float> row = logits.subspan(i * vocab, vocab);
    double total = 0;
    for (const float logit : row) total += std::exp(static_cast<double>(logit) - row[answer[i]]);
    sum += std::log(total);
  }
  return sum;
}

class Served : public ::testing::TestWithParam<Mode> {};

TEST_P(Served, AnswersAreAsLikelyAsTheyWereTrained) {
  const infer::TempDirectory directory;
  const std::string path = directory.path() + "/m", out = directory.path() + "/out";
  ASSERT_TRUE(testing::WriteTinyModel(path, {}).ok());
  std::filesystem::create_directories(out);
  const auto weights = model::OpenWeights(path);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto tokenizer = *model::OpenTokenizer(path);
  const auto chat = *model::ChatTemplate::Parse((*weights)->chat_template());
  const link::LinkProfile base = *link::LoadLinkProfile("untuned");
  Settings settings = DefaultSettings(GetParam());
  settings.threads = 1;
  auto learner = Learner::Create((*weights)->config(), weights->get(), settings);
  ASSERT_TRUE(learner.ok()) << learner.status();
  const auto maker =
      SequenceMaker::Create(tokenizer.get(), chat.get(), {}, &base, (*weights)->config(), settings.embeddings);
  ASSERT_TRUE(maker.ok()) << maker.status();
  const data::Question question{
      {{"Moon", "It is old."}, {"Mars", "It is red."}, {"", "Nothing."}}, "How old?", {"very"}, "", {}, {}};
  const auto lesson = maker->Make({"q", "test", question}, Reading::kLinked, 0, 1000);
  ASSERT_TRUE(lesson.ok() && lesson->has_value()) << lesson.status();
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE((*learner)->Accumulate({{**lesson}}, 0.2).ok());
    ASSERT_TRUE((*learner)->Step(0.05).ok());
  }
  const auto trained = (*learner)->Trained();
  ASSERT_TRUE(trained.ok());
  ASSERT_TRUE(WriteProfile(out, "served", base, settings, *trained).ok());
  const auto measured = (*learner)->Measure({{**lesson}});
  ASSERT_TRUE(measured.ok()) << measured.status();

  const std::string served = Frozen(GetParam()) ? path : out + "/model";
  if (!Frozen(GetParam())) {
    ASSERT_TRUE(WriteModel(served, path, /*bf16=*/false, **learner).ok());
  }
  const infer::Loaded loaded = infer::LoadModel(served, infer::FastF32());
  infer::GeneratorOptions options;
  options.codec = Codec::kRawF32;
  options.profile = *link::LoadLinkProfile(out + "/profile.json");
  options.link_embeddings = *link::LoadLinkEmbeddings(options.profile, loaded.model->config());
  const auto generator = infer::Generator::Create(loaded.model.get(), loaded.fingerprint, nullptr, options);
  ASSERT_TRUE(generator.ok()) << generator.status();
  infer::Request request;
  request.linker = options.profile.linker;
  request.keep_logits = true;
  request.prompt = *link::MakePrompt(*tokenizer, *chat, {}, options.profile, "", question.question);
  for (const data::Document& document : question.documents) {
    request.documents.push_back(
        {*tokenizer->Encode(link::DocumentText(options.profile, document.title, document.text), false)});
  }
  const auto conversation = (*generator)->Start(request);
  ASSERT_TRUE(conversation.ok()) << conversation.status();
  std::vector<int32_t> answer = *tokenizer->Encode("very", false);
  answer.push_back(testing::kTinyEnd);
  std::vector<float> logits((*conversation)->logits().begin(), (*conversation)->logits().end());
  const auto rest = (*generator)->Score(**conversation, answer, {});
  ASSERT_TRUE(rest.ok()) << rest.status();
  logits.insert(logits.end(), rest->begin(), rest->end());
  EXPECT_EQ(measured->tokens, static_cast<int64_t>(answer.size()));
  EXPECT_NEAR(CrossEntropy(logits, answer, loaded.model->config().vocab), measured->cross_entropy, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Modes, Served,
                         ::testing::Values(Mode::kWrapper, Mode::kLinks, Mode::kWrapperLinks, Mode::kLora, Mode::kFull),
                         TestNameOf);

}  // namespace
}  // namespace kvlink::train
