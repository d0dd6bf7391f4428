// What KVLink does not do is refused by name and not ignored, since the answer would not be the one that was asked for.
// Members that do not change the answer (user, metadata, service_tier) are never looked at.
#include "worker/serve/api/members.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvlink::serve {
namespace {

constexpr int64_t kMaxDeadlineMs = int64_t{24} * 60 * 60 * 1000;

KvOptions ReadKv(const Field& kv) {
  KvOptions options;
  kv.RefuseOthers({"on_miss", "store", "linker", "deadline_ms", "report"});
  const Field on_miss = kv["on_miss"];
  const std::string action = on_miss.TextOr("compute");
  if (action == "fail") {
    options.on_miss = KvOptions::OnMiss::kFail;
  } else if (action == "text") {
    options.on_miss = KvOptions::OnMiss::kText;
  } else if (action != "compute") {
    on_miss.Refuse(absl::StrCat("is ", Quoted(action), "; must be \"compute\", \"text\" or \"fail\""));
  }
  options.store = kv["store"].FlagOr(options.store);
  options.linker = kv["linker"].TextOr("", kMaxNameBytes);
  if (const Field deadline = kv["deadline_ms"]; deadline.given()) {
    options.deadline_ms = deadline.Integer(1, kMaxDeadlineMs);
  }
  options.report = kv["report"].FlagOr(options.report);
  return options;
}

}  // namespace

void ReadCommon(const Field& body, double max_temperature, CompletionRequest& request) {
  request.model = body["model"].NonEmptyText(kMaxNameBytes);
  request.temperature = body["temperature"].NumberOr(1, 0, max_temperature);
  request.top_p = body["top_p"].NumberOr(1, 0, 1);
  request.min_p = body["min_p"].NumberOr(0, 0, 1);
  request.top_k = std::max<int64_t>(body["top_k"].IntegerOr(0, -1, INT32_MAX), 0);  // -1: all, as vLLM's clients say
  if (const Field seed = body["seed"]; seed.given()) request.seed = seed.Integer(INT64_MIN, INT64_MAX);
  request.stream = body["stream"].FlagOr(false);
  if (const Field documents = body["documents"]; documents.given()) {
    for (const Field& entry : documents.List("a list of objects")) AddDocument(entry, ReadReference(entry), request);
  }
  request.kv = ReadKv(body["kv"]);
  request.cache_salt = ReadSalt(body["cache_salt"]);
}

DocumentReference ReadReference(const Field& entry) {
  DocumentReference document;
  const Field id = entry["id"], parts = entry["parts"], title = entry["title"], text = entry["text"];
  if (!entry.is_object() || id.given() == text.given()) {
    entry.Refuse(R"(must be either {"id": "..."} of a stored document or {"title": "...", "text": "..."})");
  } else if (id.given()) {
    document.id = id.NonEmptyText(kMaxNameBytes);
    document.parts = parts.TextOr("", kMaxNameBytes);
    if (parts.given() && document.parts.empty()) parts.Refuse("must not be empty");
    if (title.given()) title.Refuse("belongs to a text; a stored document has its own");
  } else {
    document.title = title.TextOr("", kMaxTitleBytes);
    document.text = text.NonEmptyText();
    if (parts.given()) parts.Refuse("belongs to the id of a stored document");
  }
  return document;
}

std::string ReadSalt(const Field& salt) { return salt.given() ? salt.NonEmptyText(kMaxSaltBytes) : ""; }

void AddDocument(const Field& field, DocumentReference document, CompletionRequest& request) {
  if (static_cast<int64_t>(request.documents.size()) < kMaxDocuments) {
    request.documents.push_back(std::move(document));
  } else {
    field.Refuse(absl::StrCat("is one document too many; a request may have ", kMaxDocuments));
  }
}

std::string ReadText(const Field& content, absl::Span<const absl::string_view> types) {
  if (content.is_text()) return content.Text();
  std::vector<std::string> texts;
  for (const Field& part : content.List("a string or a list of parts")) {
    const Field type = part["type"];
    const std::string name = type.Text();
    if (std::find(types.begin(), types.end(), name) == types.end()) {
      type.Refuse(
          absl::StrCat(Quoted(name), " is not supported here; must be \"", absl::StrJoin(types, "\" or \""), "\""));
    }
    texts.push_back(part["text"].Text());
  }
  return absl::StrJoin(texts, "\n");
}

std::vector<std::string> ReadStop(const Field& stop, int64_t max) {
  if (!stop.given()) return {};
  if (stop.is_text()) return {stop.NonEmptyText(kMaxNameBytes)};
  const std::vector<Field> entries = stop.List("a string or a list of strings");
  std::vector<std::string> strings;
  if (static_cast<int64_t>(entries.size()) > max) {
    stop.Refuse(absl::StrCat("has ", entries.size(), " strings; must have at most ", max));
    return strings;
  }
  for (const Field& entry : entries) strings.push_back(entry.NonEmptyText(kMaxNameBytes));
  return strings;
}

Turn ReadTurn(const Field& entry, absl::Span<const absl::string_view> types) {
  Turn turn = {entry, {}};
  const Field role = entry["role"];
  turn.message.role = role.Text();
  if (turn.message.role == "developer") turn.message.role = "system";
  if (turn.message.role != "system" && turn.message.role != "user" && turn.message.role != "assistant") {
    role.Refuse(absl::StrCat(Quoted(turn.message.role),
                             " is not supported; must be \"system\", \"developer\", \"user\" or \"assistant\""));
  }
  RefuseUnsupported(entry, {"tool_calls", "function_call", "audio"});
  turn.message.text = ReadText(entry["content"], types);
  return turn;
}

void SetMessages(const Field& list, std::vector<Turn> turns, CompletionRequest& request) {
  if (turns.empty()) return list.Refuse("must not be empty");
  for (Turn& turn : turns) {
    Message& message = turn.message;
    if (absl::StripAsciiWhitespace(message.text).empty()) return turn.field.Refuse("has no text");
    const bool system = message.role == "system";
    if (!system || request.messages.empty()) {
      request.messages.push_back(std::move(message));
    } else if (Message& first = request.messages.back(); first.role == "system") {
      absl::StrAppend(&first.text, "\n\n", message.text);
    } else {
      return turn.field.Refuse("the role \"system\" may only come first");
    }
  }
  if (request.messages.back().role == "user") return;
  turns.back().field.Refuse("the last message must be the user's; continuing an answer that is begun is not supported");
}

void RefuseUnsupported(const Field& body, absl::Span<const absl::string_view> names) {
  for (const absl::string_view name : names) {
    if (const Field field = body[name]; !field.is_neutral()) field.Refuse("is not supported by this server");
  }
}

void RefuseOther(const Field& field, const Json& only) {
  if (field.given() && !field.Equals(only)) {
    field.Refuse(absl::StrCat("is not supported by this server, except ", only.dump()));
  }
}

OrderedJson Report(const Usage& usage) {
  return {{"documents",
           {{"resident", usage.resident},
            {"host", usage.host},
            {"dram", usage.dram},
            {"disk", usage.disk},
            {"encoded", usage.encoded},
            {"text", usage.text}}},
          {"first_token_ms", usage.first_token_ms}};
}

}  // namespace kvlink::serve
