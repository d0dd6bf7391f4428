// JSON mode over HTTP: a model of random numbers answers in JSON, or says that it was cut off.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "tests/worker/grammar/schema_checker.h"
#include "tests/worker/grammar/walk.h"
#include "tests/worker/serve/router_fixture.h"
#include "worker/grammar/json_rules.h"
#include "worker/grammar/schema.h"

namespace kvlink::serve::testing {
namespace {

using ::testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

constexpr char kSchema[] = R"({"type": "object", "properties": {
    "zebra": {"type": "integer", "minimum": 0, "maximum": 99},
    "kind": {"enum": ["person", "place", null]},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2}},
    "required": ["zebra", "kind", "tags"], "additionalProperties": false})";

std::string Asking(const std::string& format, int seed, int tokens) {
  return absl::StrCat(R"({"model":"tiny","messages":[{"role":"user","content":"Say JSON"}],"temperature":1,"seed":)",
                      seed, R"(,"max_tokens":)", tokens, ",", format, "}");
}

std::string SchemaFormat() {
  return absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":)",
                      kSchema, "}}");
}

// What an answer says is a value of the schema, or the beginning of one.
void ExpectOfSchema(const std::string& text, const std::string& finish) {
  const OrderedJson schema = OrderedJson::parse(kSchema);
  if (finish == "length") {
    EXPECT_EQ(grammar::testing::Accepted(*grammar::CompileSchema(kSchema), text), text.size()) << text;
    return;
  }
  EXPECT_EQ(finish, "stop");
  const OrderedJson value = OrderedJson::parse(text, nullptr, false);
  ASSERT_FALSE(value.is_discarded()) << text;
  EXPECT_TRUE(grammar::testing::SchemaChecker(schema).Satisfies(value)) << text;
  EXPECT_EQ(value.begin().key(), "zebra") << text;  // in the order of the schema
}

TEST_F(RouterTest, AnswersOfARandomModelKeepToTheSchema) {
  Start();
  int whole = 0;
  for (int seed = 1; seed <= 12; ++seed) {
    const Answer answer = Send("POST", "/v1/chat/completions", Asking(SchemaFormat(), seed, 300));
    ASSERT_EQ(answer.status, 200) << answer.body;
    const Json choice = Json::parse(answer.body)["choices"][0];
    ExpectOfSchema(choice["message"]["content"], choice["finish_reason"]);
    whole += choice["finish_reason"] == "stop" ? 1 : 0;
  }
  EXPECT_GT(whole, 6);
  // Cut off, as the API says.
  const Json cut = Json::parse(Send("POST", "/v1/chat/completions", Asking(SchemaFormat(), 1, 3)).body)["choices"][0];
  EXPECT_EQ(cut["finish_reason"], "length");
  ExpectOfSchema(cut["message"]["content"], "length");
}

TEST_F(RouterTest, EveryApiAndFormKeepsToJson) {
  Start();
  const grammar::Grammar any = *grammar::JsonObjectGrammar();
  const std::string schema = absl::StrCat(R"({"type":"json_schema","name":"n","schema":)", kSchema, "}");
  for (int seed = 1; seed <= 4; ++seed) {
    const Answer object =
        Send("POST", "/v1/chat/completions", Asking(R"("response_format":{"type":"json_object"})", seed, 60));
    ASSERT_EQ(object.status, 200) << object.body;
    const Json choice = Json::parse(object.body)["choices"][0];
    const std::string text = choice["message"]["content"];
    EXPECT_EQ(grammar::testing::Accepted(any, text), text.size()) << text;
    EXPECT_EQ(choice["finish_reason"] == "stop", Json::accept(text)) << text;

    const Answer response = Send("POST", "/v1/responses",
                                 absl::StrCat(R"({"model":"tiny","input":"Say JSON","max_output_tokens":300,"seed":)",
                                              seed, R"(,"text":{"format":)", schema, "}}"));
    ASSERT_EQ(response.status, 200) << response.body;
    const Json said = Json::parse(response.body);
    ExpectOfSchema(said["output"][0]["content"][0]["text"], said["status"] == "completed" ? "stop" : "length");

    const Answer completion = Send("POST", "/v1/completions",
                                   absl::StrCat(R"({"model":"tiny","prompt":"JSON:","max_tokens":300,"seed":)", seed,
                                                R"(,"structured_outputs":{"json":)", kSchema, "}}"));
    ASSERT_EQ(completion.status, 200) << completion.body;
    const Json completed = Json::parse(completion.body)["choices"][0];
    ExpectOfSchema(completed["text"], completed["finish_reason"]);
  }
  // Several choices, and streamed.
  const Answer several =
      Send("POST", "/v1/chat/completions", Asking(absl::StrCat(SchemaFormat(), R"(,"n":3)"), 5, 300));
  ASSERT_EQ(several.status, 200) << several.body;
  const Json answers = Json::parse(several.body);
  for (const Json& choice : answers["choices"]) {
    ExpectOfSchema(choice["message"]["content"], choice["finish_reason"]);
  }
  std::string text, finish;
  const Answer streamed =
      Send("POST", "/v1/chat/completions", Asking(absl::StrCat(SchemaFormat(), R"(,"stream":true)"), 6, 300));
  for (absl::string_view line : absl::StrSplit(streamed.body, '\n')) {
    const Json event = absl::ConsumePrefix(&line, "data: ") ? Json::parse(line, nullptr, false) : Json();
    if (!event.is_object()) continue;
    text += event["choices"][0]["delta"].value("content", "");
    if (event["choices"][0]["finish_reason"].is_string()) finish = event["choices"][0]["finish_reason"];
  }
  ExpectOfSchema(text, finish);
}

TEST_F(RouterTest, ASchemaThatIsNotUnderstoodIsRefusedByItsPlace) {
  Start();
  const std::string schema = R"({"type":"object","properties":{"a":{"multipleOf":3}}})";
  const Answer chat = Send(
      "POST", "/v1/chat/completions",
      Asking(absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"schema":)", schema, "}}"), 1, 5));
  EXPECT_EQ(chat.status, 400);
  const Json error = Json::parse(chat.body)["error"];
  EXPECT_EQ(error["param"], "response_format.json_schema.schema");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("#/properties/a/multipleOf: is not supported"));
  const Answer response = Send(
      "POST", "/v1/responses",
      absl::StrCat(R"({"model":"tiny","input":"x","text":{"format":{"type":"json_schema","schema":)", schema, "}}}"));
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(Json::parse(response.body)["error"]["param"], "text.format.schema");
}

}  // namespace
}  // namespace kvlink::serve::testing
