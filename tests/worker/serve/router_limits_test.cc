// What one client, one key or a silent store may cost the others; what is counted; and what a browser may reach.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "tests/worker/infer/scheduler_fixture.h"
#include "tests/worker/serve/router_fixture.h"
#include "worker/serve/api/errors.h"

namespace kvlink::serve::testing {
namespace {

using infer::Gate;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class RouterLimitsTest : public RouterTest {
 protected:
  // Those who look documents up wait for the gate, and then hear `answer`.
  void HoldCatalogAt(Gate* gate, const absl::Status& answer) {
    hold_ = [this, gate, answer] {
      if (!held_) return absl::OkStatus();
      gate->Wait();
      return answer;
    };
  }
  static Json Named(const std::string& id) {
    Json chat = Chat("What is kept?", 2);
    chat["documents"] = {{{"id", id}}};
    return chat;
  }
  int64_t TokensOf(const std::string& text) const {
    return static_cast<int64_t>(tokenizer_->Encode(link::DocumentText(profile_, "", text), false)->size());
  }
  static std::string Sentences(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) absl::StrAppend(&text, "Glass ", i, " holds sand.\n");
    return text;
  }

  std::atomic<bool> held_{true};
};

TEST_F(RouterLimitsTest, EachTokenOfAPromptIsCountedOnce) {
  Start();
  const std::string kept = Sentences(7);
  const Answer made = Send("PUT", "/v1/documents/kept", Json{{"text", kept}}.dump());
  ASSERT_EQ(Json::parse(made.body)["parts"], 1) << made.body;
  const auto ask = [&](const std::string& path, const Json& documents, const Json& kv = Json::object()) {
    Json body = Chat("What is kept?", 2);
    if (path == "/v1/responses") body = {{"model", "tiny"}, {"input", "What is kept?"}, {"max_output_tokens", 2}};
    body["documents"] = documents;
    body["kv"] = kv;
    const Answer answer = Send("POST", path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    return Json::parse(answer.body)["usage"];
  };
  const auto with = [](const std::string& text) { return Json{{{"id", "kept"}}, {{"text", text}}}; };
  const int64_t read = TokensOf(kept);
  EXPECT_GT(read, 60);
  const Json chat = ask("/v1/chat/completions", with("One."));
  EXPECT_EQ(chat["prompt_tokens_details"]["cached_tokens"], read);
  EXPECT_EQ(ask("/v1/responses", with("Two."))["input_tokens_details"]["cached_tokens"], read);
  const Json messages = ask("/v1/messages", with("Three."));
  EXPECT_EQ(messages["cache_read_input_tokens"], read);
  EXPECT_EQ(messages["cache_creation_input_tokens"], TokensOf("Three."));
  const Json again = ask("/v1/messages", with("Three."));
  EXPECT_EQ(again["cache_read_input_tokens"], read + TokensOf("Three."));
  EXPECT_EQ(again["cache_creation_input_tokens"], 0);
  EXPECT_EQ(again["input_tokens"], messages["input_tokens"]);
  // Stored once, read the second time.
  const Json twice = ask("/v1/messages", {{{"text", "Mars is red."}}, {{"text", "Mars is red."}}});
  EXPECT_EQ(twice["cache_creation_input_tokens"], TokensOf("Mars is red."));
  EXPECT_EQ(twice["cache_read_input_tokens"], TokensOf("Mars is red."));
  // What is computed again, of all documents but the first, is neither.
  const Json head = ask("/v1/messages", with("Four is new."), {{"linker", "head-2"}});
  EXPECT_EQ(head["cache_read_input_tokens"], read);
  EXPECT_EQ(head["cache_creation_input_tokens"], TokensOf("Four is new.") - 2);
  EXPECT_EQ(ask("/v1/messages", with("Five."), {{"linker", "full"}})["cache_read_input_tokens"], 0);
}

TEST_F(RouterLimitsTest, WhatNobodyStoresIsNotCountedAsStored) {
  write_back_bytes_ = 0;  // as over a store that is read-only
  Start();
  Json body = Chat("What is kept?", 2);
  body["documents"] = {{{"text", "Sand is kept."}}};
  const Json usage = Json::parse(Send("POST", "/v1/messages", body.dump()).body)["usage"];
  EXPECT_EQ(usage["cache_creation_input_tokens"], 0);
  EXPECT_EQ(usage["cache_read_input_tokens"], 0);
}

TEST_F(RouterLimitsTest, ASilentStoreDelaysOnlyThoseWhoAskIt) {
  Gate gate;
  HoldCatalogAt(&gate, absl::DeadlineExceededError("no answer in 9 s"));
  Start();
  const absl::Cleanup open = [&] { gate.Open(); };
  std::vector<std::unique_ptr<HttpClient>> named;
  for (int i = 0; i < 24; ++i) named.push_back(Begin("POST", "/v1/chat/completions", Named("kept").dump()));
  gate.AwaitReached();
  EXPECT_EQ(Send("POST", "/v1/chat/completions", Chat("Go on", 2).dump()).status, 200);
  EXPECT_EQ(Send("POST", "/tokenize", R"({"text": "sand"})").status, 200);
  gate.Open();
  for (const auto& client : named) {
    const Answer answer = client->ReadAnswer();
    EXPECT_EQ(answer.status, 503) << answer.body;
    EXPECT_EQ(answer.headers.count("retry-after"), 1u);
  }
  EXPECT_LT(catalog_->catalog_gets(), 24);  // the others did not wait for it themselves
  held_ = false;
  Answer answer;
  const absl::Time until = SteadyNow() + kPatience;
  while ((answer = Send("GET", "/v1/documents/kept")).status == 503 && SteadyNow() < until) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(answer.status, 404);
}

TEST_F(RouterLimitsTest, ProbesThatComeTogetherAskTheStoreOnce) {
  Gate gate;
  hold_clock_ = [&gate] { gate.Wait(); };
  Start();
  const absl::Cleanup open = [&] { gate.Open(); };
  std::vector<std::unique_ptr<HttpClient>> probes;
  probes.push_back(Begin("GET", "/readyz", ""));
  gate.AwaitReached();
  for (int i = 0; i < 30; ++i) probes.push_back(Begin("GET", "/readyz", ""));
  EXPECT_TRUE(kvlink::testing::Eventually([&] { return server_->stats().requests == 31; }));
  gate.Open();
  for (const auto& probe : probes) EXPECT_EQ(probe->ReadAnswer().status, 200);
  EXPECT_LE(catalog_->clocks(), 5);  // one or two, and for who came while the gate opened
}

TEST_F(RouterLimitsTest, WhyTheStoreFailedIsForTheLog) {
  absl::Status answer;
  hold_ = [&answer] { return answer; };
  Router::Options options;
  const auto causes = LogTo(&options, [](const Record& record) { return CauseOf(record.error); });
  Start({}, options);
  for (const bool busy : {true, false}) {
    const absl::string_view why = "/disk/store/index/000017.sst: Too many open files";
    answer = busy ? absl::UnavailableError(why) : absl::InternalError(why);
    const Answer failed = Send("POST", "/v1/chat/completions", Named("kept").dump());
    EXPECT_EQ(failed.status, busy ? 503 : 500);
    EXPECT_EQ(failed.headers.count("retry-after"), busy ? 1 : 0);
    EXPECT_THAT(failed.body, HasSubstr("the store failed"));
    EXPECT_THAT(failed.body, Not(HasSubstr("disk")));
    EXPECT_THAT(causes->Take(1), ElementsAre(AllOf(HasSubstr(busy ? "UNAVAILABLE" : "INTERNAL"), HasSubstr("disk"))));
  }
}

TEST_F(RouterLimitsTest, ADeadlineIsThatOfTheWholeAnswer) {
  hold_ = [] {
    absl::SleepFor(absl::Milliseconds(100));
    return absl::OkStatus();
  };
  Start();
  ASSERT_EQ(Send("PUT", "/v1/documents/kept", R"({"text": "Sand is kept."})").status, 201);
  Json chat = Named("kept");
  ASSERT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 200);
  chat["kv"]["deadline_ms"] = 90;
  EXPECT_EQ(Send("POST", "/v1/chat/completions", chat.dump()).status, 504);
}

TEST_F(RouterLimitsTest, OneKeyDoesNotTakeAllRoom) {
  Gate gate;
  HoldCatalogAt(&gate, absl::OkStatus());
  Router::Options options;
  options.authorize = [](absl::string_view key) -> absl::StatusOr<Caller> { return Caller{std::string(key), true}; };
  options.threads = 1;
  options.lookup_threads = 1;
  options.max_queued = 8;
  Start({}, options);
  const absl::Cleanup open = [&] { gate.Open(); };
  const auto named = [&](const std::string& key) {
    return Begin("POST", "/v1/chat/completions", Named("kept").dump(), "x-api-key: " + key + "\r\n");
  };
  const auto tokenize = [&](const std::string& key) {
    return Begin("POST", "/tokenize", R"({"text": "sand"})", "x-api-key: " + key + "\r\n")->ReadAnswer().status;
  };
  std::vector<std::unique_ptr<HttpClient>> alices;
  for (int i = 0; i < 12; ++i) {
    alices.push_back(named("alice"));
    EXPECT_EQ(tokenize("alice"), 200);  // on the same thread, so the other one waits for the store by now
    if (i == 0) gate.AwaitReached();
  }
  const auto bob = named("bob");
  EXPECT_EQ(tokenize("bob"), 200);
  gate.Open();
  EXPECT_EQ(bob->ReadAnswer().status, 404);
  for (size_t i = 0; i < alices.size(); ++i) {
    EXPECT_EQ(alices[i]->ReadAnswer().status, i < 3 ? 404 : 429) << i;  // one had its turn, two waited
  }
}

TEST_F(RouterLimitsTest, AShortDocumentDoesNotWaitForALongOne) {
  Start();
  Gate gate;
  std::atomic<int> puts{0};
  catalog_->OnPut([&](const Identity&) {
    if (puts++ == 0) gate.Wait();
  });
  const absl::Cleanup open = [&] { gate.Open(); };
  const auto first = Begin("PUT", "/v1/documents/long", Json{{"text", Sentences(60)}}.dump());
  gate.AwaitReached();
  EXPECT_EQ(Send("PUT", "/v1/documents/short", R"({"text": "Sand."})").status, 201);
  gate.Open();
  EXPECT_EQ(first->ReadAnswer().status, 201);
}

TEST_F(RouterLimitsTest, TheEndCutsOffDocumentsToo) {
  Router::Options options;
  options.document_threads = 1;
  Start({}, options);
  Gate gate;
  catalog_->OnPut([&](const Identity&) { gate.Wait(); });
  const absl::Cleanup open = [&] { gate.Open(); };
  const auto written = Begin("PUT", "/v1/documents/long", Json{{"text", Sentences(60)}}.dump());
  gate.AwaitReached();
  const auto waiting = Begin("PUT", "/v1/documents/other", R"({"text": "Sand."})");
  std::thread end([&] { router_->EndDrain(); });
  const Answer told = waiting->ReadAnswer();
  EXPECT_EQ(told.status, 503) << told.body;
  gate.Open();
  const Answer cut = written->ReadAnswer();
  EXPECT_EQ(cut.status, 503) << cut.body;
  EXPECT_THAT(cut.body, HasSubstr("shutting down"));
  end.join();
  EXPECT_EQ(Send("POST", "/tokenize", R"({"text": "sand"})").status, 503);
  EXPECT_EQ(store_->GetDocument("default", "long").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RouterLimitsTest, WhatCanNeverFitIsRefusedAtOnce) {
  private_tokens_ = 64;
  Start();
  const Answer large = Send("POST", "/v1/chat/completions", Chat(Sentences(20), 2).dump());
  EXPECT_EQ(large.status, 400) << large.body;
  EXPECT_EQ(large.headers.count("retry-after"), 0u);
  // These are not even tokenised.
  Json chat = Chat("What?", 2);
  chat["documents"] = {{{"title", std::string((64 << 10) + 1, 't')}, {"text", "Sand."}}};
  const Answer title = Send("POST", "/v1/chat/completions", chat.dump());
  EXPECT_EQ(title.status, 400);
  EXPECT_THAT(title.body, HasSubstr("title"));
  const std::string long_text(512 * 256 + 1, 'x');
  EXPECT_EQ(Send("POST", "/tokenize", Json{{"text", long_text}}.dump()).status, 400);
  const Answer tokens = Send("POST", "/tokenize", Json{{"text", "Sand is kept."}}.dump());
  const std::vector<int32_t> expected = *tokenizer_->Encode("Sand is kept.", false);
  EXPECT_EQ(Json::parse(tokens.body), (Json{{"count", expected.size()}, {"tokens", expected}}));
}

TEST_F(RouterLimitsTest, TheDefaultOfMaxTokensIsALimitOnly) {
  Start();
  std::string prompt = "Sand";
  while (tokenizer_->Encode(prompt, false)->size() < 500) prompt += " and";
  Json body = {{"model", "tiny"}, {"prompt", prompt}, {"temperature", 0}};
  const Answer answer = Send("POST", "/v1/completions", body.dump());
  EXPECT_EQ(answer.status, 200) << answer.body;
  body["max_tokens"] = 16;
  EXPECT_EQ(Send("POST", "/v1/completions", body.dump()).status, 400);
}

TEST_F(RouterLimitsTest, APageOfAnotherSiteIsNotAnswered) {
  Router::Options options;
  options.host = "serve.example";
  Start({}, options);
  const auto with = [&](const std::string& host) {
    HttpClient client;
    EXPECT_TRUE(client.Connect(server_->address()));
    EXPECT_TRUE(client.Send("GET /v1/models HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"));
    return client.ReadAnswer().status;
  };
  for (const std::string host :
       {"localhost", "LocalHost:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:80", "serve.example"}) {
    EXPECT_EQ(with(host), 200) << host;
  }
  for (const std::string host : {"evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "10.0.0.1"}) {
    EXPECT_EQ(with(host), 421) << host;
  }
  // A page of another site needs no name of its own to send, and no answer for what that does.
  const auto from = [&](const std::string& origin) {
    return Begin("POST", "/tokenize", R"({"text":"a"})", absl::StrCat("Origin: ", origin, "\r\n"))->ReadAnswer().status;
  };
  for (const std::string origin : {"http://localhost:8080", "https://127.0.0.1", "http://[::1]:80"}) {
    EXPECT_EQ(from(origin), 200) << origin;
  }
  for (const std::string origin : {"https://evil.example", "http://localhost.evil.example:80", "null", "http://",
                                   "file://localhost", "localhost"}) {
    EXPECT_EQ(from(origin), 403) << origin;
  }
  HttpClient client;
  ASSERT_TRUE(client.Connect(server_->address()));
  ASSERT_TRUE(client.Send(
      "POST /tokenize HTTP/1.1\r\nHost: evil.example\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"));
  EXPECT_EQ(client.ReadAnswer().status, 421);  // before its body is received
}

}  // namespace
}  // namespace kvlink::serve::testing
