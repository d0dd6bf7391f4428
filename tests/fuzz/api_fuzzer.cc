// Bodies of requests to kvlink serve. The first byte says which API: 'h' a chat, 'c' a completion, 'r' a response, else
// Anthropic's messages. Whatever is accepted is as request.h promises, and errors and answers are JSON whatever the
// bytes.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/utf8.h"
#include "worker/serve/api/anthropic.h"
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

void CheckRequest(const CompletionRequest& request) {
  Check(IsText(request.model) && request.messages.empty() == request.prompt.has_value());
  Check(!request.prompt.has_value() || IsText(*request.prompt));
  for (const Message& message : request.messages) {
    Check(IsText(message.text));
    Check(message.role == "user" || message.role == "assistant" ||
          (message.role == "system" && &message == &request.messages.front()));
  }
  Check(request.messages.empty() || request.messages.back().role == "user");
  Check(static_cast<int64_t>(request.documents.size()) <= kMaxDocuments);
  for (const DocumentReference& document : request.documents) {
    Check(document.id.empty() ? IsText(document.text) && document.parts.empty()
                              : IsText(document.id) && document.text.empty() && document.title.empty());
  }
  Check(request.max_tokens >= 0 && request.top_k >= 0 && request.temperature >= 0 && request.temperature <= 2);
  Check(request.top_p >= 0 && request.top_p <= 1 && request.min_p >= 0 && request.min_p <= 1);
  Check(request.stop.size() <= 16 && request.kv.deadline_ms.value_or(1) > 0);
  for (const std::string& stop : request.stop) Check(IsText(stop));
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
  const auto request = data[0] == 'h'   ? openai::ParseChat(body)
                       : data[0] == 'c' ? openai::ParseCompletion(body)
                       : data[0] == 'r' ? responses::Parse(body)
                                        : anthropic::ParseMessages(body);
  if (request.ok()) {
    CheckRequest(*request);
  } else {
    const int status = openai::HttpStatus(request.status());
    Check(status == 400 || status == 413);
    Check(request.status().message().size() <= 512);
    CheckJson(openai::ErrorBody(request.status()));
    CheckJson(anthropic::ErrorBody(request.status()));
  }
  const Answer answer = {.id = "id", .model = request.ok() ? request->model : "m"};
  CheckJson(openai::StreamText(openai::Kind::kChat, answer, body));
  CheckJson(anthropic::StreamText(body));
  CheckJson(anthropic::Response(answer, body, Finish::kStopString, body.substr(0, 16), {}));
  CheckJson(responses::Response(answer, body, Finish::kStop, {}));
  return 0;
}
