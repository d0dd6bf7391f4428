// The members, their defaults and the order of what is written are those of Anthropic's reference. `cache_control` is
// accepted wherever it may stand and needs nothing: every document is kept.
#include "worker/serve/api/anthropic.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/serve/api/answer_format.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve::anthropic {
namespace {

constexpr int64_t kMaxStop = 16;
constexpr double kMaxTemperature = 1;

// A block of the type "document": {"source": {"type": "text", "data"}} or {"source": {"type": "content", "content"}}.
DocumentReference ReadDocument(const Field& block) {
  DocumentReference document;
  document.title = block["title"].TextOr("", kMaxTitleBytes);
  const Field source = block["source"], type = source["type"];
  const std::string name = type.Text();
  if (name == "text") {
    if (const Field media = source["media_type"]; media.given() && !media.Equals("text/plain")) {
      media.Refuse("must be \"text/plain\"");
    }
    document.text = source["data"].NonEmptyText();
  } else if (name == "content") {
    document.text = ReadText(source["content"], {"text"});
    if (document.text.empty()) source["content"].Refuse("has no text");
  } else {
    type.Refuse(absl::StrCat(Quoted(name), " is not supported; must be \"text\" or \"content\""));
  }
  RefuseUnsupported(block, {"context"});
  if (block["citations"]["enabled"].FlagOr(false)) block["citations"].Refuse("are not supported by this server");
  return document;
}

// The text of a message; its documents are added to the request.
std::string ReadContent(const Field& content, bool user, CompletionRequest& request) {
  if (!content.is_list()) return ReadText(content, {});
  std::string text;
  for (const Field& block : content.List()) {
    const Field type = block["type"];
    if (user && type.Equals("document")) {
      AddDocument(block, ReadDocument(block), request);
      continue;
    }
    if (!type.Equals("text")) {
      type.Refuse(
          absl::StrCat(Quoted(type.Text()), " is not supported; must be \"text\"", user ? " or \"document\"" : ""));
    }
    absl::StrAppend(&text, text.empty() ? "" : "\n", block["text"].Text());
  }
  return text;
}

std::vector<Turn> ReadTurns(const Field& messages, CompletionRequest& request) {
  std::vector<Turn> turns;
  for (const Field& entry : messages.List()) {
    const Field role = entry["role"];
    const std::string name = role.Text();
    if (name == "system") {
      role.Refuse("\"system\" is no role; give the text as the member \"system\" of the request");
    } else if (name != "user" && name != "assistant") {
      role.Refuse(absl::StrCat(Quoted(name), " is not supported; must be \"user\" or \"assistant\""));
    }
    const size_t documents = request.documents.size();
    std::string text = ReadContent(entry["content"], name == "user", request);
    if (text.empty() && request.documents.size() == documents) entry.Refuse("has no text");
    if (turns.empty() || turns.back().message.role != name) {
      turns.push_back({entry, {name, std::move(text)}});
    } else {
      std::string& before = turns.back().message.text;
      absl::StrAppend(&before, before.empty() || text.empty() ? "" : "\n", text);
    }
  }
  return turns;
}

// What is read from encodings or stored as such is counted apart from the rest.
OrderedJson UsageJson(const Usage& usage) {
  return {{"input_tokens", std::max<int64_t>(usage.prompt_tokens - usage.cached_tokens - usage.stored_tokens, 0)},
          {"cache_creation_input_tokens", usage.stored_tokens},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.completion_tokens}};
}

struct Stop {
  OrderedJson reason;
  OrderedJson sequence;
};
Stop StopJson(Finish finish, absl::string_view stop) {
  switch (finish) {
    case Finish::kLength:
      return {"max_tokens", nullptr};
    case Finish::kStopString:
      return {"stop_sequence", stop};
    case Finish::kStop:
      break;
  }
  return {"end_turn", nullptr};
}

OrderedJson MessageJson(const Answer& answer, OrderedJson content, Stop stop, const Usage& usage) {
  return {{"id", answer.id},
          {"type", "message"},
          {"role", "assistant"},
          {"model", answer.model},
          {"content", std::move(content)},
          {"stop_reason", std::move(stop.reason)},
          {"stop_sequence", std::move(stop.sequence)},
          {"usage", UsageJson(usage)}};
}

OrderedJson TextBlock(absl::string_view text) { return {{"type", "text"}, {"text", text}}; }

// The name of an event is its type.
std::string Event(absl::string_view type, OrderedJson members = OrderedJson::object()) {
  OrderedJson data = {{"type", type}};
  data.update(members);
  return ServerSentEvent(type, data);
}

OrderedJson ErrorJson(const absl::Status& status) {
  return {{"type", KindOf(status).anthropic_type}, {"message", status.message()}};
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseMessages(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field root(json, &error);
  CompletionRequest request;
  ReadCommon(root, kMaxTemperature, request);
  request.stream_usage = request.stream;
  request.max_tokens = root["max_tokens"].Integer(1, kMaxTokens);
  request.stop = ReadStop(root["stop_sequences"], kMaxStop);
  RefuseUnsupported(root, {"tools", "mcp_servers", "container"});
  // The second is the older name.
  const bool older = root["output_format"].given();
  request.format =
      older ? ReadFormatAt({"output_format"}, root, body) : ReadFormatAt({"output_config", "format"}, root, body);
  RefuseOther(root["tool_choice"], {{"type", "none"}});
  RefuseOther(root["thinking"], {{"type", "disabled"}});
  const Field system = root["system"], messages = root["messages"];
  std::vector<Turn> turns = ReadTurns(messages, request);
  if (system.given()) {
    std::string text = ReadText(system, {"text"});
    // Clients send an empty one for none.
    if (!text.empty()) turns.insert(turns.begin(), {system, {"system", std::move(text)}});
  }
  SetMessages(messages, std::move(turns), request);
  KVLINK_RETURN_IF_ERROR(error);
  return request;
}

std::string Response(const Answer& answer, absl::string_view text, Finish finish, absl::string_view stop,
                     const Usage& usage) {
  OrderedJson message = MessageJson(answer, OrderedJson::array({TextBlock(text)}), StopJson(finish, stop), usage);
  if (answer.report) message["kv"] = Report(usage);
  return Written(message);
}

std::string StreamBegin(const Answer& answer, const Usage& usage) {
  const OrderedJson message = MessageJson(answer, OrderedJson::array(), {nullptr, nullptr}, usage);
  return absl::StrCat(Event("message_start", {{"message", message}}),
                      Event("content_block_start", {{"index", 0}, {"content_block", TextBlock("")}}), Event("ping"));
}

std::string StreamText(absl::string_view text) {
  return Event("content_block_delta", {{"index", 0}, {"delta", {{"type", "text_delta"}, {"text", text}}}});
}

std::string StreamEnd(const Answer& answer, Finish finish, absl::string_view stop, const Usage& usage) {
  Stop ended = StopJson(finish, stop);
  OrderedJson members = {
      {"delta", {{"stop_reason", std::move(ended.reason)}, {"stop_sequence", std::move(ended.sequence)}}},
      {"usage", UsageJson(usage)}};
  if (answer.report) members["kv"] = Report(usage);
  return absl::StrCat(Event("content_block_stop", {{"index", 0}}), Event("message_delta", std::move(members)),
                      Event("message_stop"));
}

std::string StreamError(const absl::Status& status) { return Event("error", {{"error", ErrorJson(status)}}); }

int HttpStatus(const absl::Status& status) { return KindOf(status).anthropic_http_status; }

std::string ErrorBody(const absl::Status& status) { return Written({{"type", "error"}, {"error", ErrorJson(status)}}); }

}  // namespace kvlink::serve::anthropic
