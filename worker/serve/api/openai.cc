// The members, their defaults and the order of what is written are those of OpenAI's reference.
#include "worker/serve/api/openai.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/serve/api/answer_format.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve::openai {
namespace {

constexpr int64_t kMaxStop = 4;
constexpr double kMaxTemperature = 2;
constexpr int64_t kDefaultCompletionTokens = 16;
constexpr int64_t kMaxChoices = 8;
constexpr double kMaxPenalty = 2;
constexpr double kMinRepetition = 0.01, kMaxRepetition = 100;
constexpr double kMaxBias = 100;
constexpr int64_t kMaxBiased = 1024;
constexpr int64_t kMaxChatLogprobs = 20, kMaxCompletionLogprobs = 5;

// {"50256": -100}
std::map<int32_t, double> ReadBias(const Field& bias) {
  std::map<int32_t, double> read;
  if (!bias.given()) return read;
  const std::vector<std::pair<std::string, Field>> members = bias.Members("an object of token ids and numbers");
  if (static_cast<int64_t>(members.size()) > kMaxBiased) {
    bias.Refuse(absl::StrCat("has ", members.size(), " tokens; must have at most ", kMaxBiased));
    return read;
  }
  for (const auto& [name, value] : members) {
    int32_t token = 0;
    if (absl::SimpleAtoi(name, &token) && token >= 0 && absl::StrCat(token) == name) {
      read[token] = value.Number(-kMaxBias, kMaxBias);
    } else {
      bias.Refuse(absl::StrCat("has the member ", Quoted(name), ", which is no token id"));
    }
  }
  return read;
}

// What both kinds of request share.
void ReadShared(const Field& body, CompletionRequest& request) {
  ReadCommon(body, kMaxTemperature, request);
  request.stream_usage = request.stream && body["stream_options"]["include_usage"].FlagOr(false);
  request.stop = ReadStop(body["stop"], kMaxStop);
  request.choices = body["n"].IntegerOr(1, 1, kMaxChoices);
  request.presence_penalty = body["presence_penalty"].NumberOr(0, -kMaxPenalty, kMaxPenalty);
  request.frequency_penalty = body["frequency_penalty"].NumberOr(0, -kMaxPenalty, kMaxPenalty);
  request.repetition_penalty = body["repetition_penalty"].NumberOr(1, kMinRepetition, kMaxRepetition);
  request.logit_bias = ReadBias(body["logit_bias"]);
}

void ReadChatLogprobs(const Field& chat, CompletionRequest& request) {
  const Field top = chat["top_logprobs"];
  const int64_t count = top.IntegerOr(0, 0, kMaxChatLogprobs);
  if (chat["logprobs"].FlagOr(false)) {
    request.top_logprobs = count;
  } else if (count > 0) {
    top.Refuse("is given without \"logprobs\": true");
  }
}

OrderedJson UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

OrderedJson Bytes(absl::string_view bytes) {
  OrderedJson list = OrderedJson::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  return list;
}

// A token may be a part of a character.
std::string TextOf(const TokenLogprob& token) {
  std::string text;
  AppendLossyUtf8(token.bytes, /*final=*/true, text);
  return text;
}

OrderedJson ChatToken(const TokenLogprob& token) {
  return {{"token", TextOf(token)}, {"logprob", token.logprob}, {"bytes", Bytes(token.bytes)}};
}

OrderedJson ChatLogprobs(absl::Span<const AnswerToken> tokens) {
  OrderedJson content = OrderedJson::array();
  for (const AnswerToken& token : tokens) {
    OrderedJson entry = ChatToken(token.chosen), likeliest = OrderedJson::array();
    for (const TokenLogprob& one : token.likeliest) likeliest.push_back(ChatToken(one));
    entry["top_logprobs"] = std::move(likeliest);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

// The likeliest tokens always include the one that was chosen. Of tokens with one text, the likelier one counts.
OrderedJson CompletionLogprobs(absl::Span<const AnswerToken> tokens) {
  OrderedJson texts = OrderedJson::array(), logprobs = texts, likeliest = texts, offsets = texts;
  for (const AnswerToken& token : tokens) {
    OrderedJson of_place = OrderedJson::object();
    for (const TokenLogprob& one : token.likeliest) of_place.emplace(TextOf(one), one.logprob);
    of_place.emplace(TextOf(token.chosen), token.chosen.logprob);
    texts.push_back(TextOf(token.chosen));
    logprobs.push_back(token.chosen.logprob);
    likeliest.push_back(std::move(of_place));
    offsets.push_back(token.offset);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(likeliest)},
          {"text_offset", std::move(offsets)}};
}

OrderedJson Logprobs(Kind kind, const Answer& answer, absl::Span<const AnswerToken> tokens) {
  if (!answer.logprobs) return nullptr;
  return kind == Kind::kChat ? ChatLogprobs(tokens) : CompletionLogprobs(tokens);
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

struct Delta {
  OrderedJson chat = OrderedJson::object();
  absl::string_view text = {};  // of a completion
  OrderedJson logprobs = nullptr;
  OrderedJson finish = nullptr;  // or a string
};

OrderedJson Chunk(Kind kind, const Answer& answer, int64_t index, Delta delta) {
  OrderedJson choice = {{"index", index}};
  if (kind == Kind::kChat) {
    choice["delta"] = std::move(delta.chat);
  } else {
    choice["text"] = delta.text;
  }
  choice["logprobs"] = std::move(delta.logprobs);
  choice["finish_reason"] = std::move(delta.finish);
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
  request.format = ReadResponseFormat(chat, body);
  ReadChatLogprobs(chat, request);
  RefuseUnsupported(chat, {"tools", "functions", "audio", "web_search_options"});
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
  request.format = ReadResponseFormat(completion, body);
  RefuseUnsupported(completion, {"suffix", "echo"});
  if (const Field logprobs = completion["logprobs"]; logprobs.given() && !logprobs.Equals(false)) {
    request.top_logprobs = logprobs.Integer(0, kMaxCompletionLogprobs);
  }
  RefuseOther(completion["best_of"], request.choices);  // of more, it would be the best
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

std::string Response(Kind kind, const Answer& answer, absl::Span<const Choice> choices, const Usage& usage) {
  OrderedJson list = OrderedJson::array();
  for (const Choice& one : choices) {
    OrderedJson choice = {{"index", list.size()}};
    if (kind == Kind::kChat) {
      choice["message"] = {{"role", "assistant"}, {"content", one.answer.text}, {"refusal", nullptr}};
    } else {
      choice["text"] = one.answer.text;
    }
    choice["logprobs"] = Logprobs(kind, answer, one.answer.tokens);
    choice["finish_reason"] = Reason(one.finish);
    list.push_back(std::move(choice));
  }
  OrderedJson response = Head(kind == Kind::kChat ? "chat.completion" : "text_completion", answer, std::move(list));
  response["usage"] = UsageJson(usage);
  if (answer.report) response["kv"] = Report(usage);
  return Written(response);
}

std::string StreamBegin(Kind kind, const Answer& answer) {
  std::string begin;
  for (int64_t index = 0; kind == Kind::kChat && index < answer.choices; ++index) {
    begin += Event(Chunk(kind, answer, index, {.chat = {{"role", "assistant"}, {"content", ""}}}));
  }
  return begin;
}

std::string StreamPiece(Kind kind, const Answer& answer, int64_t index, const AnswerPiece& piece) {
  return Event(
      Chunk(kind, answer, index,
            {.chat = {{"content", piece.text}}, .text = piece.text, .logprobs = Logprobs(kind, answer, piece.tokens)}));
}

std::string StreamFinish(Kind kind, const Answer& answer, int64_t index, Finish finish) {
  return Event(Chunk(kind, answer, index, {.finish = Reason(finish)}));
}

std::string StreamEnd(Kind kind, const Answer& answer, int64_t index, Finish finish, const Usage& usage) {
  OrderedJson last = Chunk(kind, answer, index, {.finish = Reason(finish)});
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
