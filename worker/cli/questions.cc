#include "worker/cli/questions.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/ingest/source/line_reader.h"

namespace kvlink::cli {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::vector<std::string>> ReadSpellings(absl::string_view name, const Json& answer) {
  const Json list = answer.is_array() ? answer : Json::array({answer});
  std::vector<std::string> spellings;
  for (const Json& spelling : list) {
    if (!spelling.is_string() || spelling.get<std::string>().empty()) {
      spellings.clear();
      break;
    }
    spellings.push_back(spelling.get<std::string>());
  }
  if (!spellings.empty()) return spellings;
  return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" must be a string or a list of accepted spellings"));
}

// "id" or {"id": "...", "parts": "2-5"}.
absl::StatusOr<encode::DocumentParts> ParseDocument(const Json& json) {
  if (json.is_string()) return encode::DocumentParts{.id = json.get<std::string>()};
  if (json.is_object() && json.contains("id") && json["id"].is_string()) {
    const std::string id = json["id"].get<std::string>();
    if (!json.contains("parts")) return encode::DocumentParts{.id = id};
    if (json["parts"].is_string()) return encode::ParsePartRange(id, json["parts"].get<std::string>());
  }
  return absl::InvalidArgumentError("\"documents\" must contain ids or {\"id\": \"...\", \"parts\": \"2-5\"}");
}

absl::StatusOr<Question> ParseQuestion(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  Question question;
  const auto text = json.find("question");
  if (text == json.end() || !text->is_string())
    return absl::InvalidArgumentError("\"question\" is missing or not a string");
  question.text = text->get<std::string>();
  const auto documents = json.find("documents");
  if (documents == json.end() || !documents->is_array()) {
    return absl::InvalidArgumentError("\"documents\" is missing or not an array");
  }
  for (const Json& document : *documents) {
    KVLINK_ASSIGN_OR_RETURN(encode::DocumentParts parts, ParseDocument(document));
    question.documents.push_back(std::move(parts));
  }
  for (const char* name : {"answers", "answer"}) {
    const auto answer = json.find(name);
    if (answer == json.end()) continue;
    KVLINK_ASSIGN_OR_RETURN(question.expected, ReadSpellings(name, *answer));
  }
  return question;
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path) {
  KVLINK_ASSIGN_OR_RETURN(auto stream, ingest::ByteStream::Open(path));
  ingest::LineReader lines(std::move(stream), int64_t{1} << 20);
  std::vector<Question> questions;
  while (true) {
    KVLINK_ASSIGN_OR_RETURN(const auto line, lines.Next());
    if (!line) break;
    if (absl::StripAsciiWhitespace(line->text).empty()) continue;
    auto question = ParseQuestion(line->text);
    KVLINK_RETURN_IF_ERROR(Annotate(question.status(), absl::StrCat(path, ":", line->number)));
    questions.push_back(*std::move(question));
  }
  if (questions.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": contains no questions"));
  return questions;
}

bool Holds(absl::string_view answer, const std::vector<std::string>& spellings) {
  const std::string lower = absl::AsciiStrToLower(answer);
  return std::any_of(spellings.begin(), spellings.end(), [&](const std::string& spelling) {
    return absl::StrContains(lower, absl::AsciiStrToLower(spelling));
  });
}

}  // namespace kvlink::cli
