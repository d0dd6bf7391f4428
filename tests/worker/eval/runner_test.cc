// Runs over a tiny random model and a real store: its answers are bad, but everything that is measured of them must be
// right.
#include "worker/eval/runner.h"

#include <fstream>
#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/worker/infer/fixture.h"
#include "worker/eval/metrics.h"
#include "worker/files/open_tokenizer.h"
#include "worker/infer/chat.h"

namespace kvlink::eval {
namespace {

using data::Kind;
using ::testing::HasSubstr;

constexpr Kind kSomeKinds[] = {Kind::kLookup, Kind::kHopsAcross, Kind::kUnanswerable};

class RunnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new infer::TempDirectory();
    kvlink::testing::TinyModelOptions options;
    options.seed = 11;
    options.tied = false;  // tied random embeddings would only repeat the last token
    options.context = 4096;
    ASSERT_TRUE(kvlink::testing::WriteTinyModel(directory_->path() + "/model", options).ok());
    loaded_ = new infer::Loaded(infer::LoadModel(directory_->path() + "/model", infer::FastF32()));
    tokenizer_ = model::OpenTokenizer(directory_->path() + "/model")->release();
    template_ = model::ChatTemplate::Parse(model::ChatMlTemplate())->release();
  }
  static void TearDownTestSuite() {
    delete template_;
    delete tokenizer_;
    delete loaded_;
    delete directory_;
  }
  void SetUp() override {
    store_ = infer::OpenStore(scratch_.path() + "/store");
    generator_ = MakeGenerator(Codec::kRawF32);
  }
  std::unique_ptr<infer::Generator> MakeGenerator(Codec codec, int64_t header = 0) const {
    infer::GeneratorOptions options;
    options.codec = codec;
    options.profile = *link::LoadLinkProfile("untuned");
    if (header > 0) {
      options.profile.wrapper = {"", header, 0};
      options.wrapper =
          encode::MakeWrapper(header, 0, std::vector<float>(header * loaded_->model->config().hidden, 0.5f));
    }
    auto generator = infer::Generator::Create(loaded_->model.get(), loaded_->fingerprint, store_.get(), options);
    EXPECT_TRUE(generator.ok()) << generator.status();
    return *std::move(generator);
  }

  Task MakeTask(Kind kind, int64_t index, int64_t documents = 2) const {
    const auto item = data::MakeItem({.documents = documents, .document_tokens = 50}, kind, index);
    EXPECT_TRUE(item.ok()) << item.status();
    auto task = TaskOf(*item, *tokenizer_, generator_->options().profile);
    EXPECT_TRUE(task.ok()) << task.status();
    return *std::move(task);
  }
  Runner MakeRunner(Results* results, std::vector<Order> orders = {Order::kGenerated},
                    infer::Generator* second = nullptr) const {
    RunnerOptions options;
    options.linkers = {link::Linker::kConcat, link::Linker::kFull};
    options.orders = std::move(orders);
    options.max_tokens = 5;
    std::vector<infer::Generator*> generators = {generator_.get()};
    if (second != nullptr) generators.push_back(second);
    return Runner(generators, tokenizer_, template_, options, results);
  }
  // Runs a few tasks into a file.
  void RunInto(const std::string& path) const {
    auto results = Results::Open(path, {{"seed", "1"}});
    ASSERT_TRUE(results.ok()) << results.status();
    Runner runner = MakeRunner(results->get());
    for (const Kind kind : kSomeKinds) {
      const absl::Status status = runner.Run(MakeTask(kind, 0), {});
      ASSERT_TRUE(status.ok()) << status;
    }
  }

  static infer::TempDirectory* directory_;
  static infer::Loaded* loaded_;
  static model::Tokenizer* tokenizer_;
  static model::ChatTemplate* template_;
  infer::TempDirectory scratch_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<infer::Generator> generator_;
};

infer::TempDirectory* RunnerTest::directory_ = nullptr;
infer::Loaded* RunnerTest::loaded_ = nullptr;
model::Tokenizer* RunnerTest::tokenizer_ = nullptr;
model::ChatTemplate* RunnerTest::template_ = nullptr;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The lines of a results file without what differs from run to run.
std::vector<std::string> WithoutTimes(const std::string& bytes) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(bytes, '\n')) {
    auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    if (json.is_object()) json.erase("first_token_seconds");
    lines.push_back(json.dump());
  }
  return lines;
}

TEST_F(RunnerTest, AStoppedRunContinuesToTheSameFile) {
  const std::string path = scratch_.path() + "/results.jsonl", again = scratch_.path() + "/again.jsonl";
  RunInto(path);
  const std::string whole = Bytes(path);
  ASSERT_EQ(std::count(whole.begin(), whole.end(), '\n'), 1 + 3 * 3) << whole;
  // Stopped after each line of the first two tasks, and in the middle of the next one.
  size_t cut = 0;
  for (int line = 0; line < 7; ++line) {
    cut = whole.find('\n', cut) + 1;
    for (const size_t torn : {0, 40}) {
      std::ofstream(again, std::ios::binary) << whole.substr(0, cut + torn);
      RunInto(again);
      EXPECT_EQ(WithoutTimes(Bytes(again)), WithoutTimes(whole)) << line;
      EXPECT_EQ(Bytes(again).substr(0, cut), whole.substr(0, cut)) << "computed twice";
    }
  }
  RunInto(path);
  EXPECT_EQ(Bytes(path), whole);
}

TEST_F(RunnerTest, WhatIsMeasuredIsOfTheRequest) {
  Results results;
  Runner runner = MakeRunner(&results);
  const Task task = MakeTask(Kind::kLookup, 3, 3);
  ASSERT_TRUE(runner.Run(task, {}).ok());
  std::map<std::string, Result> by_linker;
  for (const Result& result : results.all()) by_linker[result.linker] = result;
  ASSERT_EQ(by_linker.size(), 3u);
  const Result &full = by_linker["full"], &concat = by_linker["concat"], &closed = by_linker[std::string(kClosedBook)];
  int64_t tokens = 0;
  for (const infer::RequestDocument& document : task.documents) tokens += static_cast<int64_t>(document.tokens.size());
  EXPECT_EQ(full.fresh_tokens, full.prompt_tokens);
  EXPECT_EQ(full.bytes_read, 0);
  EXPECT_LT(full.divergence, 1e-6);
  EXPECT_EQ(concat.prompt_tokens, full.prompt_tokens);
  EXPECT_EQ(concat.fresh_tokens, full.prompt_tokens - tokens);
  EXPECT_EQ(concat.document_tokens, tokens);
  EXPECT_EQ(closed.document_tokens, 0);
  EXPECT_EQ(closed.recomputed_tokens, 0);
  EXPECT_EQ(concat.documents_encoded, 0) << "the store should have had them";
  const model::ModelConfig& config = loaded_->model->config();
  EXPECT_GE(concat.bytes_read, tokens * config.layers * config.kv_heads * config.head_dim * 2 * 4);
  EXPECT_GT(concat.divergence, 1e-3);
  EXPECT_EQ(closed.prompt_tokens, full.prompt_tokens - tokens);
  EXPECT_EQ(closed.bytes_read, 0);
  for (const Result& result : results.all()) {
    EXPECT_GT(result.first_token_seconds, 0);
    EXPECT_TRUE(result.exact && result.f1 && result.rouge_l && result.choice);
  }
}

// A wrapper takes positions, and a second stage computes the question again: neither is of the documents.
TEST_F(RunnerTest, WhatIsComputedAgainIsOfTheDocuments) {
  generator_ = MakeGenerator(Codec::kRawF32, /*header=*/4);
  const Task task = MakeTask(Kind::kLookup, 3, 3);
  RunnerOptions options;
  for (const char* name : {"concat", "packet", "head-8", "packet+head-8", "prophet-5", "blend-5", "full"}) {
    options.linkers.push_back(*link::ParseLinker(name));
  }
  options.max_tokens = 2;
  Results results;
  ASSERT_TRUE(Runner({generator_.get()}, tokenizer_, template_, options, &results).Run(task, {}).ok());
  int64_t tokens = 0;
  for (const infer::RequestDocument& document : task.documents) tokens += static_cast<int64_t>(document.tokens.size());
  const int64_t chosen = (tokens * 5 + 99) / 100, layers = loaded_->model->config().layers;
  const std::map<std::string, int64_t> expected = {
      {"concat", 0},         {"packet", 0},
      {"head-8", 16},        {"packet+head-8", 16},
      {"prophet-5", chosen}, {"blend-5", (tokens * 2 + chosen * layers + layers - 1) / layers},
      {"full", tokens},      {std::string(kClosedBook), 0}};
  ASSERT_EQ(results.all().size(), expected.size());
  for (const Result& result : results.all()) {
    EXPECT_EQ(result.recomputed_tokens, expected.at(result.linker)) << result.linker;
  }
}

TEST_F(RunnerTest, CodecsAreComparedOverOneStore) {
  const auto q8 = MakeGenerator(Codec::kQ8);
  Results results;
  Runner runner = MakeRunner(&results, {Order::kGenerated}, q8.get());
  const Task task = MakeTask(Kind::kLookup, 3, 3);
  ASSERT_TRUE(runner.Run(task, {}).ok());
  std::map<std::pair<std::string, std::string>, Result> by;
  for (const Result& result : results.all()) by[{result.linker, result.codec}] = result;
  ASSERT_EQ(by.size(), 6u);
  const Result &raw = by[{"concat", "raw-f32"}], &small = by[{"concat", "q8"}];
  EXPECT_EQ(raw.documents_encoded + small.documents_encoded, 0);
  EXPECT_GT(small.bytes_read, 0);
  EXPECT_LT(small.bytes_read, raw.bytes_read / 2);
  EXPECT_NE(small.divergence, raw.divergence);
  EXPECT_NEAR(small.divergence, raw.divergence, 0.1);
  for (const char* linker : {"full", "closed-book"}) {
    EXPECT_EQ(by[std::pair(std::string(linker), std::string("q8"))].first_token_seconds,
              by[std::pair(std::string(linker), std::string("raw-f32"))].first_token_seconds)
        << "computed once";
  }
  ASSERT_TRUE(runner.Run(task, {}).ok());
  EXPECT_EQ(results.all().size(), 6u) << "nothing is computed twice";
}

TEST_F(RunnerTest, LongAnswersAreComparedByRougeAlone) {
  Task task = MakeTask(Kind::kLookup, 3, 3);
  task.candidates.clear();
  task.long_answer = true;
  Results results;
  ASSERT_TRUE(MakeRunner(&results).Run(task, {}).ok());
  for (const Result& result : results.all()) {
    EXPECT_TRUE(result.rouge_l.has_value());
    EXPECT_FALSE(result.exact || result.f1 || result.choice);
  }
}

// Of a chat's turn, of a summary, and of a text's continuation: as if it had been asked for alone.
TEST_F(RunnerTest, TheCrossEntropyIsOfWhatIsExpected) {
  Task text = MakeTask(Kind::kLookup, 3, 3), chat = text;
  for (Task* const task : {&text, &chat}) {
    task->candidates.clear();
    task->long_answer = true;
  }
  text.id = "text";
  text.answers.clear();
  text.continuation = *tokenizer_->Encode(" and so it went on", false);
  chat.answers = {"No, it did not.", "another"};
  for (const Task& task : {text, chat}) {
    SCOPED_TRACE(task.id);
    Results results;
    ASSERT_TRUE(MakeRunner(&results).Run(task, {}).ok());
    for (const link::Linker linker : {link::Linker(link::Linker::kConcat), link::Linker(link::Linker::kFull)}) {
      const std::string name(link::LinkerName(linker));
      const auto measured = std::find_if(results.all().begin(), results.all().end(),
                                         [&](const Result& result) { return result.linker == name; });
      ASSERT_NE(measured, results.all().end());
      infer::Request request;
      request.linker = linker;
      request.documents = task.documents;
      request.keep_logits = true;
      request.answer_tokens = 100;
      request.prompt = *link::MakePrompt(*tokenizer_, *template_, {}, generator_->options().profile, "", task.question);
      const auto conversation = *generator_->Start(request);
      std::vector<int32_t> tokens =
          task.continuation.empty() ? *tokenizer_->Encode(task.answers[0], false) : task.continuation;
      ASSERT_GT(tokens.size(), 5u);
      tokens.resize(5);  // as many as an answer may have
      double sum = LogProbability(conversation->logits(), tokens[0]);
      for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        sum += LogProbability(*generator_->Score(*conversation, {tokens[i]}, {}), tokens[i + 1]);
      }
      EXPECT_EQ(measured->expected_tokens, 5);
      ASSERT_TRUE(measured->cross_entropy.has_value());
      EXPECT_NEAR(*measured->cross_entropy, -sum / 5, 1e-4);
    }
  }
  Results of_questions;
  ASSERT_TRUE(MakeRunner(&of_questions).Run(MakeTask(Kind::kLookup, 3, 3), {}).ok());
  for (const Result& result : of_questions.all()) EXPECT_FALSE(result.cross_entropy || result.expected_tokens);
}

// The runner rewinds one conversation; here each answer and each candidate has its own.
TEST_F(RunnerTest, AnswersAndChoicesAreThoseOfFreshConversations) {
  Results results;
  Runner runner = MakeRunner(&results);
  int right = 0;
  for (int64_t i = 0; i < 6; ++i) ASSERT_TRUE(runner.Run(MakeTask(Kind::kCompare, i), {}).ok());
  for (int64_t i = 0; i < 6; ++i) {
    const Task task = MakeTask(Kind::kCompare, i);
    for (const link::Linker linker : {link::Linker(link::Linker::kConcat), link::Linker(link::Linker::kFull)}) {
      const std::string name(link::LinkerName(linker));
      const auto measured = std::find_if(results.all().begin(), results.all().end(), [&](const Result& result) {
        return result.item == task.id && result.linker == name;
      });
      ASSERT_NE(measured, results.all().end());
      infer::ChatSettings settings;
      settings.linker = linker;
      settings.documents = task.documents;
      settings.max_tokens = 5;
      infer::Chat chat(generator_.get(), tokenizer_, template_, settings);
      const auto answer = chat.Ask(task.question, {}, nullptr);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(measured->answer, answer->text);

      std::vector<double> means;
      for (const std::string& candidate : task.candidates) {
        infer::Request request;
        request.linker = linker;
        request.documents = task.documents;
        request.keep_logits = true;
        request.answer_tokens = 100;
        request.prompt =
            *link::MakePrompt(*tokenizer_, *template_, {}, generator_->options().profile, "", task.question);
        const auto conversation = *generator_->Start(request);
        ASSERT_TRUE(generator_->Extend(*conversation, *tokenizer_->Encode(task.stem, false), {}).ok());
        const std::vector<int32_t> tokens = *tokenizer_->Encode(absl::StrCat(" ", candidate), false);
        double sum = LogProbability(conversation->logits(), tokens[0]);
        for (size_t k = 0; k + 1 < tokens.size(); ++k) {
          sum += LogProbability(*generator_->Score(*conversation, {tokens[k]}, {}), tokens[k + 1]);
        }
        means.push_back(sum / static_cast<double>(tokens.size()));
      }
      ASSERT_EQ(means.size(), 2u);
      ASSERT_GT(std::abs(means[0] - means[1]), 1e-4) << "too close to compare";
      EXPECT_EQ(*measured->choice, means[0] > means[1] ? 1 : 0);
      right += means[0] > means[1];
    }
  }
  EXPECT_GT(right, 0);
  EXPECT_LT(right, 12);
}

TEST_F(RunnerTest, OrdersMoveTheGoldDocuments) {
  const Task task = MakeTask(Kind::kHopsAcross, 1, 5);
  const auto& documents = task.documents;
  const struct {
    Order order;
    std::vector<int64_t> gold;
    std::vector<int64_t> expected;
  } cases[] = {{Order::kFirst, {1, 3}, {1, 3, 0, 2, 4}},          {Order::kMiddle, {0, 4}, {1, 0, 4, 2, 3}},
               {Order::kLast, {0, 3}, {1, 2, 4, 0, 3}},           {Order::kMiddle, {4}, {0, 1, 4, 2, 3}},
               {Order(Order::kShuffled, 1), {}, {2, 1, 0, 3, 4}}, {Order(Order::kShuffled, 2), {}, {1, 0, 4, 2, 3}}};
  for (const auto& one : cases) {
    Task moved = task, placed = task;
    moved.gold = one.gold;
    for (size_t i = 0; i < documents.size(); ++i) placed.documents[i] = documents[one.expected[i]];
    Results of_moved, of_placed;
    ASSERT_TRUE(MakeRunner(&of_moved, {one.order}).Run(moved, {}).ok());
    ASSERT_TRUE(MakeRunner(&of_placed).Run(placed, {}).ok());
    ASSERT_EQ(of_moved.all().size(), of_placed.all().size());
    for (size_t i = 0; i < of_moved.all().size(); ++i) {
      EXPECT_EQ(of_moved.all()[i].order, OrderName(one.order));
      EXPECT_EQ(of_moved.all()[i].answer, of_placed.all()[i].answer);
      EXPECT_EQ(of_moved.all()[i].divergence, of_placed.all()[i].divergence);
    }
  }
  Task unknown = task;
  unknown.gold.clear();
  Results results;
  const absl::Status status = MakeRunner(&results, {Order::kLast}).Run(unknown, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not say which of its documents"));
}

TEST(Order, IsReadAsItIsNamed) {
  for (const char* name : {"generated", "first", "middle", "last", "shuffled-1", "shuffled-12"}) {
    const auto order = ParseOrder(name);
    ASSERT_TRUE(order.ok()) << order.status();
    EXPECT_EQ(OrderName(*order), name);
  }
  EXPECT_FALSE(*ParseOrder("shuffled-1") == *ParseOrder("shuffled-2"));
  for (const char* name : {"", "First", "shuffled", "shuffled-", "shuffled-0", "shuffled-01", "shuffled--1",
                           "shuffled-9223372036854775808"}) {
    EXPECT_THAT(std::string(ParseOrder(name).status().message()), HasSubstr("middle, last or shuffled-N")) << name;
  }
}

TEST_F(RunnerTest, AnInterruptedTaskKeepsWhatIsKnown) {
  Results results;
  Runner runner = MakeRunner(&results);
  const Task task = MakeTask(Kind::kLookup, 0);
  infer::Limits limits;
  limits.cancelled = [&] { return !results.all().empty(); };
  EXPECT_EQ(runner.Run(task, limits).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(results.all().size(), 1u);
  EXPECT_TRUE(runner.Run(task, {}).ok());
  EXPECT_EQ(results.all().size(), 3u);
}

}  // namespace
}  // namespace kvlink::eval
