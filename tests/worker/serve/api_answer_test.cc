// Answers and errors, to the byte: what clients of each API parse.
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

const Usage kUsage = {.prompt_tokens = 100,
                      .cached_tokens = 60,
                      .stored_tokens = 30,
                      .completion_tokens = 7,
                      .resident = 1,
                      .disk = 2,
                      .first_token_ms = 12.5};

TEST(OpenAiAnswer, Whole) {
  const Answer answer = {.id = "chatcmpl-1", .created = 5, .model = "m"};
  EXPECT_EQ(openai::Response(openai::Kind::kChat, answer, {Choice{{"Say \"hi\"\n", {}}, Finish::kStop, ""}}, kUsage),
            R"({"id":"chatcmpl-1","object":"chat.completion","created":5,"model":"m","system_fingerprint":null,)"
            R"("choices":[{"index":0,"message":{"role":"assistant","content":"Say \"hi\"\n","refusal":null},)"
            R"("logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":7,)"
            R"("total_tokens":107,"prompt_tokens_details":{"cached_tokens":60}}})");
  const Answer reported = {.id = "cmpl-1", .created = 5, .model = "m", .report = true};
  EXPECT_EQ(openai::Response(openai::Kind::kCompletion, reported, {Choice{{"x", {}}, Finish::kLength, ""}}, kUsage),
            R"({"id":"cmpl-1","object":"text_completion","created":5,"model":"m","system_fingerprint":null,)"
            R"("choices":[{"index":0,"text":"x","logprobs":null,"finish_reason":"length"}],)"
            R"("usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,)"
            R"("prompt_tokens_details":{"cached_tokens":60}},"kv":{"documents":{"resident":1,"host":0,"dram":0,)"
            R"("disk":2,"encoded":0,"text":0},"first_token_ms":12.5}})");
}

TEST(OpenAiAnswer, Streamed) {
  constexpr auto kChat = openai::Kind::kChat;
  const Answer answer = {.id = "chatcmpl-1", .created = 5, .model = "m", .stream_usage = true};
  const std::string head =
      R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":null,)";
  EXPECT_EQ(openai::StreamBegin(kChat, answer),
            head + R"("choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
                   R"("finish_reason":null}],"usage":null})"
                   "\n\n");
  EXPECT_EQ(openai::StreamPiece(kChat, answer, 0, {"a\n", {}}),
            head + R"("choices":[{"index":0,"delta":{"content":"a\n"},"logprobs":null,"finish_reason":null}],)"
                   R"("usage":null})"
                   "\n\n");
  EXPECT_EQ(openai::StreamEnd(kChat, answer, 0, Finish::kStopString, kUsage),
            head +
                R"("choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null})"
                "\n\n" +
                head +
                R"("choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,)"
                R"("prompt_tokens_details":{"cached_tokens":60}}})"
                "\n\ndata: [DONE]\n\n");

  constexpr auto kText = openai::Kind::kCompletion;
  const Answer plain = {.id = "cmpl-1", .created = 5, .model = "m", .report = true};
  EXPECT_EQ(openai::StreamBegin(kText, plain), "");
  EXPECT_EQ(openai::StreamPiece(kText, plain, 0, {"a", {}}),
            R"(data: {"id":"cmpl-1","object":"text_completion","created":5,"model":"m","system_fingerprint":null,)"
            R"("choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]})"
            "\n\n");
  EXPECT_EQ(openai::StreamEnd(kText, plain, 0, Finish::kLength, kUsage),
            R"(data: {"id":"cmpl-1","object":"text_completion","created":5,"model":"m","system_fingerprint":null,)"
            R"("choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}],"kv":{"documents":)"
            R"({"resident":1,"host":0,"dram":0,"disk":2,"encoded":0,"text":0},"first_token_ms":12.5}})"
            "\n\ndata: [DONE]\n\n");
}

TEST(OpenAiAnswer, SeveralOfOneRequest) {
  constexpr auto kChat = openai::Kind::kChat;
  const Answer answer = {.id = "chatcmpl-1", .created = 5, .model = "m", .choices = 2};
  EXPECT_THAT(openai::Response(kChat, answer,
                               {Choice{{"a", {}}, Finish::kStop, ""}, Choice{{"b", {}}, Finish::kLength, ""}}, kUsage),
              HasSubstr(R"("choices":[{"index":0,"message":{"role":"assistant","content":"a","refusal":null},)"
                        R"("logprobs":null,"finish_reason":"stop"},{"index":1,"message":{"role":"assistant",)"
                        R"("content":"b","refusal":null},"logprobs":null,"finish_reason":"length"}])"));
  const auto choice = [](absl::string_view index, absl::string_view delta, absl::string_view finish) {
    return absl::StrCat(
        R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":null,)",
        R"("choices":[{"index":)", index, R"(,"delta":)", delta, R"(,"logprobs":null,"finish_reason":)", finish,
        "}]}\n\n");
  };
  const std::string role = R"({"role":"assistant","content":""})";
  EXPECT_EQ(openai::StreamBegin(kChat, answer), choice("0", role, "null") + choice("1", role, "null"));
  EXPECT_EQ(openai::StreamPiece(kChat, answer, 1, {"b", {}}), choice("1", R"({"content":"b"})", "null"));
  EXPECT_EQ(openai::StreamFinish(kChat, answer, 0, Finish::kStop), choice("0", "{}", R"("stop")"));
  EXPECT_EQ(openai::StreamEnd(kChat, answer, 1, Finish::kLength, kUsage),
            choice("1", "{}", R"("length")") + "data: [DONE]\n\n");
}

TEST(OpenAiAnswer, Logprobs) {
  const Answer answer = {.id = "1", .created = 5, .model = "m", .logprobs = true};
  const AnswerPiece piece = {
      "a\u00e9", {{{"a", -0.5}, {{"a", -0.5}, {"b", -1}}, 0}, {{"\xC3", -2}, {}, 1}, {{"\xA9", -9999}, {}, 2}}};
  const std::string chat =
      R"("logprobs":{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[)"
      R"({"token":"a","logprob":-0.5,"bytes":[97]},{"token":"b","logprob":-1.0,"bytes":[98]}]},)"
      "{\"token\":\"\uFFFD\",\"logprob\":-2.0,\"bytes\":[195],\"top_logprobs\":[]},"
      "{\"token\":\"\uFFFD\",\"logprob\":-9999.0,\"bytes\":[169],\"top_logprobs\":[]}],\"refusal\":null}";
  EXPECT_THAT(openai::StreamPiece(openai::Kind::kChat, answer, 0, piece), HasSubstr(chat));
  EXPECT_THAT(openai::Response(openai::Kind::kChat, answer, {Choice{piece, Finish::kStop, ""}}, kUsage),
              HasSubstr(chat));
  EXPECT_THAT(openai::StreamBegin(openai::Kind::kChat, answer), HasSubstr(R"("logprobs":null)"));
  const std::string completion =
      "\"logprobs\":{\"tokens\":[\"a\",\"\uFFFD\",\"\uFFFD\"],\"token_logprobs\":[-0.5,-2.0,-9999.0],"
      "\"top_logprobs\":[{\"a\":-0.5,\"b\":-1.0},{\"\uFFFD\":-2.0},{\"\uFFFD\":-9999.0}],\"text_offset\":[0,1,2]}";
  EXPECT_THAT(openai::StreamPiece(openai::Kind::kCompletion, answer, 0, piece), HasSubstr(completion));
  EXPECT_THAT(openai::Response(openai::Kind::kCompletion, answer, {Choice{piece, Finish::kStop, ""}}, kUsage),
              HasSubstr(completion));
}

TEST(OpenAiAnswer, BytesThatAreNotUtf8AreReplaced) {
  EXPECT_THAT(openai::StreamPiece(openai::Kind::kChat, {}, 0, {"a\xFFz", {}}), HasSubstr("a\uFFFDz"));
}

TEST(OpenAiAnswer, Models) {
  EXPECT_EQ(openai::ModelList({{.id = "m", .created = 5}, {.id = "n"}}),
            R"({"object":"list","data":[{"id":"m","object":"model","created":5,"owned_by":"kvlink"},)"
            R"({"id":"n","object":"model","created":0,"owned_by":"kvlink"}]})");
  EXPECT_EQ(openai::ModelList({}), R"({"object":"list","data":[]})");
  EXPECT_EQ(openai::ModelEntry({.id = "m"}), R"({"id":"m","object":"model","created":0,"owned_by":"kvlink"})");
}

// The events of a stream: "name data".
std::vector<std::string> Names(absl::string_view events) {
  std::vector<std::string> names;
  for (size_t at = events.find("event: "); at != absl::string_view::npos; at = events.find("event: ", at + 1)) {
    const size_t begin = at + 7, end = events.find('\n', begin);
    names.emplace_back(events.substr(begin, end - begin));
  }
  return names;
}

TEST(OpenAiResponses, Answers) {
  const Answer answer = {.id = "resp_1", .created = 5, .model = "m"};
  const std::string whole = responses::Response(answer, "x", Finish::kLength, kUsage);
  EXPECT_EQ(whole, R"({"id":"resp_1","object":"response","created_at":5,"status":"incomplete","error":null,)"
                   R"("incomplete_details":{"reason":"max_output_tokens"},"instructions":null,"model":"m","output":)"
                   R"([{"id":"msg_1","type":"message","status":"incomplete","role":"assistant","content":)"
                   R"([{"type":"output_text","text":"x","annotations":[]}]}],"parallel_tool_calls":false,)"
                   R"("tool_choice":"none","tools":[],"usage":{"input_tokens":100,"input_tokens_details":)"
                   R"({"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":0},)"
                   R"("total_tokens":107}})");
  responses::Stream stream(answer);
  EXPECT_THAT(Names(stream.Begin()), ElementsAre("response.created", "response.in_progress",
                                                 "response.output_item.added", "response.content_part.added"));
  EXPECT_EQ(stream.Text("a"),
            "event: response.output_text.delta\n"
            R"(data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,)"
            R"("content_index":0,"delta":"a"})"
            "\n\n");
  EXPECT_THAT(stream.Text("b"), HasSubstr(R"("sequence_number":5)"));
  const std::string end = stream.End(Finish::kStop, kUsage);
  EXPECT_THAT(Names(end), ElementsAre("response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.completed"));
  EXPECT_THAT(end, HasSubstr(R"("text":"ab")"));
  EXPECT_EQ(responses::Stream(answer).Error(absl::UnavailableError("ends")),
            "event: error\n"
            R"(data: {"type":"error","sequence_number":0,"code":"service_unavailable","message":"ends","param":null})"
            "\n\n");
}

TEST(AnthropicAnswer, Whole) {
  const Answer answer = {.id = "msg_1", .model = "m", .report = true};
  EXPECT_EQ(anthropic::Response(answer, "x", Finish::kStopString, "END", kUsage),
            R"({"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"x"}],)"
            R"("stop_reason":"stop_sequence","stop_sequence":"END","usage":{"input_tokens":10,)"
            R"("cache_creation_input_tokens":30,"cache_read_input_tokens":60,"output_tokens":7},"kv":{"documents":)"
            R"({"resident":1,"host":0,"dram":0,"disk":2,"encoded":0,"text":0},"first_token_ms":12.5}})");
}

TEST(AnthropicAnswer, Streamed) {
  const Answer answer = {.id = "msg_1", .model = "m"};
  const std::string usage =
      R"("usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_read_input_tokens":60,"output_tokens":7}})";
  EXPECT_EQ(anthropic::StreamBegin(answer, kUsage),
            "event: message_start\n"
            R"(data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m",)"
            R"("content":[],"stop_reason":null,"stop_sequence":null,)" +
                usage +
                "}\n\nevent: content_block_start\n"
                R"(data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}})"
                "\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
  EXPECT_EQ(anthropic::StreamText("a\n"),
            "event: content_block_delta\n"
            R"(data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\n"}})"
            "\n\n");
  EXPECT_EQ(anthropic::StreamEnd(answer, Finish::kLength, "", kUsage),
            "event: content_block_stop\n"
            R"(data: {"type":"content_block_stop","index":0})"
            "\n\nevent: message_delta\n"
            R"(data: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},)" +
                usage + "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
  EXPECT_EQ(anthropic::StreamError(absl::UnavailableError("ends")),
            "event: error\n"
            R"(data: {"type":"error","error":{"type":"overloaded_error","message":"ends"}})"
            "\n\n");
}

TEST(Errors, EveryStatusInEachApi) {
  struct Told {
    absl::Status status;
    int http;
    std::string openai;
    int anthropic_http;
    std::string anthropic;
  };
  const std::vector<Told> cases = {
      {ParameterError("n", "x"), 400, R"("type":"invalid_request_error","param":"n","code":null)", 400,
       "invalid_request_error"},
      {absl::FailedPreconditionError("x"), 400, R"("type":"invalid_request_error","param":null,"code":null)", 400,
       "invalid_request_error"},
      {absl::OutOfRangeError("x"), 400, R"("type":"invalid_request_error","param":null,"code":null)", 400,
       "invalid_request_error"},
      {absl::UnauthenticatedError("x"), 401, R"("type":"invalid_request_error","param":null,"code":"invalid_api_key")",
       401, "authentication_error"},
      {absl::PermissionDeniedError("x"), 403,
       R"("type":"invalid_request_error","param":null,"code":"insufficient_permissions")", 403, "permission_error"},
      {UnknownModelError("x"), 404, R"("type":"invalid_request_error","param":"model","code":"model_not_found")", 404,
       "not_found_error"},
      {absl::NotFoundError("x"), 404, R"("type":"invalid_request_error","param":null,"code":"not_found")", 404,
       "not_found_error"},
      {TooLargeError("x"), 413, R"("type":"invalid_request_error","param":null,"code":"request_too_large")", 413,
       "request_too_large"},
      {absl::ResourceExhaustedError("x"), 429, R"("type":"rate_limit_error","param":null,"code":"rate_limit_exceeded")",
       429, "rate_limit_error"},
      {absl::InternalError("x"), 500, R"("type":"server_error","param":null,"code":null)", 500, "api_error"},
      {absl::DataLossError("x"), 500, R"("type":"server_error","param":null,"code":null)", 500, "api_error"},
      {absl::UnavailableError("x"), 503, R"("type":"server_error","param":null,"code":"service_unavailable")", 529,
       "overloaded_error"},
      {absl::DeadlineExceededError("x"), 504, R"("type":"server_error","param":null,"code":"timeout")", 504,
       "timeout_error"}};
  for (const Told& told : cases) {
    EXPECT_EQ(openai::HttpStatus(told.status), told.http) << told.status;
    EXPECT_THAT(openai::ErrorBody(told.status), HasSubstr(told.openai)) << told.status;
    EXPECT_EQ(anthropic::HttpStatus(told.status), told.anthropic_http) << told.status;
    EXPECT_THAT(anthropic::ErrorBody(told.status), HasSubstr(absl::StrCat(R"("type":")", told.anthropic, "\"")))
        << told.status;
  }
  EXPECT_EQ(openai::ErrorBody(ParameterError("n", "x")),
            R"({"error":{"message":"n: x","type":"invalid_request_error","param":"n","code":null}})");
  EXPECT_EQ(openai::StreamError(absl::InternalError("\"x\"")),
            R"(data: {"error":{"message":"\"x\"","type":"server_error","param":null,"code":null}})"
            "\n\n");
  EXPECT_EQ(anthropic::ErrorBody(absl::NotFoundError("x")),
            R"({"type":"error","error":{"type":"not_found_error","message":"x"}})");
}

TEST(Errors, WhatAClientWroteIsQuotedAndCut) {
  EXPECT_EQ(Quoted("a\n\"b\""), R"("a\n\"b\"")");
  EXPECT_EQ(Quoted(std::string(59, 'x') + "\u00e4y"), absl::StrCat("\"", std::string(59, 'x'), "...\""));
}

}  // namespace
}  // namespace kvlink::serve
