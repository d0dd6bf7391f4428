// One function for each shape. What it takes from a record that lacks a member is empty and never used: the problem is
// asked for at the end.
#include "worker/data/formats.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/data/fields.h"
#include "worker/data/question_generator.h"
#include "worker/ingest/source/json_line.h"

namespace kvlink::data {
namespace {

constexpr int kMaxDepth = 64;
constexpr absl::string_view kArticleSeparator = "|||||";
constexpr absl::string_view kNewLineInArticle = "NEWLINE_CHAR";

constexpr absl::string_view kSummariseArticles = "Summarise these articles in a few sentences.";
constexpr absl::string_view kSummariseArticle = "Summarise this article in one sentence.";
constexpr absl::string_view kSummariseDialogue = "Summarise this conversation in one or two sentences.";

// A list in a list takes a hundred bytes of memory and one of the record.
bool IsTooDeep(absl::string_view record) {
  int depth = 0;
  bool in_string = false, escaped = false;
  for (const char c : record) {
    if (in_string) {
      if (c == '"' && !escaped) in_string = false;
      escaped = c == '\\' && !escaped;
      continue;
    }
    in_string = c == '"';
    if ((c == '[' || c == '{') && ++depth > kMaxDepth) return true;
    if (c == ']' || c == '}') --depth;
  }
  return false;
}

// Sentences with a space between those that have none.
std::string Joined(const std::vector<std::string>& sentences) {
  std::string text;
  for (const std::string& sentence : sentences) {
    const bool apart = text.empty() || sentence.empty() ||
                       absl::ascii_isspace(static_cast<unsigned char>(text.back())) ||
                       absl::ascii_isspace(static_cast<unsigned char>(sentence.front()));
    absl::StrAppend(&text, apart ? "" : " ", sentence);
  }
  return text;
}

Document Paragraph(std::string title, const Field& sentences) {
  Document document{std::move(title), Joined(sentences.Texts())};
  if (absl::StripAsciiWhitespace(document.text).empty()) sentences.Expect("sentences with text");
  return document;
}

void SomeOf(const Field& list, size_t count) {
  if (count == 0) list.Expect("at least one");
}

// hotpotqa, 2wiki.
Question HotpotQuestion(const Field& record) {
  Question question;
  question.question = record["question"].Text();
  question.answers = {record["answer"].Text()};
  std::set<std::string> supporting;
  const Field context = record["context"], facts = record["supporting_facts"];
  if (context.IsObject()) {
    const std::vector<Field> sentences = context["sentences"].List();
    const std::vector<std::string> titles = context["title"].Texts();
    if (titles.size() != sentences.size()) {
      context["title"].Expect(absl::StrCat("a title for each of ", sentences.size(), " paragraphs"));
    } else {
      for (size_t i = 0; i < titles.size(); ++i) question.documents.push_back(Paragraph(titles[i], sentences[i]));
    }
    for (std::string& title : facts["title"].Texts()) supporting.insert(std::move(title));
  } else {
    for (const Field& paragraph : context.List()) {
      question.documents.push_back(Paragraph(paragraph[0].AnyText(), paragraph[1]));
    }
    for (const Field& fact : facts.List()) supporting.insert(fact[0].AnyText());
  }
  SomeOf(context, question.documents.size());
  for (size_t i = 0; i < question.documents.size(); ++i) {
    if (supporting.contains(question.documents[i].title)) question.gold.push_back(static_cast<int64_t>(i));
  }
  const std::string& answer = question.answers[0];
  if (answer == "yes" || answer == "no") question.candidates = {answer, answer == "yes" ? "no" : "yes"};
  return question;
}

Question MusiqueQuestion(const Field& record) {
  Question question;
  question.question = record["question"].Text();
  question.answers = {record["answer"].Text()};
  if (record.Has("answer_aliases")) {
    for (const Field& alias : record["answer_aliases"].List()) question.answers.push_back(alias.Text());
  }
  const Field paragraphs = record["paragraphs"];
  for (const Field& paragraph : paragraphs.List()) {
    if (paragraph["is_supporting"].Bool()) question.gold.push_back(static_cast<int64_t>(question.documents.size()));
    question.documents.push_back({paragraph["title"].AnyText(), paragraph["paragraph_text"].Text()});
  }
  SomeOf(paragraphs, question.documents.size());
  if (record.Has("answerable") && !record["answerable"].Bool()) question.answers = UnknownAnswers();
  return question;
}

// nq, triviaqa.
Question RetrievedQuestion(Format format, const Field& record) {
  Question question;
  question.question = record["question"].Text();
  if (format == Format::kTriviaQa && record.Has("target")) question.answers = {record["target"].Text()};
  for (const Field& answer : record["answers"].List()) {
    std::string text = answer.Text();
    if (std::find(question.answers.begin(), question.answers.end(), text) == question.answers.end()) {
      question.answers.push_back(std::move(text));
    }
  }
  SomeOf(record["answers"], question.answers.size());
  const Field contexts = record["ctxs"];
  for (const Field& context : contexts.List()) {
    if (format == Format::kNaturalQuestions && context["isgold"].Bool()) {
      question.gold.push_back(static_cast<int64_t>(question.documents.size()));
    }
    question.documents.push_back({context["title"].AnyText(), context["text"].Text()});
  }
  SomeOf(contexts, question.documents.size());
  return question;
}

Summary OneDocument(const Field& record, absl::string_view member, absl::string_view instruction) {
  return {{{"", record[member].Text()}}, std::string(instruction), record["summary"].Text()};
}

Chat ChatOf(const Field& record) {
  using Role = Turn::Role;
  Chat chat;
  const bool messages = !record.Has("conversations");
  const Field turns = record[messages ? "messages" : "conversations"];
  // Daring-Anteater has one beside the turns, which is often empty.
  if (!messages && record.Has("system")) {
    std::string system = record["system"].AnyText();
    if (!absl::StripAsciiWhitespace(system).empty()) chat.turns.push_back({Role::kSystem, std::move(system)});
  }
  bool answered = false;
  for (const Field& turn : turns.List()) {
    const Field who = turn[messages ? "role" : "from"];
    const std::string role = absl::AsciiStrToLower(who.AnyText());
    Role is = Role::kUser;
    if (role == "system") {
      is = Role::kSystem;
    } else if (role == "assistant" || role == "gpt") {
      is = Role::kAssistant;
    } else if (role != "user" && role != "human") {
      who.Expect(absl::StrCat("the role system, user or assistant instead of '", role.substr(0, 40), "'"));
    }
    answered = answered || is == Role::kAssistant;
    chat.turns.push_back({is, turn[messages ? "content" : "value"].AnyText()});
  }
  if (!answered) turns.Expect("a turn of the assistant");
  return chat;
}

decltype(Example::task) TaskOf(Format format, const Field& record) {
  switch (format) {
    case Format::kHotpotQa:
    case Format::kTwoWiki:
      return HotpotQuestion(record);
    case Format::kMusique:
      return MusiqueQuestion(record);
    case Format::kNaturalQuestions:
    case Format::kTriviaQa:
      return RetrievedQuestion(format, record);
    case Format::kMultiNews: {
      const Field document = record["document"];
      Summary summary = MultiNewsSummary(document.Text(), record["summary"].Text());
      if (summary.documents.empty()) document.Expect("an article with text");
      return summary;
    }
    case Format::kSamsum:
      return OneDocument(record, "dialogue", kSummariseDialogue);
    case Format::kXsum:
      return OneDocument(record, "document", kSummariseArticle);
    case Format::kChat:
      return ChatOf(record);
    case Format::kText:
    case Format::kNeedle:
      break;
  }
  return Text{record["text"].Text()};
}

}  // namespace

Summary MultiNewsSummary(absl::string_view document, absl::string_view summary) {
  Summary result;
  result.instruction = std::string(kSummariseArticles);
  const std::string text = absl::StrReplaceAll(document, {{kNewLineInArticle, "\n"}});
  for (const absl::string_view article : absl::StrSplit(text, kArticleSeparator)) {
    const absl::string_view stripped = absl::StripAsciiWhitespace(article);
    if (!stripped.empty()) result.documents.push_back({"", std::string(stripped)});
  }
  result.summary = std::string(absl::StripAsciiWhitespace(summary));
  return result;
}

absl::StatusOr<Example> ParseExample(Format format, const std::string& record) {
  if (IsTooDeep(record)) {
    return absl::InvalidArgumentError(absl::StrCat("lists and objects are nested more than ", kMaxDepth, " deep"));
  }
  const nlohmann::json json = nlohmann::json::parse(record, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    ingest::JsonLine unused;  // that parser says at which byte
    KVLINK_RETURN_IF_ERROR(ingest::ParseJsonLine(record, &unused));
    return absl::InvalidArgumentError("not JSON");
  }
  std::string problem;
  const Field fields(json, &problem);
  if (!fields.IsObject()) fields.Expect("an object");
  Example example;
  if (problem.empty()) {
    for (const absl::string_view name : {"_id", "id"}) {
      if (fields.Has(name) && example.id.empty()) example.id = fields[name].TextOrNumber();
    }
    example.kind = std::string(FormatName(format));
    example.task = TaskOf(format, fields);
  }
  if (!problem.empty()) return absl::InvalidArgumentError(problem);
  return example;
}

}  // namespace kvlink::data
