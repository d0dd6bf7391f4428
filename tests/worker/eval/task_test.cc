// Examples of each kind as tasks, in tokens of about a byte each.
#include "worker/eval/task.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/infer/fixture.h"
#include "worker/files/open_tokenizer.h"

namespace kvlink::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

class TaskTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const infer::TempDirectory directory;
    ASSERT_TRUE(kvlink::testing::WriteTinyModel(directory.path() + "/model", {}).ok());
    tokenizer_ = model::OpenTokenizer(directory.path() + "/model")->release();
  }
  static void TearDownTestSuite() { delete tokenizer_; }

  std::optional<Task> Make(decltype(data::Example::task) of, const TaskOptions& options = {}) const {
    const data::Example example{"id", "kind", std::move(of)};
    auto task = TaskOf(example, 7, *tokenizer_, profile_, options);
    EXPECT_TRUE(task.ok()) << task.status();
    return *std::move(task);
  }
  std::vector<std::string> Texts(const Task& task) const {
    std::vector<std::string> texts;
    for (const infer::RequestDocument& document : task.documents) {
      texts.push_back(tokenizer_->Decode(document.tokens, /*skip_special=*/false));
    }
    return texts;
  }

  static model::Tokenizer* tokenizer_;
  const link::LinkProfile profile_ = *link::LoadLinkProfile("untuned");
};

model::Tokenizer* TaskTest::tokenizer_ = nullptr;

data::Question FiveDocuments() {
  data::Question question;
  for (const char* name : {"A", "B", "C", "D", "E"}) question.documents.push_back({name, "text"});
  question.question = "Which?";
  question.answers = {"D"};
  question.candidates = {"D", "A"};
  question.gold = {1, 3};
  return question;
}

TEST_F(TaskTest, Questions) {
  const Task task = *Make(FiveDocuments());
  EXPECT_THAT(task.id, StartsWith("kind-7-"));
  EXPECT_EQ(task.kind, "kind");
  EXPECT_THAT(Texts(task), SizeIs(5));
  EXPECT_EQ(Texts(task)[1], "Title: B\ntext\n");
  EXPECT_THAT(task.gold, ElementsAre(1, 3));
  EXPECT_THAT(task.candidates, ElementsAre("D", "A"));
  EXPECT_FALSE(task.long_answer);
  data::Question other = FiveDocuments();
  other.documents[4].text = "another text";
  EXPECT_NE(Make(other)->id, task.id) << "another file under the same name";
}

TEST_F(TaskTest, GoldDocumentsStayWhenOthersAreLeftOut) {
  const auto titles = [&](int64_t max_documents) {
    const Task task = *Make(FiveDocuments(), {.max_documents = max_documents});
    std::string titles;
    for (const std::string& text : Texts(task)) titles += text[7];
    for (const int64_t gold : task.gold) absl::StrAppend(&titles, " ", gold);
    return titles;
  };
  EXPECT_EQ(titles(5), "ABCDE 1 3");
  EXPECT_EQ(titles(4), "ABCD 1 3");
  EXPECT_EQ(titles(3), "ABD 1 2");
  EXPECT_EQ(titles(2), "BD 0 1");
  EXPECT_EQ(titles(1), "BD 0 1");
}

TEST_F(TaskTest, LongDocumentsAreCut) {
  data::Question question = FiveDocuments();
  question.documents[1].text = std::string(100, 'x');
  const Task whole = *Make(question);
  const size_t tokens = whole.documents[1].tokens.size();
  const int64_t piece = static_cast<int64_t>(tokens / 2 + 1);
  const Task cut = *Make(question, {.max_document_tokens = piece});
  ASSERT_EQ(cut.documents.size(), whole.documents.size() + 1);
  EXPECT_THAT(cut.gold, ElementsAre(1, 2, 4));
  EXPECT_EQ(absl::StrCat(Texts(cut)[1], Texts(cut)[2]), Texts(whole)[1]);
  EXPECT_EQ(Texts(cut)[4], Texts(whole)[3]);
}

TEST_F(TaskTest, SummariesChatsAndTexts) {
  const Task summary = *Make(data::Summary{{{"", "one"}, {"", "two"}}, "Summarise.", "12"});
  EXPECT_THAT(Texts(summary), ElementsAre("one\n", "two\n"));
  EXPECT_EQ(summary.question, "Summarise.");
  EXPECT_THAT(summary.answers, ElementsAre("12"));
  EXPECT_TRUE(summary.long_answer);

  using Role = data::Turn::Role;
  const std::vector<data::Turn> turns = {{Role::kSystem, "s"}, {Role::kUser, "u"},      {Role::kAssistant, "a"},
                                         {Role::kUser, "w"},   {Role::kAssistant, "x"}, {Role::kUser, "unanswered"}};
  const Task chat = *Make(data::Chat{turns});
  EXPECT_THAT(Texts(chat), ElementsAre("System: s\n", "User: u\n", "Assistant: a\n"));
  EXPECT_EQ(chat.question, "w");
  EXPECT_THAT(chat.answers, ElementsAre("x"));
  EXPECT_TRUE(chat.long_answer);
  EXPECT_FALSE(Make(data::Chat{{{Role::kUser, "u"}, {Role::kAssistant, "a"}}}).has_value()) << "nothing before it";
  EXPECT_FALSE(Make(data::Chat{{{Role::kAssistant, "a"}}}).has_value());

  const Task text = *Make(data::Text{std::string(100, 'x')}, {.max_document_tokens = 8});
  EXPECT_GE(text.documents.size(), 2u);
  EXPECT_THAT(text.answers, IsEmpty());
  // All pieces are the whole text.
  std::string whole;
  for (const std::string& piece : Texts(text)) whole += piece;
  EXPECT_FALSE(text.continuation.empty());
  EXPECT_EQ(whole + tokenizer_->Decode(text.continuation, /*skip_special=*/false), std::string(100, 'x') + "\n");
  EXPECT_THAT(chat.continuation, IsEmpty());
  EXPECT_FALSE(Make(data::Text{"short"}, {.max_document_tokens = 100}).has_value());
}

}  // namespace
}  // namespace kvlink::eval
