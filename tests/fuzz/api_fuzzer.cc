// Bodies of requests to kvlink serve. The first byte says which API: 'h' a chat, 'c' a completion, 'r' a response; 'b',
// 'p', 'i' lists of documents; else Anthropic's messages. Whatever is accepted is as request.h promises, and errors and
// answers are JSON whatever the bytes.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "worker/serve/api/anthropic.h"
#include "worker/serve/api/documents.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"
#include "worker/serve/api/openai.h"
#include "worker/serve/api/responses.h"

namespace {

using namespace kvlink::serve;

void Check(bool right) {
  if (!right) std::abort();
}

bool IsText(const std::string& text) { return !text.empty() && kvlink::ValidUtf8Prefix(text) == text.size(); }

void CheckReferences(const std::vector<DocumentReference>& documents) {
  Check(static_cast<int64_t>(documents.size()) <= kMaxDocuments);
  for (const DocumentReference& document : documents) {
    Check(document.id.empty() ? IsText(document.text) && document.parts.empty()
                              : IsText(document.id) && document.text.empty() && document.title.empty());
  }
}

void CheckRequest(const CompletionRequest& request) {
  Check(IsText(request.model) && request.messages.empty() == request.prompt.has_value());
  Check(!request.prompt.has_value() || IsText(*request.prompt));
  for (const Message& message : request.messages) {
    Check(IsText(message.text));
    Check(message.role == "user" || message.role == "assistant" ||
          (message.role == "system" && &message == &request.messages.front()));
  }
  Check(request.messages.empty() || request.messages.back().role == "user");
  CheckReferences(request.documents);
  Check(request.max_tokens >= 0 && request.top_k >= 0 && request.temperature >= 0 && request.temperature <= 2);
  Check(request.top_p >= 0 && request.top_p <= 1 && request.min_p >= 0 && request.min_p <= 1);
  Check(request.choices >= 1 && request.choices <= 8 && request.top_logprobs.value_or(0) >= 0 &&
        request.top_logprobs.value_or(0) <= 20);
  Check(std::abs(request.presence_penalty) <= 2 && std::abs(request.frequency_penalty) <= 2 &&
        request.repetition_penalty > 0 && request.logit_bias.size() <= 1024);
  for (const auto& [token, bias] : request.logit_bias) Check(token >= 0 && std::abs(bias) <= 100);
  Check(request.stop.size() <= 16 && request.kv.deadline_ms.value_or(1) > 0);
  for (const std::string& stop : request.stop) Check(IsText(stop));
}

void CheckError(const absl::Status& status) {
  const int code = openai::HttpStatus(status);
  Check(code == 400 || code == 413);
  Check(status.message().size() <= 512);
}

// Lists of documents.
void CheckList(char kind, absl::string_view body) {
  if (kind == 'b') {
    const auto changes = ParseBatch(body);
    if (!changes.ok()) return CheckError(changes.status());
    Check(!changes->empty() && static_cast<int64_t>(changes->size()) <= kMaxDocuments);
    for (const DocumentChange& change : *changes) {
      Check(IsText(change.id) && (!change.deletes || (change.text.empty() && change.title.empty())));
    }
  } else if (kind == 'p') {
    const auto request = ParsePrefetch(body);
    if (!request.ok()) return CheckError(request.status());
    CheckReferences(request->documents);
  } else {
    const auto ids = ParseDocumentIds(body);
    if (!ids.ok()) return CheckError(ids.status());
    for (const std::string& id : *ids) Check(IsText(id));
  }
}

// Of an event, its data.
void CheckJson(absl::string_view json) {
  json = json.substr(json.find('{'));
  Check(ParseObject(json.substr(0, json.find('\n'))).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'b' || data[0] == 'p' || data[0] == 'i') CheckList(static_cast<char>(data[0]), body);
  const auto request = data[0] == 'h'   ? openai::ParseChat(body)
                       : data[0] == 'c' ? openai::ParseCompletion(body)
                       : data[0] == 'r' ? responses::Parse(body)
                                        : anthropic::ParseMessages(body);
  if (request.ok()) {
    CheckRequest(*request);
  } else {
    CheckError(request.status());
    CheckJson(openai::ErrorBody(request.status()));
    CheckJson(anthropic::ErrorBody(request.status()));
  }
  const Answer answer = {.id = "id", .model = request.ok() ? request->model : "m", .logprobs = true};
  const std::string text(body);
  const AnswerPiece piece = {text, {{{text, -1}, {{text.substr(0, 3), -1}, {text, -2}}, 0}}};
  CheckJson(openai::StreamPiece(openai::Kind::kChat, answer, 0, piece));
  CheckJson(openai::StreamPiece(openai::Kind::kCompletion, answer, 0, piece));
  CheckJson(anthropic::StreamText(body));
  CheckJson(anthropic::Response(answer, body, Finish::kStopString, body.substr(0, 16), {}));
  CheckJson(responses::Response(answer, body, Finish::kStop, {}));
  return 0;
}
