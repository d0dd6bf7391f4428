// With SmolLM2: linked answers from bf16 encodings beside one masked pass in f32, and conversations in text.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/worker/infer/fixture.h"
#include "tests_source_dir.h"
#include "worker/files/open_tokenizer.h"
#include "worker/infer/chat.h"
#include "worker/infer/scheduler.h"
#include "worker/link/plan.h"

namespace kvlink::infer {
namespace {

using ::testing::HasSubstr;

class RealModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* named = std::getenv("KVLINK_MODEL");
    const std::string path = named != nullptr ? named : KVLINK_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(path)) return;
    loaded_ = new Loaded(LoadModel(path, FastF32()));
    tokenizer_ = model::OpenTokenizer(path)->release();
    template_ = model::ChatTemplate::Parse(loaded_->weights->chat_template())->release();
  }
  static void TearDownTestSuite() {
    delete template_;
    delete tokenizer_;
    delete loaded_;
    loaded_ = nullptr;
  }
  void SetUp() override {
    if (loaded_ == nullptr) GTEST_SKIP() << "no model; deploy/install-deps.sh fetches it";
    profile_ = *link::LoadLinkProfile("untuned");
    store_ = OpenStore(directory_.path() + "/store", int64_t{192} << 20);
  }

  // The demo's documents, by id.
  std::vector<RequestDocument> Documents(const std::vector<std::string>& ids) const {
    std::vector<RequestDocument> documents(ids.size());
    std::ifstream file(KVLINK_SOURCE_DIR "/deploy/demo/documents.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      for (size_t i = 0; i < ids.size(); ++i) {
        if (json["id"] != ids[i]) continue;
        const auto tokens = tokenizer_->Encode(
            link::DocumentText(profile_, json["title"].get<std::string>(), json["text"].get<std::string>()), false);
        EXPECT_TRUE(tokens.ok()) << tokens.status();
        documents[i].tokens = *tokens;
      }
    }
    for (const RequestDocument& document : documents) EXPECT_FALSE(document.tokens.empty());
    return documents;
  }
  std::unique_ptr<Generator> MakeGenerator(Codec codec) {
    GeneratorOptions options;
    options.codec = codec;
    options.profile = profile_;
    options.private_tokens = 2048;
    auto generator = Generator::Create(loaded_->model.get(), loaded_->fingerprint, store_.get(), options);
    EXPECT_TRUE(generator.ok()) << generator.status();
    return *std::move(generator);
  }
  link::PromptTokens Prompt(const std::string& question) const {
    return *link::MakePrompt(*tokenizer_, *template_, {}, profile_, "", question);
  }

  static Loaded* loaded_;
  static model::Tokenizer* tokenizer_;
  static model::ChatTemplate* template_;
  TempDirectory directory_;
  link::LinkProfile profile_;
  std::unique_ptr<store::Store> store_;
};

Loaded* RealModelTest::loaded_ = nullptr;
model::Tokenizer* RealModelTest::tokenizer_ = nullptr;
model::ChatTemplate* RealModelTest::template_ = nullptr;

// One forward pass over everything, each document in a segment that only it and what stands behind may see. Logits of
// all `forced` tokens and of the last prompt token, [forced + 1, vocab].
std::vector<float> MaskedPass(const Loaded& loaded, const Request& request, const std::vector<int32_t>& forced) {
  link::LinkProfile none;
  none.name = "none";
  link::PlanInput input;
  input.profile = &none;
  input.vocab = loaded.model->config().vocab;
  input.context = loaded.model->config().context;
  input.prompt = request.prompt;
  input.prompt.after.insert(input.prompt.after.end(), forced.begin(), forced.end());
  for (const RequestDocument& document : request.documents) input.documents.push_back(document.tokens);
  const link::LinkPlan plan = link::Stages::Create(input)->Next({});
  auto pages =
      model::KvPages::Create(loaded.backend.get(), loaded.model->config(), kernels::Dtype::kF32, plan.length / 64 + 8);
  std::vector<std::unique_ptr<model::KvSequence>> sequences;
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions, slots;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;
  const auto add = [&](absl::Span<const int32_t> ids, absl::Span<const int64_t> at) {
    sequences.push_back(std::make_unique<model::KvSequence>(pages->get()));
    const auto taken = *sequences.back()->Append(at);
    reads.push_back({static_cast<int32_t>(segments.size()), static_cast<int64_t>(tokens.size()),
                     static_cast<int64_t>(ids.size()), 0, nullptr});
    segments.push_back(sequences.back()->segment());
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    positions.insert(positions.end(), at.begin(), at.end());
    slots.insert(slots.end(), taken.begin(), taken.end());
  };
  for (const link::PlacedDocument& placed : plan.documents) {
    const auto& document = request.documents[placed.document].tokens;
    std::vector<int64_t> at(document.size());
    std::iota(at.begin(), at.end(), placed.offset);
    add(document, at);
  }
  const int64_t first_fresh = static_cast<int64_t>(tokens.size());
  add(plan.fresh_tokens, plan.fresh_positions);
  for (size_t i = 0; i < plan.documents.size(); ++i) {
    reads.push_back({static_cast<int32_t>(i), first_fresh, static_cast<int64_t>(plan.fresh_tokens.size()), 0, nullptr});
  }
  std::stable_sort(reads.begin(), reads.end(), [](const auto& a, const auto& b) { return a.segment < b.segment; });
  std::vector<int64_t> wanted(forced.size() + 1);
  std::iota(wanted.begin(), wanted.end(), static_cast<int64_t>(tokens.size() - wanted.size()));
  model::ForwardBatch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slots = slots;
  batch.pages = pages->get();
  batch.segments = segments;
  batch.reads = reads;
  batch.logits_rows = wanted;
  const auto context = loaded.model->NewContext();
  const auto logits = loaded.model->Forward(*context, batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  if (!logits.ok()) return {};
  return {logits->as<const float>(), logits->as<const float>() + logits->elements()};
}

TEST_F(RealModelTest, Bf16EncodingsAnswerAsOneMaskedPassInF32) {
  Request request;
  request.documents = Documents({"moon", "mars", "octopus"});
  request.prompt = Prompt("What are the names of the two moons of Mars?");
  request.keep_logits = true;
  const std::vector<int32_t> forced = *tokenizer_->Encode(
      "The two moons of Mars are called Phobos and Deimos. They were discovered in 1877 by the American astronomer "
      "Asaph Hall, "
      "and both are small and irregular in shape.",
      false);
  const std::vector<float> expected = MaskedPass(*loaded_, request, forced);
  const auto generator = MakeGenerator(Codec::kRawBf16);
  for (const bool stored : {false, true}) {
    auto conversation = generator->Start(request);
    ASSERT_TRUE(conversation.ok()) << conversation.status();
    std::vector<float> logits((*conversation)->logits().begin(), (*conversation)->logits().end());
    const auto scores = generator->Score(**conversation, forced, {});
    ASSERT_TRUE(scores.ok()) << scores.status();
    logits.insert(logits.end(), scores->begin(), scores->end());
    ASSERT_EQ(logits.size(), expected.size());
    const int64_t vocab = loaded_->model->config().vocab;
    double sum = 0;
    for (size_t i = 0; i < expected.size(); i += vocab) {
      sum += Divergence(absl::MakeConstSpan(expected).subspan(i, vocab), absl::MakeConstSpan(logits).subspan(i, vocab));
    }
    const double mean = sum * static_cast<double>(vocab) / static_cast<double>(expected.size());
    std::printf("mean divergence over %d positions: %.6f\n", static_cast<int>(expected.size() / vocab), mean);
    EXPECT_LE(mean, 0.01);
    EXPECT_EQ((*conversation)->stats().documents_disk, stored ? 3 : 0);
    conversation->reset();
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    generator->pool().Clear();
    store_->DropDramTier();
  }
}

TEST_F(RealModelTest, ChoosingEverythingIsAFullPrefillAndNothingIsConcat) {
  const auto generator = MakeGenerator(Codec::kRawF32);
  Request request;
  request.documents = Documents({"mars", "octopus"});
  request.prompt = Prompt("What are the names of the two moons of Mars?");
  request.keep_logits = true;
  const auto logits = [&](link::Linker linker) {
    request.linker = linker;
    const auto conversation = generator->Start(request);
    EXPECT_TRUE(conversation.ok()) << conversation.status();
    if (!conversation.ok()) return std::vector<float>();
    return std::vector<float>((*conversation)->logits().begin(), (*conversation)->logits().end());
  };
  const std::vector<float> full = logits(link::Linker::kFull), concat = logits(link::Linker::kConcat);
  EXPECT_GT(LargestDifference(full, concat), 0.1);
  for (const link::Linker::Choice choice : {link::Linker::kBlend, link::Linker::kProphet}) {
    EXPECT_LE(LargestDifference(logits({link::Linker::kConcat, 0, choice, 100}), full), 1e-3);
    EXPECT_LE(LargestDifference(logits({link::Linker::kConcat, 0, choice, 0}), concat), 1e-3);
  }
}

TEST_F(RealModelTest, AConversationGoesOnWithOnlyTheNewTurn) {
  const std::string first = "What are the names of the two moons of Mars?";
  const std::string second = "Which of them is larger?";
  const auto generator = MakeGenerator(Codec::kRawBf16);
  ChatSettings settings;
  settings.documents = Documents({"mars"});
  settings.max_tokens = 24;
  Chat chat(generator.get(), tokenizer_, template_, settings);
  std::string streamed;
  const auto answer = chat.Ask(first, {}, [&](absl::string_view text) { streamed.append(text.data(), text.size()); });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(streamed, answer->text);
  EXPECT_THAT(answer->text, HasSubstr("Phobos"));
  const RequestStats cost = chat.stats();
  EXPECT_EQ(cost.documents_resident + cost.documents_dram + cost.documents_disk + cost.documents_encoded, 1);
  EXPECT_EQ(cost.fresh_tokens, answer->fresh_tokens);
  const auto next = chat.Ask(second, {}, nullptr);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_LT(next->fresh_tokens, 40);
  // Each answer has its own costs: the second one read nothing.
  EXPECT_EQ(chat.stats().documents_resident, 1);
  EXPECT_EQ(chat.stats().documents_dram + chat.stats().documents_disk + chat.stats().documents_encoded, 0);
  EXPECT_EQ(chat.stats().bytes_dram + chat.stats().bytes_segments, 0);
  EXPECT_EQ(chat.stats().fresh_tokens, next->fresh_tokens);
  EXPECT_EQ(chat.stats().decoded_tokens, next->tokens - (next->stop == Stop::kEnd ? 0 : 1));
  EXPECT_GE(chat.stats().prompt_tokens, cost.prompt_tokens + answer->tokens);

  // The same tokens as one prompt.
  Request request;
  request.documents = settings.documents;
  request.prompt = Prompt(first);
  auto again = generator->Start(request);
  ASSERT_TRUE(again.ok()) << again.status();
  for (int i = 0; i < answer->tokens; ++i) {
    request.prompt.after.push_back((*again)->next());
    ASSERT_TRUE(generator->Step(**again, {}).ok());
  }
  const std::vector<model::TextSpan> turn = {
      {"<|im_end|>\n<|im_start|>user\n", true}, {second, false}, {"<|im_end|>\n<|im_start|>assistant\n", true}};
  const auto turn_tokens = model::EncodeSpans(*tokenizer_, turn);
  request.prompt.after.insert(request.prompt.after.end(), turn_tokens->begin(), turn_tokens->end());
  // As they are when a client sends the whole conversation.
  const std::vector<link::Turn> turns = {{"user", first}, {"assistant", answer->text}, {"user", second}};
  const auto whole = link::MakePrompt(*tokenizer_, *template_, {}, profile_, turns);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->before, request.prompt.before);
  EXPECT_EQ(whole->after, request.prompt.after);
  again = generator->Start(request);
  ASSERT_TRUE(again.ok()) << again.status();
  model::StreamDecoder decoder(tokenizer_);
  std::string recomputed;
  for (int i = 0; i < next->tokens; ++i) {
    recomputed += decoder.Push((*again)->next());
    ASSERT_TRUE(generator->Step(**again, {}).ok());
  }
  EXPECT_EQ(recomputed + decoder.Finish(), next->text);
}

TEST_F(RealModelTest, ACancelledAnswerCanBeFollowedByAnotherQuestion) {
  const auto generator = MakeGenerator(Codec::kRawBf16);
  ChatSettings settings;
  settings.documents = Documents({"mars"});
  settings.max_tokens = 8;
  Chat chat(generator.get(), tokenizer_, template_, settings);
  std::string streamed;
  Limits limits;
  limits.cancelled = [&] { return !streamed.empty(); };
  const auto cancelled = chat.Ask("What are the names of the two moons of Mars?", limits,
                                  [&](absl::string_view text) { streamed.append(text.data(), text.size()); });
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled);
  const auto next = chat.Ask("How many moons are there?", {}, nullptr);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->tokens, 8);
  EXPECT_EQ(next->stop, Stop::kMaxTokens);
}

// Prints the rates; with KVLINK_SOAK those of more and longer answers.
TEST_F(RealModelTest, ManyQuestionsAtOnceAreAnsweredAsEachAlone) {
  const auto generator = MakeGenerator(Codec::kRawBf16);
  const std::vector<std::string> asked = {"What are the names of the moons of Mars?", "How long is a day on Mars?",
                                          "Why is Mars red?", "Who discovered the moons of Mars?"};
  class Listener final : public Scheduler::Listener {
   public:
    bool OnToken(const SampledToken& token) override {
      tokens.push_back(token.token);
      return true;
    }
    void OnEnd(const absl::Status& ended, Scheduler::End, const RequestStats&) override { status = ended; }
    std::vector<int32_t> tokens;
    absl::Status status = absl::UnknownError("it has not ended");
  };
  Scheduler::Job job;
  job.request.documents = Documents({"mars", "moon"});
  job.max_tokens = Soak() ? 64 : 6;
  job.request.prompt = Prompt(asked[0]);
  ASSERT_TRUE(generator->Start(job.request).ok());  // encodes the documents
  for (const int count : Soak() ? std::vector<int>{1, 4, 16} : std::vector<int>{4}) {
    std::vector<std::shared_ptr<Listener>> listeners;
    Scheduler scheduler(generator.get(), {});
    const absl::Time began = SteadyNow();
    for (int i = 0; i < count; ++i) {
      job.request.prompt = Prompt(asked[i % asked.size()]);
      listeners.push_back(std::make_shared<Listener>());
      ASSERT_TRUE(scheduler.Submit({{job, listeners.back()}}).ok());
    }
    scheduler.Drain(began + absl::Minutes(10));
    const double seconds = absl::ToDoubleSeconds(SteadyNow() - began);
    std::printf("%d at once: %.1f tokens/s in %d passes\n", count,
                static_cast<double>(scheduler.stats().answer_tokens) / seconds,
                static_cast<int>(scheduler.stats().passes));
    for (int i = 0; i < count; ++i) {
      EXPECT_TRUE(listeners[i]->status.ok()) << listeners[i]->status;
      job.request.prompt = Prompt(asked[i % asked.size()]);
      const auto alone = generator->Start(job.request);
      ASSERT_TRUE(alone.ok()) << alone.status();
      for (const int32_t token : listeners[i]->tokens) {
        ASSERT_EQ(token, (*alone)->next());
        ASSERT_TRUE(generator->Step(**alone, {}).ok());
      }
    }
  }
}

}  // namespace
}  // namespace kvlink::infer
