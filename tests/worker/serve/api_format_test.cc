// The form of an answer that requests ask for: what is read of it, and that a schema stays as the client wrote it.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/serve/api/anthropic.h"
#include "worker/serve/api/openai.h"
#include "worker/serve/api/responses.h"

namespace kvlink::serve {
namespace {

using Parser = absl::StatusOr<CompletionRequest> (*)(absl::string_view);

// Of every API, a body that is right but for the members given.
std::string ChatWith(absl::string_view members) {
  return absl::StrCat(R"({"model":"m","messages":[{"role":"user","content":"Why?"}],)", members, "}");
}
std::string ResponseWith(absl::string_view members) {
  return absl::StrCat(R"({"model":"m","input":"Why?",)", members, "}");
}
std::string MessagesWith(absl::string_view members) {
  return absl::StrCat(R"({"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Why?"}],)", members, "}");
}

// "kind field schema", or the error.
std::string Read(Parser parser, const std::string& body) {
  const auto request = parser(body);
  if (!request.ok()) return std::string(request.status().message());
  const AnswerFormat& format = request->format;
  const char* const kind = format.kind == AnswerFormat::Kind::kText         ? "text"
                           : format.kind == AnswerFormat::Kind::kJsonObject ? "object"
                                                                            : "schema";
  return absl::StrCat(kind, " ", format.field, " ", format.schema);
}

TEST(AnswerFormat, IsReadInEveryForm) {
  const std::string schema = R"({ "type":"object", "properties" : {"z\"}":{"const":"}{"},"a":{"enum":[1,"]"]}} })";
  for (const auto& [members, expected] : std::vector<std::pair<std::string, std::string>>{
           {R"("n":1)", "text  "},
           {R"("response_format":null)", "text  "},
           {R"("response_format":{"type":"text"})", "text  "},
           {R"("response_format":{"type":"json_object"})", "object response_format "},
           {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":false,"schema":)" + schema +
                "}}",
            "schema response_format.json_schema.schema " + schema},
           {"\"response_format\" :\n{\"json_schema\":{\"schema\" : {} , \"schema\"\t:" + schema +
                " },\"type\":\"json_schema\"}",
            "schema response_format.json_schema.schema " + schema},
           {R"("guided_json":)" + schema, "schema guided_json " + schema},
           {R"("guided_json":"{\"const\":1}")", "schema guided_json {\"const\":1}"},
           {R"("structured_outputs":{"json":)" + schema + "}", "schema structured_outputs.json " + schema},
           {R"("structured_outputs":{"json_object":true})", "object structured_outputs "},
           {R"("response_format":{"type":"json_schema"})",
            "response_format.json_schema.schema: must be a JSON schema, an object"},
           {R"("response_format":{"type":"json_schema","json_schema":{"schema":"{}"}})",
            "response_format.json_schema.schema: must be a JSON schema, an object"},
           {R"("response_format":{"type":"json_schema","json_schema":{"sch\u0065ma":{}}})",
            "response_format.json_schema.schema: must have a name without escapes"},
           {R"("response_format":{"type":"json_schema","json_schema":[]})",
            "response_format.json_schema: must be an object, not a list"},
           {R"("response_format":{"type":"grammar"})",
            R"(response_format.type: is "grammar"; must be "text", "json_object" or "json_schema")"},
           {R"("response_format":{})", "response_format.type: is missing; must be a string"},
           {R"("response_format":"json")", "response_format: must be an object, not a string"},
           {R"("guided_json":7)", "guided_json: must be a JSON schema, an object"},
           {R"("guided_json":"")", "guided_json: must not be empty"},
           {R"("guided_regex":"a")", "guided_regex: is not supported by this server"},
           {R"("structured_outputs":{"regex":"a"})", "structured_outputs: has no member \"regex\""},
           {R"("guided_json":{},"response_format":{"type":"text"})",
            "guided_json: is given beside another form of the answer"}}) {
    EXPECT_EQ(Read(openai::ParseChat, ChatWith(members)), expected) << members;
    EXPECT_EQ(Read(openai::ParseCompletion, absl::StrCat(R"({"model":"m","prompt":"Once",)", members, "}")), expected);
  }
  const std::string typed = R"({"type":"json_schema","name":"n","schema":)" + schema + "}";
  EXPECT_EQ(Read(responses::Parse, ResponseWith(R"("text":{"verbosity":"low","format":)" + typed + "}")),
            "schema text.format.schema " + schema);
  EXPECT_EQ(Read(responses::Parse, ResponseWith(R"("text":{"format":{"type":"json_object"}})")), "object text.format ");
  EXPECT_EQ(Read(responses::Parse, ResponseWith(R"("text":{"format":{"type":"text"}})")), "text  ");
  EXPECT_EQ(Read(responses::Parse, ResponseWith(R"("text":{"format":{"type":"json_schema"}})")),
            "text.format.schema: must be a JSON schema, an object");
  EXPECT_EQ(Read(anthropic::ParseMessages, MessagesWith(R"("output_config":{"format":)" + typed + "}")),
            "schema output_config.format.schema " + schema);
  EXPECT_EQ(Read(anthropic::ParseMessages, MessagesWith(R"("output_format":)" + typed)),
            "schema output_format.schema " + schema);
  EXPECT_EQ(Read(anthropic::ParseMessages, MessagesWith(R"("output_config":{"effort":"low"})")), "text  ");
}

}  // namespace
}  // namespace kvlink::serve
