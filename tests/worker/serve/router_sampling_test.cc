// Several answers to one request, penalties, biases and log-probabilities over HTTP.
#include <gmock/gmock.h>
#include <pthread.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/worker/serve/router_fixture.h"

namespace kvlink::serve::testing {
namespace {

class RouterSamplingTest : public RouterTest {
 protected:
  RouterSamplingTest() { tied_ = false; }
  // Makes answers of small letters, which do not end by themselves.
  Json Letters() const {
    Json bias = {{absl::StrCat(kvlink::testing::kTinyEnd), -100}};
    for (int32_t id = 3; id < tokenizer_->vocab_size(); ++id) {
      const std::string bytes = tokenizer_->TokenBytes(id);
      const bool letters = absl::c_all_of(bytes, [](char c) { return absl::ascii_islower(c) || c == ' '; });
      if (letters && !bytes.empty()) bias[absl::StrCat(id)] = 50;
    }
    return bias;
  }
  Json Ask(const std::string& path, const Json& body) const {
    const Answer answer = Send("POST", path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    return Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  }
  Json Ask(const Json& chat) const { return Ask("/v1/chat/completions", chat); }
  std::string ErrorOf(const Json& chat) const {
    const Answer answer = Send("POST", "/v1/chat/completions", chat.dump());
    EXPECT_EQ(answer.status, 400);
    return Json::parse(answer.body)["error"].dump();
  }
  // The events of a stream but [DONE], which must end it.
  std::vector<Json> Stream(const std::string& path, Json body) const {
    body["stream"] = true;
    const Answer answer = Send("POST", path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    EXPECT_TRUE(absl::EndsWith(answer.body, "data: [DONE]\n\n")) << answer.body;
    std::vector<Json> events;
    for (const absl::string_view event : absl::StrSplit(answer.body, "\n\n", absl::SkipEmpty())) {
      if (event != "data: [DONE]") events.push_back(Json::parse(event.substr(event.find('{'))));
    }
    return events;
  }
  // The logprobs of all of a stream's pieces for one answer, list by list.
  static Json Joined(const std::vector<Json>& events, int index) {
    Json joined = Json::object();
    for (const Json& event : events) {
      for (const Json& choice : event["choices"]) {
        if (choice["index"] != index || choice["logprobs"].is_null()) continue;
        for (const auto& [name, list] : choice["logprobs"].items()) {
          if (!list.is_array()) continue;
          if (!joined.contains(name)) joined[name] = Json::array();
          for (const Json& one : list) joined[name].push_back(one);
        }
      }
    }
    return joined;
  }
  static std::string BytesOf(const Json& tokens) {
    std::string bytes;
    for (const Json& token : tokens) {
      for (const Json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
    }
    return bytes;
  }
};

TEST_F(RouterSamplingTest, SeveralAnswersAreThoseOfTheirSeeds) {
  Start();
  ASSERT_EQ(Send("PUT", "/v1/documents/kept", R"({"text": "There are 7919 grains of sand."})").status, 201);
  Json chat = Chat("How many?", 8);
  chat["documents"] = {{{"id", "kept"}}};
  chat["temperature"] = 1.5;
  std::vector<Json> alone;
  for (int i = 0; i < 3; ++i) {
    chat["seed"] = 7 + i;
    alone.push_back(Ask(chat));
  }
  EXPECT_NE(alone[0]["choices"][0]["message"], alone[1]["choices"][0]["message"]);
  chat["seed"] = 7;
  chat["n"] = 3;
  const Json together = Ask(chat);
  ASSERT_EQ(together["choices"].size(), 3);
  int64_t tokens = 0;
  std::vector<std::string> texts(3), finishes(3);
  for (int i = 0; i < 3; ++i) {
    Json choice = alone[static_cast<size_t>(i)]["choices"][0];
    choice["index"] = i;
    EXPECT_EQ(together["choices"][i], choice);
    tokens += alone[static_cast<size_t>(i)]["usage"]["completion_tokens"].get<int64_t>();
  }
  Json usage = alone[0]["usage"];  // of the prompt once
  usage["completion_tokens"] = tokens;
  usage["total_tokens"] = tokens + usage["prompt_tokens"].get<int64_t>();
  EXPECT_EQ(together["usage"], usage);

  chat["stream_options"] = {{"include_usage", true}};
  const std::vector<Json> events = Stream("/v1/chat/completions", chat);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json& choice = events[i]["choices"].at(0);
    const auto index = choice["index"].get<size_t>();
    EXPECT_EQ(finishes[index], "") << "after its end";
    texts[index] += choice["delta"].value("content", "");
    if (!choice["finish_reason"].is_null()) finishes[index] = choice["finish_reason"];
  }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(texts[i], together["choices"][i]["message"]["content"]);
    EXPECT_EQ(finishes[i], together["choices"][i]["finish_reason"]);
  }
  EXPECT_EQ(events.back()["usage"], usage);
  EXPECT_TRUE(events.back()["choices"].empty());
  // Greedy ones are equal.
  chat.erase("stream_options");
  chat["temperature"] = 0;
  const Json greedy = Ask(chat);
  EXPECT_EQ(greedy["choices"][0]["message"], greedy["choices"][2]["message"]);
}

TEST_F(RouterSamplingTest, AllAnswersEndWithTheClient) {
  Start();
  Json chat = Chat("Go on", 400);
  chat["n"] = 4;
  chat["stream"] = true;
  const auto client = Begin("POST", "/v1/chat/completions", chat.dump());
  (void)client->ReadThrough("\"content\":");
  client->Reset();
  EXPECT_TRUE(Idle());
  chat["stream"] = false;
  chat["kv"]["deadline_ms"] = 1;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 504);
  EXPECT_TRUE(Idle());
}

TEST_F(RouterSamplingTest, EachAnswerWaitsLikeARequest) {
  infer::Scheduler::Options scheduling;
  scheduling.max_waiting = 3;
  Start(scheduling);
  Json chat = Chat("Why?", 2);
  chat["n"] = 4;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 429);
  chat["n"] = 3;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 200);
}

TEST_F(RouterSamplingTest, LogprobsBelongToTheText) {
  Start();
  Json chat = Chat("What is kept?", 12);
  chat["logit_bias"] = {{absl::StrCat(kvlink::testing::kTinyEnd), -100}};
  chat["logprobs"] = true;
  chat["top_logprobs"] = 4;
  const Json choice = Ask(chat)["choices"][0];
  const Json tokens = choice["logprobs"]["content"];
  ASSERT_GT(tokens.size(), 3);
  for (const Json& token : tokens) {
    ASSERT_EQ(token["top_logprobs"].size(), 4);
    EXPECT_EQ(token["top_logprobs"][0]["bytes"], token["bytes"]) << "a greedy answer takes the likeliest";
    EXPECT_EQ(token["top_logprobs"][0]["logprob"], token["logprob"]);
    double sum = 0;
    for (const Json& one : token["top_logprobs"]) sum += std::exp(one["logprob"].get<double>());
    EXPECT_LE(sum, 1.0001);
  }
  EXPECT_EQ(Joined(Stream("/v1/chat/completions", chat), 0)["content"], tokens);
}

// To write the numbers of long answers takes a while, in which the answers of others go on.
TEST_F(RouterSamplingTest, LogprobsAreWrittenBesideThePasses) {
  Router::Options options;
  const auto records = LogTo(&options, [](const Record&) {
    char name[16] = {};
    pthread_getname_np(pthread_self(), name, sizeof(name));
    return std::string(name);
  });
  Start({}, options);
  Json chat = Chat("What is kept?", 4);
  Ask(chat);
  EXPECT_THAT(records->Take(1), ::testing::ElementsAre("scheduler"));
  chat["logprobs"] = true;
  Ask(chat);
  EXPECT_THAT(records->Take(1), ::testing::ElementsAre("requests"));
}

TEST_F(RouterSamplingTest, AStopStringTakesTheLogprobsBehindIt) {
  Start();
  Json chat = Chat("What is kept?", 40);
  chat["logit_bias"] = Letters();
  chat["logprobs"] = true;
  chat["temperature"] = 1.5;
  for (int seed = 0; seed < 5; ++seed) {
    chat["seed"] = seed;
    chat.erase("stop");
    const Json whole = Ask(chat)["choices"][0];
    const std::string text = whole["message"]["content"];
    ASSERT_EQ(BytesOf(whole["logprobs"]["content"]), text);
    const size_t begin = text.size() - 6;
    ASSERT_EQ(text.find(text.substr(begin)), begin);
    chat["stop"] = text.substr(begin);
    const Json stopped = Ask(chat)["choices"][0];
    EXPECT_EQ(stopped["message"]["content"], text.substr(0, begin));
    // None that has a part of the text is missing, and none that has no part of it is there.
    const Json kept = stopped["logprobs"]["content"];
    for (size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(kept[i], whole["logprobs"]["content"][i]);
    EXPECT_GE(BytesOf(kept).size(), begin);
    EXPECT_LT(BytesOf(kept).size() - kept.back()["bytes"].size(), begin);
    EXPECT_EQ(Joined(Stream("/v1/chat/completions", chat), 0)["content"], kept);
  }
}

TEST_F(RouterSamplingTest, CompletionsHaveTheirOwnLogprobs) {
  Start();
  Json completion = {{"model", "tiny"},    {"prompt", "Once"}, {"max_tokens", 10},
                     {"temperature", 1.5}, {"seed", 3},        {"logprobs", 2}};
  completion["logit_bias"] = Letters();
  const Json choice = Ask("/v1/completions", completion)["choices"][0];
  const Json logprobs = choice["logprobs"];
  const size_t count = logprobs["tokens"].size();
  ASSERT_GT(count, 3);
  for (const char* list : {"token_logprobs", "top_logprobs", "text_offset"}) EXPECT_EQ(logprobs[list].size(), count);
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(logprobs["text_offset"][i], text.size());
    text += logprobs["tokens"][i].get<std::string>();
  }
  EXPECT_EQ(choice["text"], text);
  int more = 0;  // the one that was chosen is no other's
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(logprobs["top_logprobs"][i].at(logprobs["tokens"][i].get<std::string>()), logprobs["token_logprobs"][i]);
    more += logprobs["top_logprobs"][i].size() > 2 ? 1 : 0;
    EXPECT_LE(logprobs["top_logprobs"][i].size(), 3);
  }
  EXPECT_GT(more, 0);
  EXPECT_EQ(Joined(Stream("/v1/completions", completion), 0), logprobs);
}

TEST_F(RouterSamplingTest, BiasesAndPenaltiesChangeTheAnswer) {
  Start();
  Json chat = Chat("What is kept?", 30);
  const std::string plain = Ask(chat)["choices"][0]["message"]["content"];
  const std::string a = absl::StrCat(*tokenizer_->TokenId("a")), letters(30, 'a');
  chat["logit_bias"][a] = 100;
  EXPECT_EQ(Ask(chat)["choices"][0]["message"]["content"], letters);
  chat["logit_bias"][a] = 10;
  chat["frequency_penalty"] = 2;
  const std::string penalised = Ask(chat)["choices"][0]["message"]["content"];
  EXPECT_EQ(penalised.substr(0, 1), "a");
  EXPECT_NE(penalised, letters);
  chat.erase("frequency_penalty");
  chat["logit_bias"] = {{"320", 1}};
  EXPECT_THAT(ErrorOf(chat), ::testing::HasSubstr("\"logit_bias.320\""));
  chat.erase("logit_bias");
  EXPECT_EQ(Ask(chat)["choices"][0]["message"]["content"], plain);
  chat["logit_bias"] = Letters();
  const std::string written = Ask(chat)["choices"][0]["message"]["content"];
  for (const char* member : {"presence_penalty", "frequency_penalty", "repetition_penalty"}) {
    Json one = chat;
    one[member] = 2;
    EXPECT_NE(Ask(one)["choices"][0]["message"]["content"], written) << member;
  }
}

}  // namespace
}  // namespace kvlink::serve::testing
