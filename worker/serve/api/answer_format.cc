// The parsed body has its members sorted; what a schema says in its own order is cut out of the text.
#include "worker/serve/api/answer_format.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve {
namespace {

// The end of the string that begins at `at`, of JSON that is right.
size_t StringEnd(absl::string_view json, size_t at) {
  for (++at; at < json.size() && json[at] != '"'; ++at) {
    if (json[at] == '\\') ++at;
  }
  return std::min(at + 1, json.size());
}

size_t ValueEnd(absl::string_view json, size_t at) {
  int depth = 0;
  while (at < json.size()) {
    const char c = json[at];
    if (c == '"') {
      at = StringEnd(json, at);
      if (depth == 0) return at;
      continue;
    }
    if (depth == 0 && absl::string_view(",]} \t\r\n").find(c) != absl::string_view::npos) return at;
    ++at;
    if (c == '{' || c == '[') ++depth;
    if ((c == '}' || c == ']') && --depth == 0) return at;
  }
  return at;
}

size_t AfterSpace(absl::string_view json, size_t at) {
  return std::min(json.find_first_not_of(" \t\r\n", at), json.size());
}

// The text of a member's value; of members with one name, the last one's. Empty: none has the name, written plainly.
absl::string_view MemberText(absl::string_view object, absl::string_view name) {
  absl::string_view found;
  size_t at = AfterSpace(object, std::min(object.find('{'), object.size() - 1) + 1);
  while (at < object.size() && object[at] == '"') {
    const size_t name_end = StringEnd(object, at);
    const bool match = object.substr(at, name_end - at) == absl::StrCat("\"", name, "\"");
    at = AfterSpace(object, AfterSpace(object, name_end) + 1);  // behind the colon
    const size_t end = ValueEnd(object, at);
    if (match) found = object.substr(at, end - at);
    at = AfterSpace(object, end);
    if (at < object.size() && object[at] == ',') at = AfterSpace(object, at + 1);
  }
  return found;
}

AnswerFormat SchemaFormat(const Field& schema, std::string where, absl::string_view text) {
  AnswerFormat format;
  if (!schema.is_object()) {
    schema.Refuse("must be a JSON schema, an object");
  } else if (text.empty()) {
    schema.Refuse("must have a name without escapes");
  }
  format.kind = AnswerFormat::Kind::kJsonSchema;
  format.schema = std::string(text);
  format.field = std::move(where);
  return format;
}

// {"type": "json_schema"} and what belongs to it: in a member of that name if `wrapped`.
AnswerFormat ReadTyped(const Field& format, std::string where, absl::string_view text, bool wrapped) {
  AnswerFormat read;
  if (!format.given()) return read;
  const Field type = format["type"];
  const std::string name = type.Text();
  if (name == "json_object") {
    read.kind = AnswerFormat::Kind::kJsonObject;
    read.field = std::move(where);
  } else if (name == "json_schema") {
    const Field holder = wrapped ? format["json_schema"] : format;
    if (wrapped) {
      absl::StrAppend(&where, ".json_schema");
      text = MemberText(text, "json_schema");
    }
    (void)holder["name"].TextOr("", kMaxNameBytes);
    (void)holder["strict"].FlagOr(true);  // it always is
    return SchemaFormat(holder["schema"], absl::StrCat(where, ".schema"), MemberText(text, "schema"));
  } else if (name != "text") {
    type.Refuse(absl::StrCat("is ", Quoted(name), "; must be \"text\", \"json_object\" or \"json_schema\""));
  }
  return read;
}

// As vLLM has it: a schema, or its text.
AnswerFormat ReadGuided(const Field& schema, std::string where, absl::string_view text) {
  if (!schema.is_text()) return SchemaFormat(schema, std::move(where), text);
  AnswerFormat format;
  format.kind = AnswerFormat::Kind::kJsonSchema;
  format.schema = schema.NonEmptyText();
  format.field = std::move(where);
  return format;
}

}  // namespace

AnswerFormat ReadResponseFormat(const Field& body, absl::string_view text) {
  const Field response = body["response_format"], guided = body["guided_json"], outputs = body["structured_outputs"];
  RefuseUnsupported(body, {"guided_regex", "guided_choice", "guided_grammar"});
  const Field& second = outputs.given() ? outputs : guided;
  if (response.given() + guided.given() + outputs.given() > 1)
    second.Refuse("is given beside another form of the answer");
  if (guided.given()) return ReadGuided(guided, "guided_json", MemberText(text, "guided_json"));
  if (!outputs.given()) return ReadTyped(response, "response_format", MemberText(text, "response_format"), true);
  outputs.RefuseOthers({"json", "json_object"});
  const Field schema = outputs["json"];
  if (schema.given()) {
    const absl::string_view within = MemberText(text, "structured_outputs");
    return ReadGuided(schema, "structured_outputs.json", MemberText(within, "json"));
  }
  AnswerFormat format;
  if (outputs["json_object"].FlagOr(false)) format.kind = AnswerFormat::Kind::kJsonObject;
  format.field = "structured_outputs";
  return format;
}

AnswerFormat ReadFormatAt(absl::Span<const absl::string_view> path, const Field& body, absl::string_view text) {
  Field format = body;
  for (const absl::string_view name : path) {
    format = format[name];
    text = MemberText(text, name);
  }
  return ReadTyped(format, absl::StrJoin(path, "."), text, /*wrapped=*/false);
}

}  // namespace kvlink::serve
