// The members and the order of events are those of OpenAI's reference. An answer is one item, a message with one part.
#include "worker/serve/api/responses.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "worker/serve/api/answer_format.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve::responses {
namespace {

constexpr double kMaxTemperature = 2;

std::string ItemId(const Answer& answer) { return absl::StrCat("msg_", absl::StripPrefix(answer.id, "resp_")); }

OrderedJson Part(absl::string_view text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", OrderedJson::array()}};
}

OrderedJson Item(const Answer& answer, absl::string_view status, OrderedJson content) {
  return {{"id", ItemId(answer)},
          {"type", "message"},
          {"status", status},
          {"role", "assistant"},
          {"content", std::move(content)}};
}

OrderedJson InProgress(const Answer& answer) {
  return {{"id", answer.id},
          {"object", "response"},
          {"created_at", answer.created},
          {"status", "in_progress"},
          {"error", nullptr},
          {"incomplete_details", nullptr},
          {"instructions", nullptr},
          {"model", answer.model},
          {"output", OrderedJson::array()},
          {"parallel_tool_calls", false},
          {"tool_choice", "none"},
          {"tools", OrderedJson::array()},
          {"usage", nullptr}};
}

absl::string_view State(Finish finish) { return finish == Finish::kLength ? "incomplete" : "completed"; }

OrderedJson FinalItem(const Answer& answer, absl::string_view text, Finish finish) {
  return Item(answer, State(finish), OrderedJson::array({Part(text)}));
}

OrderedJson Final(const Answer& answer, absl::string_view text, Finish finish, const Usage& usage) {
  OrderedJson response = InProgress(answer);
  response["status"] = State(finish);
  if (finish == Finish::kLength) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
  response["output"].push_back(FinalItem(answer, text, finish));
  response["usage"] = {{"input_tokens", usage.prompt_tokens},
                       {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
                       {"output_tokens", usage.completion_tokens},
                       {"output_tokens_details", {{"reasoning_tokens", 0}}},
                       {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
  if (answer.report) response["kv"] = Report(usage);
  return response;
}

// What an event of the answer's only part says.
OrderedJson OfPart(const Answer& answer, absl::string_view member, OrderedJson value) {
  return {{"item_id", ItemId(answer)}, {"output_index", 0}, {"content_index", 0}, {member, std::move(value)}};
}

// `sequence`: its number; becomes the next one's.
std::string Event(absl::string_view type, const OrderedJson& members, int64_t& sequence) {
  OrderedJson data = {{"type", type}, {"sequence_number", sequence++}};
  data.update(members);
  return ServerSentEvent(type, data);
}

}  // namespace

absl::StatusOr<CompletionRequest> Parse(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field root(json, &error);
  CompletionRequest request;
  ReadCommon(root, kMaxTemperature, request);
  request.stream_usage = request.stream;
  RefuseUnsupported(
      root, {"tools", "previous_response_id", "conversation", "prompt", "background", "include", "top_logprobs"});
  RefuseOther(root["tool_choice"], "none");
  request.format = ReadFormatAt({"text", "format"}, root, body);
  request.max_tokens = root["max_output_tokens"].IntegerOr(0, 1, kMaxTokens);
  std::vector<Turn> turns;
  const Field instructions = root["instructions"], input = root["input"];
  if (std::string text = instructions.TextOr(""); !text.empty()) {
    turns.push_back({instructions, {"system", std::move(text)}});
  }
  if (input.is_text()) {
    turns.push_back({input, {"user", input.Text()}});
  } else {
    for (const Field& entry : input.List("a string or a list of messages")) {
      RefuseOther(entry["type"], "message");
      turns.push_back(ReadTurn(entry, {"input_text", "output_text"}));
    }
  }
  SetMessages(input, std::move(turns), request);
  KVLINK_RETURN_IF_ERROR(error);
  return request;
}

std::string Response(const Answer& answer, absl::string_view text, Finish finish, const Usage& usage) {
  return Written(Final(answer, text, finish, usage));
}

std::string Stream::Begin() {
  const OrderedJson response = InProgress(answer_), item = Item(answer_, "in_progress", OrderedJson::array());
  std::string events = Event("response.created", {{"response", response}}, sequence_);
  events += Event("response.in_progress", {{"response", response}}, sequence_);
  events += Event("response.output_item.added", {{"output_index", 0}, {"item", item}}, sequence_);
  events += Event("response.content_part.added", OfPart(answer_, "part", Part("")), sequence_);
  return events;
}

std::string Stream::Text(absl::string_view text) {
  absl::StrAppend(&text_, text);
  return Event("response.output_text.delta", OfPart(answer_, "delta", text), sequence_);
}

std::string Stream::End(Finish finish, const Usage& usage) {
  const OrderedJson item = FinalItem(answer_, text_, finish), response = Final(answer_, text_, finish, usage);
  std::string events = Event("response.output_text.done", OfPart(answer_, "text", text_), sequence_);
  events += Event("response.content_part.done", OfPart(answer_, "part", Part(text_)), sequence_);
  events += Event("response.output_item.done", {{"output_index", 0}, {"item", item}}, sequence_);
  events += Event(absl::StrCat("response.", State(finish)), {{"response", response}}, sequence_);
  return events;
}

std::string Stream::Error(const absl::Status& status) {
  const absl::string_view code = KindOf(status).openai_code;
  const OrderedJson name = code.empty() ? OrderedJson() : OrderedJson(code);
  return Event("error", {{"code", name}, {"message", status.message()}, {"param", nullptr}}, sequence_);
}

}  // namespace kvlink::serve::responses
