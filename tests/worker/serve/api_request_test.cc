// Bodies, right and wrong, of every API: what is read of them, and which member an error names.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/serve/api/anthropic.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/openai.h"
#include "worker/serve/api/responses.h"

namespace kvlink::serve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using Parser = absl::StatusOr<CompletionRequest> (*)(absl::string_view);

std::string Error(Parser parser, absl::string_view body) {
  const auto request = parser(body);
  return request.ok() ? "accepted" : std::string(request.status().message());
}

// Bodies that are right but for the members given.
std::string Chat(absl::string_view members, absl::string_view messages = R"([{"role":"user","content":"Why?"}])") {
  return absl::StrCat(R"({"model":"m","messages":)", messages, members.empty() ? "" : ",", members, "}");
}
std::string Claude(absl::string_view members, absl::string_view messages = R"([{"role":"user","content":"Why?"}])") {
  return absl::StrCat(R"({"model":"m","max_tokens":5,"messages":)", messages, members.empty() ? "" : ",", members, "}");
}
std::string Completion(absl::string_view members) {
  return absl::StrCat(R"({"model":"m","prompt":"Once")", members.empty() ? "" : ",", members, "}");
}
std::string Input(absl::string_view members, absl::string_view input = R"("Why?")") {
  return absl::StrCat(R"({"model":"m","input":)", input, members.empty() ? "" : ",", members, "}");
}

struct Case {
  std::string body;
  std::string error;
};
void ExpectErrors(Parser parser, const std::vector<Case>& cases) {
  for (const auto& [body, error] : cases) EXPECT_EQ(Error(parser, body), error) << body;
}
void ExpectAccepted(Parser parser, const std::vector<std::string>& bodies) {
  for (const std::string& body : bodies) EXPECT_EQ(Error(parser, body), "accepted") << body;
}

std::vector<std::string> Spelled(const std::vector<Message>& messages) {
  std::vector<std::string> spelled;
  for (const Message& message : messages) spelled.push_back(absl::StrCat(message.role, ": ", message.text));
  return spelled;
}

TEST(Body, MustBeAnObjectWithinLimits) {
  const auto nested = [](int depth) {
    return Chat(absl::StrCat(R"("x":)", std::string(depth, '['), std::string(depth, ']')));
  };
  ExpectAccepted(openai::ParseChat, {nested(kMaxJsonDepth - 1), absl::StrCat("\xEF\xBB\xBF", Chat(""))});
  ExpectErrors(openai::ParseChat, {{nested(kMaxJsonDepth), "the body is nested deeper than 64 lists and objects"},
                                   {std::string(1 << 20, '['), "the body is nested deeper than 64 lists and objects"},
                                   {"[1]", "the body must be a JSON object, not a list"},
                                   {"null", "the body must be a JSON object, not null"}});
  EXPECT_THAT(Error(openai::ParseChat, ""), HasSubstr("the body is not JSON at byte 1: syntax error"));
  EXPECT_THAT(Error(openai::ParseChat, "{\"a\":1}x"), HasSubstr("the body is not JSON at byte 8: "));
  EXPECT_THAT(Error(openai::ParseChat, "{\"a\":\"\xC3(\"}"), HasSubstr("UTF-8"));
  EXPECT_THAT(Error(openai::ParseChat, R"({"a":"\ud800"})"), HasSubstr("the body is not JSON at byte 13"));
  EXPECT_THAT(Error(openai::ParseChat, R"({"a":1e999})"), HasSubstr("number overflow"));

  std::string many = R"("x":[1)";
  for (int64_t i = 0; i < kMaxJsonValues; ++i) many += ",1";
  const auto request = openai::ParseChat(Chat(many + "]"));
  EXPECT_EQ(request.status().message(), "the body holds more than 262144 values");
  EXPECT_EQ(openai::HttpStatus(request.status()), 413);
}

TEST(Body, OfMembersWithOneNameTheLastCounts) {
  EXPECT_EQ(openai::ParseChat(Chat(R"("temperature":"warm","temperature":0.5)"))->temperature, 0.5);
}

TEST(OpenAiChat, Defaults) {
  const auto request = openai::ParseChat(Chat(""));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->model, "m");
  EXPECT_THAT(Spelled(request->messages), ElementsAre("user: Why?"));
  EXPECT_EQ(request->prompt, std::nullopt);
  EXPECT_EQ(request->max_tokens, 0);
  EXPECT_EQ(request->temperature, 1);
  EXPECT_EQ(request->top_p, 1);
  EXPECT_EQ(request->min_p, 0);
  EXPECT_EQ(request->top_k, 0);
  EXPECT_EQ(request->seed, std::nullopt);
  EXPECT_THAT(request->stop, IsEmpty());
  EXPECT_THAT(request->documents, IsEmpty());
  EXPECT_FALSE(request->stream);
  EXPECT_FALSE(request->stream_usage);
  EXPECT_EQ(request->kv.on_miss, KvOptions::OnMiss::kCompute);
  EXPECT_TRUE(request->kv.store);
  EXPECT_FALSE(request->kv.report);
  EXPECT_EQ(request->kv.deadline_ms, std::nullopt);
}

TEST(OpenAiChat, Everything) {
  const auto request = openai::ParseChat(Chat(
      R"("max_completion_tokens":16.0,"temperature":0,"top_p":0.25,"min_p":0.5,"top_k":-1,"seed":-7,"stop":["a","b"],
         "stream":true,"stream_options":{"include_usage":true},"cache_salt":"s","user":"u","service_tier":"auto",
         "documents":[{"id":"moon","parts":"2-5"},{"title":"T","text":"words"},{"text":"more","title":null}],
         "kv":{"on_miss":"fail","store":false,"linker":"links+head-8","deadline_ms":250,"report":true})",
      R"([{"role":"system","content":"Be brief."},{"role":"developer","content":[{"type":"text","text":"Be"},
          {"type":"text","text":"right."}]},{"role":"user","content":"Hi","name":"n"},{"role":"assistant",
          "content":"Hello","tool_calls":[]},{"role":"user","content":"\u00e4"}])"));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(Spelled(request->messages),
              ElementsAre("system: Be brief.\n\nBe\nright.", "user: Hi", "assistant: Hello", "user: \u00e4"));
  EXPECT_EQ(request->max_tokens, 16);
  EXPECT_EQ(request->temperature, 0);
  EXPECT_EQ(request->top_p, 0.25);
  EXPECT_EQ(request->min_p, 0.5);
  EXPECT_EQ(request->top_k, 0);
  EXPECT_EQ(request->seed, -7);
  EXPECT_THAT(request->stop, ElementsAre("a", "b"));
  EXPECT_TRUE(request->stream);
  EXPECT_TRUE(request->stream_usage);
  EXPECT_EQ(request->cache_salt, "s");
  ASSERT_EQ(request->documents.size(), 3);
  EXPECT_EQ(request->documents[0].id, "moon");
  EXPECT_EQ(request->documents[0].parts, "2-5");
  EXPECT_EQ(request->documents[1].id, "");
  EXPECT_EQ(request->documents[1].title, "T");
  EXPECT_EQ(request->documents[1].text, "words");
  EXPECT_EQ(request->documents[2].text, "more");
  EXPECT_EQ(request->kv.on_miss, KvOptions::OnMiss::kFail);
  EXPECT_FALSE(request->kv.store);
  EXPECT_EQ(request->kv.linker, "links+head-8");
  EXPECT_EQ(request->kv.deadline_ms, 250);
  EXPECT_TRUE(request->kv.report);
}

TEST(OpenAiChat, WhatAsksForNothingIsAccepted) {
  std::vector<std::string> bodies;
  for (const char* members :
       {R"("n":1)", R"("n":1.0)", R"("n":null)", R"("logprobs":false)", R"("top_logprobs":0)", R"("logit_bias":{})",
        R"("presence_penalty":0,"frequency_penalty":0.0,"repetition_penalty":1)",
        R"("response_format":{"type":"text"})", R"("tools":[])", R"("tool_choice":"none")", R"("modalities":["text"])",
        R"("stop":null)", R"("max_tokens":1)",
        R"("metadata":{"a":["b"]},"store":true,"parallel_tool_calls":false,"reasoning_effort":"low")",
        R"("documents":[],"kv":{},"kv":null)", R"("temperature":null,"stream":null)"}) {
    bodies.push_back(Chat(members));
  }
  ExpectAccepted(openai::ParseChat, bodies);
}

TEST(OpenAiChat, WrongMembersAreNamed) {
  ExpectErrors(openai::ParseChat,
               {{"{}", "model: is missing; must be a string"},
                {R"({"model":"m"})", "messages: is missing; must be a list"},
                {R"({"model":7,"messages":[]})", "model: must be a string, not a number"},
                {R"({"model":"","messages":[]})", "model: must not be empty"},
                {absl::StrCat(R"({"model":")", std::string(1025, 'm'), R"("})"),
                 "model: has 1025 bytes; must have at most 1024"},
                {Chat(R"("temperature":2.5)"), "temperature: is 2.5; must be a number from 0 to 2"},
                {Chat(R"("temperature":"hot")"), "temperature: must be a number from 0 to 2, not a string"},
                {Chat(R"("top_p":-0.1)"), "top_p: is -0.1; must be a number from 0 to 1"},
                {Chat(R"("top_k":-2)"), "top_k: is -2; must be an integer from -1 to 2147483647"},
                {Chat(R"("max_tokens":0)"), "max_tokens: is 0; must be an integer from 1 to 2147483647"},
                {Chat(R"("max_tokens":1.5)"), "max_tokens: is 1.5; must be an integer from 1 to 2147483647"},
                {Chat(R"("max_tokens":18446744073709551615)"),
                 "max_tokens: is 18446744073709551615; must be an integer from 1 to 2147483647"},
                {Chat(R"("max_tokens":1e300)"), "max_tokens: is 1e+300; must be an integer from 1 to 2147483647"},
                {Chat(R"("max_tokens":true)"), "max_tokens: must be an integer from 1 to 2147483647, not a boolean"},
                {Chat(R"("max_tokens":5,"max_completion_tokens":5)"),
                 "max_tokens: is given beside max_completion_tokens, which replaces it"},
                {Chat(R"("seed":9223372036854775808)"),
                 "seed: is 9223372036854775808; must be an integer from -9223372036854775808 to 9223372036854775807"},
                {Chat(R"("stream":1)"), "stream: must be true or false, not a number"},
                {Chat(R"("stream":true,"stream_options":[])"), "stream_options: must be an object, not a list"},
                {Chat(R"("stop":"")"), "stop: must not be empty"},
                {Chat(R"("stop":["a",""])"), "stop[1]: must not be empty"},
                {Chat(R"("stop":["a","b","c","d","e"])"), "stop: has 5 strings; must have at most 4"},
                {Chat(R"("stop":[1])"), "stop[0]: must be a string, not a number"},
                {Chat(R"("stop":{})"), "stop: must be a string or a list of strings, not an object"}});
}

TEST(OpenAiChat, WhatIsNotSupportedIsRefused) {
  ExpectErrors(
      openai::ParseChat,
      {{Chat(R"("tools":[{}])"), "tools: is not supported by this server"},
       {Chat(R"("tool_choice":"auto")"), R"(tool_choice: is not supported by this server, except "none")"},
       {Chat(R"("functions":[{}])"), "functions: is not supported by this server"},
       {Chat(R"("modalities":["text","audio"])"), R"(modalities: is not supported by this server, except ["text"])"},
       {Chat(R"("audio":{"voice":"x"})"), "audio: is not supported by this server"}});
}

TEST(OpenAiChat, WrongMessagesAreNamed) {
  const auto with = [](absl::string_view messages) { return Chat("", messages); };
  const std::string user = R"({"role":"user","content":"Hi"})";
  ExpectErrors(
      openai::ParseChat,
      {{with("{}"), "messages: must be a list, not an object"},
       {with("[]"), "messages: must not be empty"},
       {with(R"(["Hi"])"), "messages[0]: must be an object, not a string"},
       {with("[null]"), "messages[0].role: is missing; must be a string"},
       {with(R"([{"role":"user"}])"), "messages[0].content: is missing; must be a string or a list of parts"},
       {with(R"([{"role":"user","content":5}])"),
        "messages[0].content: must be a string or a list of parts, not a number"},
       {with(R"([{"role":"user","content":""}])"), "messages[0]: has no text"},
       {with(R"([{"role":"user","content":[]}])"), "messages[0]: has no text"},
       {with(R"([{"role":"user","content":" \n"}])"), "messages[0]: has no text"},
       {with(R"([{"role":"user","content":[{"type":"text"}]}])"),
        "messages[0].content[0].text: is missing; must be a string"},
       {with(R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])"),
        R"(messages[0].content[0].type: "image_url" is not supported here; must be "text")"},
       {with(absl::StrCat("[", user, R"(,{"role":"assistant","content":null},)", user, "]")),
        "messages[1].content: is missing; must be a string or a list of parts"},
       {with(absl::StrCat("[", user, R"(,{"role":"assistant","content":"x","tool_calls":[{}]},)", user, "]")),
        "messages[1].tool_calls: is not supported by this server"},
       {with(R"([{"role":"tool","content":"5"}])"),
        R"(messages[0].role: "tool" is not supported; must be "system", "developer", "user" or "assistant")"},
       {with(absl::StrCat("[", user, R"(,{"role":"system","content":"x"},)", user, "]")),
        R"(messages[1]: the role "system" may only come first)"},
       {with(R"([{"role":"system","content":"x"}])"),
        "messages[0]: the last message must be the user's; continuing an answer that is begun is not supported"},
       {with(absl::StrCat("[", user, R"(,{"role":"assistant","content":"I"}])")),
        "messages[1]: the last message must be the user's; continuing an answer that is begun is not supported"}});
  EXPECT_EQ(ParameterOf(openai::ParseChat(with(R"([{"role":"user"}])")).status()), "messages[0].content");
}

TEST(Extensions, WrongShapesAreNamedInEveryApi) {
  const std::string shape = R"(must be either {"id": "..."} of a stored document or {"title": "...", "text": "..."})";
  std::string many = R"("documents":[{"id":"d"})";
  for (int i = 0; i < 1000; ++i) many += R"(,{"id":"d"})";
  const std::vector<Case> cases = {
      {R"("documents":"moon")", "documents: must be a list of objects, not a string"},
      {R"("documents":{"id":"moon"})", "documents: must be a list of objects, not an object"},
      {R"("documents":["moon"])", "documents[0]: must be an object, not a string"},
      {R"("documents":[{"id":"a"},null])", "documents[1]: " + shape},
      {R"("documents":[{}])", "documents[0]: " + shape},
      {R"("documents":[{"title":"T"}])", "documents[0]: " + shape},
      {R"("documents":[{"id":"a","text":"b"}])", "documents[0]: " + shape},
      {R"("documents":[{"id":""}])", "documents[0].id: must not be empty"},
      {R"("documents":[{"id":5}])", "documents[0].id: must be a string, not a number"},
      {R"("documents":[{"id":"a","parts":3}])", "documents[0].parts: must be a string, not a number"},
      {R"("documents":[{"id":"a","parts":""}])", "documents[0].parts: must not be empty"},
      {R"("documents":[{"id":"a","title":"T"}])",
       "documents[0].title: belongs to a text; a stored document has its own"},
      {R"("documents":[{"text":""}])", "documents[0].text: must not be empty"},
      {R"("documents":[{"text":["a"]}])", "documents[0].text: must be a string, not a list"},
      {R"("documents":[{"text":"a","parts":"1"}])", "documents[0].parts: belongs to the id of a stored document"},
      {many + "]", "documents[1000]: is one document too many; a request may have 1000"},
      {R"("kv":true)", "kv: must be an object, not a boolean"},
      {R"("kv":{"on_mis":"fail"})", R"(kv: has no member "on_mis")"},
      {R"("kv":{"on_miss":"wait"})", R"(kv.on_miss: is "wait"; must be "compute", "text" or "fail")"},
      {R"("kv":{"store":"no"})", "kv.store: must be true or false, not a string"},
      {R"("kv":{"linker":5})", "kv.linker: must be a string, not a number"},
      {R"("kv":{"deadline_ms":0})", "kv.deadline_ms: is 0; must be an integer from 1 to 86400000"},
      {R"("kv":{"report":1})", "kv.report: must be true or false, not a number"},
      {R"("cache_salt":5)", "cache_salt: must be a string, not a number"},
      {R"("cache_salt":"")", "cache_salt: must not be empty"},
      {absl::StrCat(R"("cache_salt":")", std::string(257, 's'), "\""),
       "cache_salt: has 257 bytes; must have at most 256"}};
  for (const auto& [members, error] : cases) {
    EXPECT_EQ(Error(openai::ParseChat, Chat(members)), error);
    EXPECT_EQ(Error(openai::ParseCompletion, Completion(members)), error);
    EXPECT_EQ(Error(responses::Parse, Input(members)), error);
    EXPECT_EQ(Error(anthropic::ParseMessages, Claude(members)), error);
  }
}

TEST(OpenAiCompletion, Requests) {
  const auto request = openai::ParseCompletion(Completion(""));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt, "Once");
  EXPECT_THAT(request->messages, IsEmpty());
  EXPECT_EQ(request->max_tokens, 16);
  EXPECT_EQ(openai::ParseCompletion(R"({"model":"m","prompt":["One"],"max_tokens":3})")->prompt, "One");
  ExpectErrors(openai::ParseCompletion,
               {{R"({"model":"m"})", "prompt: is missing; must be a string"},
                {R"({"model":"m","prompt":""})", "prompt: must not be empty"},
                {R"({"model":"m","prompt":["a","b"]})", "prompt: must be one string; lists are not supported"},
                {R"({"model":"m","prompt":[1,2]})", "prompt: must be one string; lists are not supported"},
                {R"({"model":"m","prompt":[]})", "prompt: must be one string; lists are not supported"},
                {Completion(R"("logprobs":6)"), "logprobs: is 6; must be an integer from 0 to 5"},
                {Completion(R"("logprobs":true)"), "logprobs: must be an integer from 0 to 5, not a boolean"},
                {Completion(R"("best_of":2)"), "best_of: is not supported by this server, except 1"},
                {Completion(R"("best_of":4,"n":3)"), "best_of: is not supported by this server, except 3"},
                {Completion(R"("echo":true)"), "echo: is not supported by this server"},
                {Completion(R"("suffix":"x")"), "suffix: is not supported by this server"}});
}

TEST(OpenAiSampling, IsReadInBothApis) {
  const std::string members =
      R"("n":3,"presence_penalty":-2,"frequency_penalty":0.5,"repetition_penalty":1.1,"logit_bias":{"50256":-100,"7":2.5})";
  for (const auto& request : {openai::ParseChat(Chat(members + R"(,"logprobs":true,"top_logprobs":20)")),
                              openai::ParseCompletion(Completion(members + R"(,"logprobs":5,"best_of":3)"))}) {
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(request->choices, 3);
    EXPECT_EQ(request->presence_penalty, -2);
    EXPECT_EQ(request->frequency_penalty, 0.5);
    EXPECT_EQ(request->repetition_penalty, 1.1);
    EXPECT_THAT(request->logit_bias, ElementsAre(Pair(7, 2.5), Pair(50256, -100)));
    EXPECT_EQ(request->top_logprobs, request->prompt ? 5 : 20);
  }
  EXPECT_EQ(openai::ParseChat(Chat(R"("logprobs":true)"))->top_logprobs, 0);
  EXPECT_EQ(openai::ParseChat(Chat(R"("logprobs":false,"top_logprobs":0)"))->top_logprobs, std::nullopt);
  EXPECT_EQ(openai::ParseCompletion(Completion(R"("logprobs":0)"))->top_logprobs, 0);
  EXPECT_EQ(openai::ParseCompletion(Completion(R"("logprobs":false)"))->top_logprobs, std::nullopt);
}

TEST(OpenAiSampling, WrongMembersAreNamedInBothApis) {
  std::string many = R"("logit_bias":{"0":1)";
  for (int i = 1; i <= 1024; ++i) absl::StrAppend(&many, ",\"", i, "\":1");
  const std::vector<Case> cases = {
      {R"("n":0)", "n: is 0; must be an integer from 1 to 8"},
      {R"("n":9)", "n: is 9; must be an integer from 1 to 8"},
      {R"("n":true)", "n: must be an integer from 1 to 8, not a boolean"},
      {R"("presence_penalty":2.1)", "presence_penalty: is 2.1; must be a number from -2 to 2"},
      {R"("frequency_penalty":"0")", "frequency_penalty: must be a number from -2 to 2, not a string"},
      {R"("repetition_penalty":0)", "repetition_penalty: is 0; must be a number from 0.01 to 100"},
      {R"("logit_bias":[])", "logit_bias: must be an object of token ids and numbers, not a list"},
      {R"("logit_bias":{"a":1})", R"(logit_bias: has the member "a", which is no token id)"},
      {R"("logit_bias":{"-1":1})", R"(logit_bias: has the member "-1", which is no token id)"},
      {R"("logit_bias":{"07":1})", R"(logit_bias: has the member "07", which is no token id)"},
      {R"("logit_bias":{"2147483648":1})", R"(logit_bias: has the member "2147483648", which is no token id)"},
      {R"("logit_bias":{"7":101})", "logit_bias.7: is 101; must be a number from -100 to 100"},
      {R"("logit_bias":{"7":null})", "logit_bias.7: is missing; must be a number from -100 to 100"},
      {many + "}", "logit_bias: has 1025 tokens; must have at most 1024"}};
  for (const auto& [members, error] : cases) {
    EXPECT_EQ(Error(openai::ParseChat, Chat(members)), error);
    EXPECT_EQ(Error(openai::ParseCompletion, Completion(members)), error);
  }
  ExpectErrors(openai::ParseChat,
               {{Chat(R"("logprobs":1)"), "logprobs: must be true or false, not a number"},
                {Chat(R"("logprobs":true,"top_logprobs":21)"), "top_logprobs: is 21; must be an integer from 0 to 20"},
                {Chat(R"("top_logprobs":3)"), "top_logprobs: is given without \"logprobs\": true"}});
}

TEST(OpenAiResponses, Requests) {
  const auto request = responses::Parse(Input(R"("instructions":"Be brief.","max_output_tokens":9,"stream":true)"));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(Spelled(request->messages), ElementsAre("system: Be brief.", "user: Why?"));
  EXPECT_EQ(request->max_tokens, 9);
  const auto turns = responses::Parse(Input("", R"([{"role":"user","content":[{"type":"input_text","text":"a"}]},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"b"}]},{"role":"user","content":"c"}])"));
  ASSERT_TRUE(turns.ok()) << turns.status();
  EXPECT_THAT(Spelled(turns->messages), ElementsAre("user: a", "assistant: b", "user: c"));
  ExpectErrors(
      responses::Parse,
      {{R"({"model":"m"})", "input: is missing; must be a string or a list of messages"},
       {Input("", "[]"), "input: must not be empty"},
       {Input("", R"("")"), "input: has no text"},
       {Input("", R"([{"type":"function_call_output"}])"),
        R"(input[0].type: is not supported by this server, except "message")"},
       {Input("", R"([{"role":"user","content":[{"type":"input_image"}]}])"),
        R"(input[0].content[0].type: "input_image" is not supported here; must be "input_text" or "output_text")"},
       {Input(R"("previous_response_id":"resp_1")"), "previous_response_id: is not supported by this server"}});
}

TEST(AnthropicMessages, Requests) {
  const auto request = anthropic::ParseMessages(Claude(
      R"("system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],"stop_sequences":["\n\n"],
         "top_k":40,"temperature":0.5,"stream":true,"metadata":{"user_id":"u"},"thinking":{"type":"disabled"},
         "documents":[{"id":"named"}])",
      R"([{"role":"user","content":[
            {"type":"document","title":"T","cache_control":{"type":"ephemeral"},"citations":{"enabled":false},
             "source":{"type":"text","media_type":"text/plain","data":"whole"}},
            {"type":"document","source":{"type":"content","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]},
          {"role":"user","content":[{"type":"text","text":"Hi"}]},
          {"role":"assistant","content":[{"type":"text","text":"Hello"}]},
          {"role":"user","content":"Why"},{"role":"user","content":"so?"}])"));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(Spelled(request->messages),
              ElementsAre("system: Be brief.", "user: Hi", "assistant: Hello", "user: Why\nso?"));
  ASSERT_EQ(request->documents.size(), 3);
  EXPECT_EQ(request->documents[0].id, "named");
  EXPECT_EQ(request->documents[1].title, "T");
  EXPECT_EQ(request->documents[1].text, "whole");
  EXPECT_EQ(request->documents[2].title, "");
  EXPECT_EQ(request->documents[2].text, "a\nb");
  EXPECT_EQ(request->max_tokens, 5);
  EXPECT_EQ(request->top_k, 40);
  EXPECT_EQ(request->temperature, 0.5);
  EXPECT_THAT(request->stop, ElementsAre("\n\n"));
  EXPECT_TRUE(request->stream);
  ExpectAccepted(anthropic::ParseMessages,
                 {Claude(R"("system":"")"), Claude(R"("tool_choice":{"type":"none"},"tools":[])")});
}

TEST(AnthropicMessages, WrongMembersAreNamed) {
  const auto with = [](absl::string_view messages) { return Claude("", messages); };
  const auto block = [&with](absl::string_view block) {
    return with(absl::StrCat(R"([{"role":"user","content":[{"type":"text","text":"Hi"},)", block, "]}]"));
  };
  ExpectErrors(
      anthropic::ParseMessages,
      {{R"({"model":"m","messages":[{"role":"user","content":"Hi"}]})",
        "max_tokens: is missing; must be an integer from 1 to 2147483647"},
       {Claude(R"("temperature":1.5)"), "temperature: is 1.5; must be a number from 0 to 1"},
       {Claude(R"("stop_sequences":5)"), "stop_sequences: must be a string or a list of strings, not a number"},
       {Claude(R"("stop_sequences":[""])"), "stop_sequences[0]: must not be empty"},
       {Claude(R"("tools":[{}])"), "tools: is not supported by this server"},
       {Claude(R"("tool_choice":{"type":"auto"})"),
        R"(tool_choice: is not supported by this server, except {"type":"none"})"},
       {Claude(R"("thinking":{"type":"enabled","budget_tokens":1024})"),
        R"(thinking: is not supported by this server, except {"type":"disabled"})"},
       {Claude(R"("system":7)"), "system: must be a string or a list of parts, not a number"},
       {Claude(R"("system":" ")"), "system: has no text"},
       {with("[]"), "messages: must not be empty"},
       {with(R"([{"role":"user","content":""},{"role":"user","content":"Hi"}])"), "messages[0]: has no text"},
       {with(R"([{"role":"system","content":"x"}])"),
        R"(messages[0].role: "system" is no role; give the text as the member "system" of the request)"},
       {with(R"([{"role":"tool","content":"x"}])"),
        R"(messages[0].role: "tool" is not supported; must be "user" or "assistant")"},
       {with(R"([{"role":"user","content":"Hi"},{"role":"assistant","content":"I"}])"),
        "messages[1]: the last message must be the user's; continuing an answer that is begun is not supported"},
       {block(R"({"type":"image"})"),
        R"(messages[0].content[1].type: "image" is not supported; must be "text" or "document")"},
       {block(R"({"type":"document","source":{"type":"base64"}})"),
        R"(messages[0].content[1].source.type: "base64" is not supported; must be "text" or "content")"},
       {block(R"({"type":"document","source":{"type":"text","media_type":"text/html","data":"x"}})"),
        R"(messages[0].content[1].source.media_type: must be "text/plain")"},
       {block(R"({"type":"document","source":{"type":"text","data":""}})"),
        "messages[0].content[1].source.data: must not be empty"},
       {block(R"({"type":"document","source":{"type":"content","content":[]}})"),
        "messages[0].content[1].source.content: has no text"},
       {block(R"({"type":"document","context":"c","source":{"type":"text","data":"x"}})"),
        "messages[0].content[1].context: is not supported by this server"},
       {block(R"({"type":"document","citations":{"enabled":true},"source":{"type":"text","data":"x"}})"),
        "messages[0].content[1].citations: are not supported by this server"},
       {with(R"([{"role":"user","content":[{"type":"document","source":{"type":"text","data":"x"}}]}])"),
        "messages[0]: has no text"}});
}

}  // namespace
}  // namespace kvlink::serve
