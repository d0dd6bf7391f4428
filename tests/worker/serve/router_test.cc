// The routes over a tiny model, in this process, so that sanitizers see them: crowds, refusals, and the end.
#include <gmock/gmock.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/seed.h"
#include "tests/worker/serve/router_fixture.h"

namespace kvlink::serve::testing {
namespace {

using kvlink::testing::kSanitized;
using kvlink::testing::Soak;
using kvlink::testing::TestSeed;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST_F(RouterTest, ADocumentIsCutAsIngestCutsIt) {
  Start();
  std::string text;
  for (int i = 0; i < 20; ++i) absl::StrAppend(&text, "Glass ", i, " holds sand.\n");
  const Answer made = Send("PUT", "/v1/documents/sand", Json{{"title", "Sand"}, {"text", text}}.dump());
  ASSERT_EQ(made.status, 201) << made.body;
  const Json document = Json::parse(made.body);
  EXPECT_GT(document["parts"], 1);
  EXPECT_EQ(document["encoded_parts"], document["parts"]);
  // The same text in a request has the same parts, and so has a range of them.
  Json chat = Chat("How much?", 2);
  chat["kv"] = {{"on_miss", "fail"}, {"report", true}};
  chat["documents"] = {{{"title", "Sand"}, {"text", text}}};
  const Answer inline_answer = Send("POST", "/v1/chat/completions", chat.dump());
  ASSERT_EQ(inline_answer.status, 200) << inline_answer.body;
  chat["documents"] = {{{"id", "sand"}}};
  const Answer named = Send("POST", "/v1/chat/completions", chat.dump());
  EXPECT_EQ(Json::parse(named.body)["choices"], Json::parse(inline_answer.body)["choices"]);
  EXPECT_EQ(Json::parse(named.body)["usage"], Json::parse(inline_answer.body)["usage"]);
  EXPECT_EQ(Json::parse(named.body)["kv"]["documents"]["resident"], document["parts"]);
  chat["documents"] = {{{"id", "sand"}, {"parts", "2"}}};
  const Answer part = Send("POST", "/v1/chat/completions", chat.dump());
  EXPECT_EQ(Json::parse(part.body)["kv"]["documents"]["resident"], 1) << part.body;
}

TEST_F(RouterTest, TheUsageSaysWhatWasReadAndWhatWasStored) {
  Start();
  const Answer made = Send("PUT", "/v1/documents/kept", R"({"text": "Sand is kept in the glass."})");
  const int64_t kept = Json::parse(made.body)["tokens"];
  const std::string texts[] = {"Water is not kept, and never was.", "Stones are kept from now on."};
  Json chat = Chat("What is kept?", 2);
  const auto ask = [&](const std::string& text, const Json& kv) {
    chat["documents"] = {{{"id", "kept"}}, {{"text", text}}};
    chat["kv"] = kv;
    const Answer answer = Send("POST", "/v1/messages", chat.dump());
    EXPECT_TRUE(generator_->DrainWriteBack(SteadyNow() + kPatience));
    return Json::parse(answer.body);
  };
  const auto tokens = [&](const std::string& text) {
    return static_cast<int64_t>(tokenizer_->Encode(link::DocumentText(profile_, "", text), false)->size());
  };
  const Json unstored = ask(texts[0], {{"store", false}})["usage"];
  EXPECT_EQ(unstored["cache_read_input_tokens"], kept);
  EXPECT_EQ(unstored["cache_creation_input_tokens"], 0);
  EXPECT_GT(unstored["input_tokens"], tokens(texts[0]));
  EXPECT_EQ(ask(texts[0], {{"on_miss", "fail"}})["type"], "error");
  const Json stored = ask(texts[1], Json::object())["usage"];
  EXPECT_EQ(stored["cache_read_input_tokens"], kept);
  EXPECT_EQ(stored["cache_creation_input_tokens"], tokens(texts[1]));
  EXPECT_EQ(ask(texts[1], {{"on_miss", "fail"}})["usage"]["cache_read_input_tokens"], kept + tokens(texts[1]));
}

// Clients that ask, vanish, write, delete and talk nonsense, all at once. What is asked twice is answered alike.
TEST_F(RouterTest, ACrowdGetsWhatEachWouldAlone) {
  infer::Scheduler::Options scheduling;
  scheduling.max_running = 6;
  Start(scheduling);
  ASSERT_EQ(Send("PUT", "/v1/documents/kept", R"({"text": "There are 7919 grains of sand in the glass."})").status,
            201);
  Json asked = Chat("How many grains?", 12);
  asked["documents"] = Json::parse(R"([{"id": "kept"}, {"title": "More", "text": "And one more in the next."}])");
  const std::string expected =
      Json::parse(Send("POST", "/v1/chat/completions", asked.dump()).body)["choices"][0]["message"]["content"];
  const int rounds = Soak() ? 200 : kSanitized ? 8 : 20;
  std::vector<std::thread> clients;
  for (int number = 0; number < 10; ++number) {
    clients.emplace_back([&, number] {
      std::mt19937_64 random(TestSeed() + number);
      for (int round = 0; round < rounds; ++round) {
        const std::string path = absl::StrCat("/v1/documents/d", random() % 3);
        switch (random() % 8) {
          case 0: {
            HttpClient client;
            ASSERT_TRUE(client.Connect(server_->address()));
            Json chat = Chat(absl::StrCat("Say ", random() % 5), 200);
            chat["stream"] = true;
            ASSERT_TRUE(client.Send(Request("POST", "/v1/chat/completions", chat.dump())));
            if (random() % 2 == 0) (void)client.ReadThrough("data: ");
            client.Reset();
            break;
          }
          case 1:
            EXPECT_THAT(Send("PUT", path, R"({"text": "Sand and sand."})").status, AnyOf(200, 201, 400));
            break;
          case 2:
            EXPECT_EQ(Send("DELETE", path).status, 200);
            break;
          case 3: {
            Json chat = Chat("How many?", 3);
            chat["documents"] = {{{"id", path.substr(14)}}};
            EXPECT_THAT(Send("POST", "/v1/messages", chat.dump()).status, AnyOf(200, 404));
            break;
          }
          case 4:
            EXPECT_EQ(Send("POST", "/v1/chat/completions", "[[[[").status, 400);
            EXPECT_EQ(Send("GET", "/metrics").status, 200);
            break;
          default: {
            const Answer answer = Send("POST", "/v1/chat/completions", asked.dump());
            ASSERT_EQ(answer.status, 200) << answer.body;
            EXPECT_EQ(Json::parse(answer.body)["choices"][0]["message"]["content"], expected);
          }
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(Idle());
}

TEST_F(RouterTest, MoreThanMayWaitAreToldToComeAgain) {
  infer::Scheduler::Options scheduling;
  scheduling.max_running = 1;
  scheduling.max_waiting = 1;
  Start(scheduling);
  Json chat = Chat("Go on", 300);
  chat["stream"] = true;
  std::vector<std::unique_ptr<HttpClient>> clients;
  Answer refused;
  // One runs, at most a few land or wait, and then there is no room.
  while (refused.status != 429 && clients.size() < 40) {
    clients.push_back(std::make_unique<HttpClient>());
    ASSERT_TRUE(clients.back()->Connect(server_->address()));
    ASSERT_TRUE(clients.back()->Send(Request("POST", "/v1/chat/completions", chat.dump())));
    refused = Send("POST", "/v1/chat/completions", Chat("And I?", 300).dump());
  }
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers["retry-after"], "1");
  EXPECT_EQ(Json::parse(refused.body)["error"]["type"], "rate_limit_error");
  for (auto& client : clients) client->Reset();
  EXPECT_TRUE(Idle());
}

TEST_F(RouterTest, WhatTheEndCutsOffIsToldSo) {
  Start();
  Json chat = Chat("Go on", 400);
  chat["stream"] = true;
  HttpClient client;
  ASSERT_TRUE(client.Connect(server_->address()));
  ASSERT_TRUE(client.Send(Request("POST", "/v1/chat/completions", chat.dump())));
  EXPECT_THAT(client.ReadThrough("data: "), HasSubstr("200 OK"));
  EXPECT_EQ(Send("GET", "/readyz").status, 200);
  router_->BeginDrain();
  EXPECT_EQ(Send("GET", "/readyz").status, 503);
  scheduler_->Drain(SteadyNow());
  const std::string rest = client.ReadToEnd();
  // Unless the answer was faster than the end.
  EXPECT_THAT(rest, AnyOf(HasSubstr("shutting down"), HasSubstr("[DONE]")));
  EXPECT_EQ(Send("POST", "/v1/chat/completions", Chat("And now?", 3).dump()).status, 503);
}

TEST_F(RouterTest, AnAnswerThatTakesTooLongEndsWithItsDeadline) {
  Start();
  Json chat = Chat("Go on", 400);
  chat["kv"]["deadline_ms"] = 1;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 504);
  chat["kv"]["deadline_ms"] = 3600000;
  chat["max_tokens"] = 2;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 200);
}

TEST_F(RouterTest, KeysSayWhoMayDoWhat) {
  Router::Options options;
  options.authorize = [](absl::string_view key) -> absl::StatusOr<Caller> {
    if (key == "writer") return Caller{"writer", true};
    if (key == "reader") return Caller{"reader", false};
    return absl::UnauthenticatedError("unknown");
  };
  const auto logged = LogTo(&options, [](const Record& record) {
    return absl::StrCat(record.route, " ", record.caller, " ", record.status);
  });
  Start({}, options);
  const auto with = [&](const std::string& method, const std::string& path, const std::string& header) {
    HttpClient client;
    EXPECT_TRUE(client.Connect(server_->address()));
    const std::string body = method == "PUT" ? R"({"text": "Sand."})" : "";
    EXPECT_TRUE(client.Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\nContent-Length: ",
                                         body.size(), "\r\n", header, "\r\n\r\n", body)));
    return client.ReadAnswer();
  };
  EXPECT_EQ(with("GET", "/v1/models", "authorization: bearer reader").status, 200);
  EXPECT_EQ(with("GET", "/v1/models", "X-Api-Key: writer").status, 200);
  const Answer unknown = with("GET", "/v1/models", "X-Api-Key: other");
  EXPECT_EQ(unknown.status, 401);
  EXPECT_EQ(unknown.headers.at("www-authenticate"), "Bearer");
  EXPECT_EQ(Json::parse(unknown.body)["error"]["code"], "invalid_api_key");
  EXPECT_EQ(with("GET", "/v1/models", "Authorization: Basic reader").status, 401);
  EXPECT_EQ(with("PUT", "/v1/documents/a", "x-api-key: reader").status, 403);
  EXPECT_EQ(with("PUT", "/v1/documents/a", "x-api-key: writer").status, 201);
  EXPECT_EQ(with("DELETE", "/v1/documents/a", "x-api-key: reader").status, 403);
  EXPECT_EQ(with("GET", "/metrics", "x: y").status, 200);
  EXPECT_THAT(logged->Take(7),
              UnorderedElementsAre("models reader 200", "models writer 200", "models  401", "models  401",
                                   "put_document reader 403", "put_document writer 201", "delete_document reader 403"));
}

TEST_F(RouterTest, WhatIsRefusedByItsHeadIsNotReceived) {
  Router::Options options;
  options.authorize = [](absl::string_view key) -> absl::StatusOr<Caller> {
    if (key == "reader") return Caller{"reader", false};
    return absl::UnauthenticatedError("unknown");
  };
  Start({}, options);
  const auto head = [&](const std::string& method, const std::string& path, const std::string& key) {
    HttpClient client;
    EXPECT_TRUE(client.Connect(server_->address()));
    EXPECT_TRUE(client.Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\nx-api-key: ", key,
                                         "\r\nExpect: 100-continue\r\nContent-Length: 33554432\r\n\r\n")));
    return client.ReadAnswer().status;
  };
  EXPECT_EQ(head("POST", "/v1/chat/completions", ""), 401);
  EXPECT_EQ(head("POST", "/v1/chat/completions", "other"), 401);
  EXPECT_EQ(head("PUT", "/v1/documents/a", "reader"), 403);
  EXPECT_EQ(head("POST", "/v1/chat", "reader"), 404);
  EXPECT_EQ(head("POST", "/metrics", "reader"), 405);
  EXPECT_EQ(head("GET", "/livez", ""), 200);
  EXPECT_EQ(head("POST", "/v1/chat/completions", "reader"), 100);
}

}  // namespace
}  // namespace kvlink::serve::testing
