// Every kind of example becomes a question first. Documents are left out and cut last, where their gold ones are known.
#include "worker/eval/task.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checksum.h"
#include "base/status.h"
#include "worker/link/plan.h"

namespace kvlink::eval {
namespace {

constexpr absl::string_view kContinue = "Continue the text.";

absl::string_view RoleName(data::Turn::Role role) {
  switch (role) {
    case data::Turn::Role::kSystem:
      return "System";
    case data::Turn::Role::kUser:
      return "User";
    case data::Turn::Role::kAssistant:
      break;
  }
  return "Assistant";
}

// The last question that is answered, over the turns before it; without documents if there is none.
data::Question ChatQuestion(const data::Chat& chat) {
  using Role = data::Turn::Role;
  data::Question question;
  for (size_t i = chat.turns.size() - 1; i > 0; --i) {
    if (chat.turns[i - 1].role != Role::kUser || chat.turns[i].role != Role::kAssistant) continue;
    for (size_t before = 0; before + 1 < i; ++before) {
      const data::Turn& turn = chat.turns[before];
      question.documents.push_back({"", absl::StrCat(RoleName(turn.role), ": ", turn.text)});
    }
    question.question = chat.turns[i - 1].text;
    question.answers = {chat.turns[i].text};
    return question;
  }
  return question;
}

data::Question QuestionOf(const data::Example& example) {
  if (const auto* question = std::get_if<data::Question>(&example.task)) return *question;
  if (const auto* summary = std::get_if<data::Summary>(&example.task)) {
    data::Question question;
    question.documents = summary->documents;
    question.question = summary->instruction;
    question.answers = {summary->summary};
    return question;
  }
  if (const auto* chat = std::get_if<data::Chat>(&example.task)) return ChatQuestion(*chat);
  data::Question question;
  question.documents = {{"", std::get<data::Text>(example.task).text}};
  question.question = std::string(kContinue);
  return question;
}

// Leaves out documents above a number: first those that are not gold, from the end.
void LeaveOut(int64_t max_documents, data::Question* question) {
  int64_t others = max_documents - static_cast<int64_t>(question->gold.size());
  std::vector<data::Document> kept;
  std::vector<int64_t> gold;
  for (size_t i = 0; i < question->documents.size(); ++i) {
    const bool is_gold = std::binary_search(question->gold.begin(), question->gold.end(), static_cast<int64_t>(i));
    if (!is_gold && others-- <= 0) continue;
    if (is_gold) gold.push_back(static_cast<int64_t>(kept.size()));
    kept.push_back(std::move(question->documents[i]));
  }
  question->documents = std::move(kept);
  question->gold = std::move(gold);
}

absl::StatusOr<Task> QuestionTask(data::Question question, const model::Tokenizer& tokenizer,
                                  const link::LinkProfile& profile, const TaskOptions& options) {
  if (options.max_documents > 0) LeaveOut(options.max_documents, &question);
  Task task;
  for (size_t i = 0; i < question.documents.size(); ++i) {
    const data::Document& document = question.documents[i];
    KVLINK_ASSIGN_OR_RETURN(auto pieces, link::DocumentTokens(tokenizer, profile, document.title, document.text,
                                                              options.max_document_tokens));
    const bool is_gold = std::binary_search(question.gold.begin(), question.gold.end(), static_cast<int64_t>(i));
    for (std::vector<int32_t>& piece : pieces) {
      if (is_gold) task.gold.push_back(static_cast<int64_t>(task.documents.size()));
      task.documents.push_back({std::move(piece)});
    }
  }
  task.question = std::move(question.question);
  task.answers = std::move(question.answers);
  task.candidates = std::move(question.candidates);
  task.stem = std::move(question.stem);
  return task;
}

}  // namespace

std::string ContentDigest(const Task& task) {
  std::string content = absl::StrCat(task.question, "\n", absl::StrJoin(task.answers, "\n"), "\n");
  for (const infer::RequestDocument& document : task.documents) {
    absl::StrAppend(&content, absl::StrJoin(document.tokens, " "), "\n");
  }
  return absl::StrCat(absl::Hex(Xxh3(content.data(), content.size()), absl::kZeroPad16));
}

absl::StatusOr<Task> TaskOf(const data::Item& item, const model::Tokenizer& tokenizer,
                            const link::LinkProfile& profile) {
  auto task = QuestionTask(item, tokenizer, profile, {});
  KVLINK_RETURN_IF_ERROR(Annotate(task.status(), item.id));
  task->id = item.id;
  task->kind = std::string(data::KindName(item.kind));
  return task;
}

absl::StatusOr<std::optional<Task>> TaskOf(const data::Example& example, int64_t number,
                                           const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                           const TaskOptions& options) {
  auto task = QuestionTask(QuestionOf(example), tokenizer, profile, options);
  KVLINK_RETURN_IF_ERROR(Annotate(task.status(), absl::StrCat(example.kind, " ", number)));
  if (std::holds_alternative<data::Text>(example.task) && !task->documents.empty()) {
    task->continuation = std::move(task->documents.back().tokens);
    task->documents.pop_back();
  }
  if (task->documents.empty()) return std::optional<Task>();
  task->kind = example.kind;
  task->long_answer = !std::holds_alternative<data::Question>(example.task);
  task->id = absl::StrCat(example.kind, "-", number, "-", ContentDigest(*task));
  return std::optional<Task>(*std::move(task));
}

}  // namespace kvlink::eval
