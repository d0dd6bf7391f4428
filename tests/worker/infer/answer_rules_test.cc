// Rules, filters and log-probabilities against their definitions, worked out here from the logits of each step.
#include "worker/infer/answer_rules.h"

#include <cmath>
#include <map>

#include "tests/worker/infer/scheduler_fixture.h"

namespace kvlink::infer {
namespace {

class AnswerRulesTest : public SchedulerTest {
 protected:
  // Those of the model, changed by the formulas of OpenAI's API and CTRL.
  static std::vector<double> Adjusted(absl::Span<const float> logits, const Request& request,
                                      const std::vector<int32_t>& answer) {
    std::map<int32_t, int> count;
    for (const int32_t token : answer) ++count[token];
    std::map<int32_t, bool> repeated;
    for (const int32_t token : answer) repeated[token] = true;
    for (const int32_t token : request.prompt.before) repeated[token] = true;
    for (const int32_t token : request.prompt.after) repeated[token] = true;
    for (const RequestDocument& document : request.documents) {
      for (const int32_t token : document.tokens) repeated[token] = true;
    }
    std::vector<double> adjusted(logits.begin(), logits.end());
    for (const auto& [token, bias] : request.rules.bias) adjusted[token] += bias;
    for (const auto& [token, yes] : repeated) {
      double& logit = adjusted[token];
      logit = logit > 0 ? logit / request.rules.repetition_penalty : logit * request.rules.repetition_penalty;
    }
    for (const auto& [token, times] : count) {
      adjusted[token] -= times * request.rules.frequency_penalty + request.rules.presence_penalty;
    }
    return adjusted;
  }
  static int32_t Best(const std::vector<double>& logits) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  static double LogSum(absl::Span<const float> logits) {
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - most);
    return most + std::log(sum);
  }
};

TEST_P(AnswerRulesTest, EachTokenIsTheBestOfTheAdjustedLogits) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  const AnswerRules cases[] = {{.presence_penalty = 2},
                               {.frequency_penalty = 1.5},
                               {.frequency_penalty = -2},
                               {.repetition_penalty = 3},
                               {.presence_penalty = 1, .frequency_penalty = 0.5, .repetition_penalty = 1.25}};
  int changed = 0;
  for (const AnswerRules& rules : cases) {
    Request request = Ask({1});
    request.rules = rules;
    for (int i = 0; i < 10; ++i) request.rules.bias[static_cast<int32_t>(random() % 300)] = i % 2 == 0 ? 0.5 : -3;
    const auto conversation = Start(*generator, request);
    std::vector<int32_t> answer;
    for (int i = 0; i < 8; ++i) {
      const std::vector<double> adjusted = Adjusted(conversation->logits(), request, answer);
      ASSERT_EQ(conversation->next(), Best(adjusted)) << i;
      changed += Best({conversation->logits().begin(), conversation->logits().end()}) != conversation->next() ? 1 : 0;
      if (generator->IsEnd(conversation->next())) break;
      answer.push_back(conversation->next());
      ASSERT_TRUE(generator->Step(*conversation, {}).ok());
    }
  }
  EXPECT_GT(changed, 5);
}

TEST_P(AnswerRulesTest, LogprobsAreThoseOfTheModel) {
  const auto generator = MakeGenerator(nullptr, Options());
  Request request = Ask({1});
  request.top_logprobs = 5;
  request.sampling = {.temperature = 2, .top_k = 10, .seed = TestSeed()};
  request.rules.presence_penalty = 2;
  const auto conversation = Start(*generator, request);
  for (int i = 0; i < 4; ++i) {
    const absl::Span<const float> logits = conversation->logits();
    const double sum = LogSum(logits);
    const SampledToken& sampled = conversation->sampled();
    EXPECT_NEAR(sampled.logprob, logits[sampled.token] - sum, 1e-5);
    ASSERT_EQ(sampled.likeliest.size(), 5);
    EXPECT_EQ(sampled.likeliest[0].token, Best({logits.begin(), logits.end()}));
    for (size_t rank = 0; rank < 5; ++rank) {
      const auto& [token, logprob] = sampled.likeliest[rank];
      EXPECT_NEAR(logprob, logits[token] - sum, 1e-5);
      EXPECT_LT(std::count_if(logits.begin(), logits.end(), [&](float logit) { return logit > logits[token]; }), 5);
      EXPECT_LE(logprob, sampled.likeliest[rank > 0 ? rank - 1 : 0].logprob);
    }
    ASSERT_TRUE(generator->Step(*conversation, {}).ok());
  }
}

TEST_P(AnswerRulesTest, AFilterSaysWhatMayCome) {
  const auto generator = MakeGenerator(nullptr, Options());
  Request request = Ask({1});
  request.filter = [] { return std::make_shared<EveryThird>(); };
  for (const int32_t end : loaded_.model->config().end_of_sequence) request.rules.bias[end] = 100;
  const auto conversation = Start(*generator, request);
  for (size_t i = 0; i < 4; ++i) {  // it may not end yet, and the filter has checked what came
    EXPECT_FALSE(generator->IsEnd(conversation->next()));
    EXPECT_EQ(static_cast<size_t>(conversation->next()) % 3, i % 3);
    ASSERT_TRUE(generator->Step(*conversation, {}).ok());
  }
  EXPECT_TRUE(generator->IsEnd(conversation->next()));
}

// Allows nothing after two tokens.
class DeadEnd final : public TokenFilter {
 public:
  void Allowed(absl::Span<uint32_t> bits) override {
    std::fill(bits.begin(), bits.end(), accepted_ < 2 ? ~uint32_t{0} : 0);
  }
  void Accept(int32_t) override { ++accepted_; }
  bool MayEnd() const override { return false; }

 private:
  int accepted_ = 0;
};

TEST_P(AnswerRulesTest, OneThatCannotGoOnFailsAlone) {
  const auto generator = MakeGenerator(nullptr, Options());
  Request request = Ask({});
  const auto alone = Start(*generator, request);
  const auto beside = Start(*generator, request);
  request.filter = [] { return std::make_shared<DeadEnd>(); };
  const auto stuck = Start(*generator, request);
  for (int step = 0; step < 3; ++step) {
    std::vector<Work> works = {{beside.get()}, {stuck.get()}};
    const int64_t length = stuck->length();
    generator->Pass(absl::MakeSpan(works), {});
    ASSERT_TRUE(generator->Step(*alone, {}).ok());
    EXPECT_TRUE(works[0].status.ok()) << works[0].status;
    EXPECT_EQ(LogitsOf(*beside), LogitsOf(*alone));
    EXPECT_EQ(beside->next(), alone->next());
    EXPECT_EQ(works[1].status.code(), step == 0 ? absl::StatusCode::kOk : absl::StatusCode::kInternal);
    EXPECT_EQ(stuck->length(), length + (step == 0 ? 1 : 0));
  }
  // Of those that step together, none does.
  Conversation* const both[] = {beside.get(), stuck.get()};
  const int32_t next = beside->next();
  EXPECT_EQ(generator->StepBatch(both, {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(beside->next(), next);
  ASSERT_TRUE(generator->Step(*beside, {}).ok());
  ASSERT_TRUE(generator->Step(*alone, {}).ok());
  EXPECT_EQ(beside->next(), alone->next());
}

INSTANTIATE_TEST_SUITE_P(Backends, AnswerRulesTest, ::testing::ValuesIn(GeneratorBackends()),
                         [](const auto& info) { return info.param.name; });

TEST(AnswerState, ListsEachTokenOnceAndInOrder) {
  const std::vector<int32_t> prompt = {7, 3, 7};
  const absl::Span<const int32_t> spans[] = {prompt};
  const AnswerRules rules = {
      .presence_penalty = 1, .frequency_penalty = 0.5, .repetition_penalty = 2, .bias = {{5, -1.0f}, {7, 4.0f}}};
  const auto state = AnswerState::Create(rules, nullptr, spans);
  ASSERT_NE(state, nullptr);
  const auto listed = [&] {
    std::string text;
    for (const kernels::LogitAdjustment& one : state->adjustments()) {
      absl::StrAppend(&text, one.token, ":", one.bias, "/", one.repetition, "-", one.penalty, " ");
    }
    return text;
  };
  EXPECT_EQ(listed(), "3:0/2-0 5:-1/1-0 7:4/2-0 ");
  for (const int32_t token : {5, 1, 5, 9}) state->Add(token);
  EXPECT_EQ(listed(), "1:0/2-1.5 3:0/2-0 5:-1/2-2 7:4/2-0 9:0/2-1.5 ");
  EXPECT_EQ(AnswerState::Create({}, nullptr, spans), nullptr);
  // Whatever is asked for stays finite.
  const auto huge = AnswerState::Create({.frequency_penalty = 3e38f}, nullptr, spans);
  for (int i = 0; i < 3; ++i) huge->Add(1);
  EXPECT_TRUE(std::isfinite(huge->adjustments()[0].penalty));
}

}  // namespace
}  // namespace kvlink::infer
