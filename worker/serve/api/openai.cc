// The members, their defaults and the order of what is written are those of OpenAI's reference.
#include "worker/serve/api/openai.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve::openai {
namespace {

constexpr int64_t kMaxStop = 4;
constexpr double kMaxTemperature = 2;
constexpr int64_t kDefaultCompletionTokens = 16;

// What both kinds of request share.
void ReadShared(const Field& body, CompletionRequest& request) {
  ReadCommon(body, kMaxTemperature, request);
  request.stream_usage = request.stream && body["stream_options"]["include_usage"].FlagOr(false);
  request.stop = ReadStop(body["stop"], kMaxStop);
  RefuseOther(body["n"], 1);
  RefuseOther(body["repetition_penalty"], 1);
  RefuseOther(body["response_format"], {{"type", "text"}});
  RefuseUnsupported(body, {"logit_bias", "presence_penalty", "frequency_penalty"});
}

OrderedJson UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

absl::string_view Reason(Finish finish) { return finish == Finish::kLength ? "length" : "stop"; }

// A response, or a chunk of one, with these choices.
OrderedJson Head(absl::string_view object, const Answer& answer, OrderedJson choices) {
  return {{"id", answer.id},
          {"object", object},
          {"created", answer.created},
          {"model", answer.model},
          {"system_fingerprint", nullptr},
          {"choices", std::move(choices)}};
}

absl::string_view ChunkObject(Kind kind) { return kind == Kind::kChat ? "chat.completion.chunk" : "text_completion"; }

std::string Event(const OrderedJson& json) { return ServerSentEvent("", json); }

// `delta`: of a chat; `text`: of a completion. `finish`: a string or null.
OrderedJson Chunk(Kind kind, const Answer& answer, OrderedJson delta, absl::string_view text, OrderedJson finish) {
  OrderedJson choice = {{"index", 0}};
  if (kind == Kind::kChat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = std::move(finish);
  OrderedJson chunk = Head(ChunkObject(kind), answer, OrderedJson::array({std::move(choice)}));
  if (answer.stream_usage) chunk["usage"] = nullptr;  // all chunks have it, the last but one alone says something
  return chunk;
}

OrderedJson ModelJson(const Model& model) {
  return {{"id", model.id}, {"object", "model"}, {"created", model.created}, {"owned_by", "kvlink"}};
}

OrderedJson ErrorJson(const absl::Status& status) {
  const ErrorKind kind = KindOf(status);
  OrderedJson error = {
      {"message", status.message()}, {"type", kind.openai_type}, {"param", nullptr}, {"code", nullptr}};
  if (const std::string parameter = ParameterOf(status); !parameter.empty()) error["param"] = parameter;
  if (!kind.openai_code.empty()) error["code"] = kind.openai_code;
  return {{"error", std::move(error)}};
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseChat(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field chat(json, &error);
  CompletionRequest request;
  ReadShared(chat, request);
  RefuseUnsupported(chat, {"tools", "functions", "logprobs", "top_logprobs", "audio", "web_search_options"});
  RefuseOther(chat["tool_choice"], "none");
  RefuseOther(chat["function_call"], "none");
  RefuseOther(chat["modalities"], Json::array({"text"}));
  const Field newer = chat["max_completion_tokens"], older = chat["max_tokens"];
  if (newer.given() && older.given()) older.Refuse("is given beside max_completion_tokens, which replaces it");
  if (newer.given()) request.max_tokens = newer.Integer(1, kMaxTokens);
  if (older.given()) request.max_tokens = older.Integer(1, kMaxTokens);
  const Field messages = chat["messages"];
  std::vector<Turn> turns;
  for (const Field& entry : messages.List()) turns.push_back(ReadTurn(entry, {"text"}));
  SetMessages(messages, std::move(turns), request);
  KVLINK_RETURN_IF_ERROR(error);
  return request;
}

absl::StatusOr<CompletionRequest> ParseCompletion(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field completion(json, &error);
  CompletionRequest request;
  ReadShared(completion, request);
  RefuseUnsupported(completion, {"suffix", "echo"});
  RefuseOther(completion["logprobs"], false);  // 0 asks for those of the tokens chosen
  RefuseOther(completion["best_of"], 1);
  request.default_max_tokens = !completion["max_tokens"].given();
  request.max_tokens = completion["max_tokens"].IntegerOr(kDefaultCompletionTokens, 1, kMaxTokens);
  const Field prompt = completion["prompt"];
  if (prompt.is_list()) {
    const std::vector<Field> prompts = prompt.List();
    if (prompts.size() != 1 || !prompts[0].is_text()) prompt.Refuse("must be one string; lists are not supported");
    if (prompts.size() == 1) request.prompt = prompts[0].NonEmptyText();
  } else {
    request.prompt = prompt.NonEmptyText();
  }
  KVLINK_RETURN_IF_ERROR(error);
  return request;
}

std::string Response(Kind kind, const Answer& answer, absl::string_view text, Finish finish, const Usage& usage) {
  OrderedJson choice = {{"index", 0}};
  if (kind == Kind::kChat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = Reason(finish);
  OrderedJson response = Head(kind == Kind::kChat ? "chat.completion" : "text_completion", answer,
                              OrderedJson::array({std::move(choice)}));
  response["usage"] = UsageJson(usage);
  if (answer.report) response["kv"] = Report(usage);
  return Written(response);
}

std::string StreamBegin(Kind kind, const Answer& answer) {
  if (kind == Kind::kCompletion) return "";
  return Event(Chunk(kind, answer, {{"role", "assistant"}, {"content", ""}}, "", nullptr));
}

std::string StreamText(Kind kind, const Answer& answer, absl::string_view text) {
  return Event(Chunk(kind, answer, {{"content", text}}, text, nullptr));
}

std::string StreamEnd(Kind kind, const Answer& answer, Finish finish, const Usage& usage) {
  OrderedJson last = Chunk(kind, answer, OrderedJson::object(), "", Reason(finish));
  if (answer.report) last["kv"] = Report(usage);
  std::string end = Event(last);
  if (answer.stream_usage) {
    OrderedJson chunk = Head(ChunkObject(kind), answer, OrderedJson::array());
    chunk["usage"] = UsageJson(usage);
    absl::StrAppend(&end, Event(chunk));
  }
  return absl::StrCat(end, "data: [DONE]\n\n");
}

std::string StreamError(const absl::Status& status) { return Event(ErrorJson(status)); }

std::string ModelList(absl::Span<const Model> models) {
  OrderedJson data = OrderedJson::array();
  for (const Model& model : models) data.push_back(ModelJson(model));
  return Written({{"object", "list"}, {"data", std::move(data)}});
}

std::string ModelEntry(const Model& model) { return Written(ModelJson(model)); }

int HttpStatus(const absl::Status& status) { return KindOf(status).http_status; }

std::string ErrorBody(const absl::Status& status) { return Written(ErrorJson(status)); }

}  // namespace kvlink::serve::openai
