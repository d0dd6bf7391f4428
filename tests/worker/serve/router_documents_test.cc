// Documents over HTTP beyond one at a time: batches, prefetches, pins, usage; and what a request may ask of documents
// that the store lacks, or that are only for some.
#include <gmock/gmock.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/worker/infer/scheduler_fixture.h"
#include "tests/worker/serve/router_fixture.h"

namespace kvlink::serve::testing {
namespace {

using infer::Gate;
using kvlink::testing::Eventually;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kBatch[] = "/v1/documents:batch";

class RouterDocumentsTest : public RouterTest {
 protected:
  static Json Text(const std::string& text) { return {{{"text", text}}}; }
  // The answer's JSON; its status must be this.
  Json Post(const std::string& path, const Json& body, int status = 200) const {
    const Answer answer = Send("POST", path, body.dump());
    EXPECT_EQ(answer.status, status) << answer.body;
    return Json::parse(answer.body);
  }
  // A chat over documents, with `kv` and a report.
  Json Ask(const Json& documents, Json kv = Json::object(), const std::string& salt = "", int status = 200) const {
    Json chat = Chat("What is kept?", 4);
    chat["documents"] = documents;
    kv["report"] = true;
    chat["kv"] = kv;
    if (!salt.empty()) chat["cache_salt"] = salt;
    return Post("/v1/chat/completions", chat, status);
  }
  // Begins a batch of three documents, and returns once the first one is held at the gate. The path of the batch.
  std::string BeginHeldBatch(Gate* gate) {
    catalog_->OnPut([gate](const Identity&) { gate->Wait(); });
    Json body;
    for (int i = 0; i < 3; ++i) {
      body["documents"].push_back({{"id", absl::StrCat("d", i)}, {"text", absl::StrCat("Sand ", i)}});
    }
    const std::string path = Send("POST", kBatch, body.dump()).headers.at("location");
    gate->AwaitReached();
    return path;
  }
  static int64_t Cached(const Json& answer) {
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"].get<int64_t>();
  }
  int64_t TokensOf(const std::string& text) const {
    return static_cast<int64_t>(tokenizer_->Encode(link::DocumentText(profile_, "", text), false)->size());
  }
  void Put(const std::string& id, const std::string& text) const {
    ASSERT_EQ(Send("PUT", "/v1/documents/" + id, Json{{"text", text}}.dump()).status, 201);
  }
  // Those of the first part of a document.
  Identity IdentityOf(const std::string& id) const { return store_->GetDocument("default", id)->parts.at(0).identity; }
  double Metric(const std::string& name) const {
    for (const absl::string_view line : absl::StrSplit(Send("GET", "/metrics").body, '\n')) {
      const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(line, ' ');
      double value = 0;
      if (pair.first == absl::StrCat("kvlink_serve_", name) && absl::SimpleAtod(pair.second, &value)) return value;
    }
    ADD_FAILURE() << "no metric " << name;
    return -1;
  }
  Json Ended(const std::string& path) const {
    Json batch;
    EXPECT_TRUE(Eventually([&] {
      batch = Json::parse(Send("GET", path).body);
      return batch["state"] != "running";
    })) << batch;
    return batch;
  }
  // Those who look documents up hear this, while `silent_`.
  void BeSilent() {
    silent_ = true;
    hold_ = [this] { return silent_ ? absl::DeadlineExceededError("no answer in 9 s") : absl::OkStatus(); };
  }

  std::atomic<bool> silent_{false};
};

TEST_F(RouterDocumentsTest, WhatTheStoreLacksIsComputedAsText) {
  Start();
  Put("kept", "Sand is kept in the glass.");
  const std::string other = "Water is not kept, and never was.";
  const Json documents = {{{"id", "kept"}}, {{"text", other}}};
  const Json full = Ask(documents, {{"linker", "full"}});
  const Json text = Ask(documents, {{"on_miss", "text"}});
  EXPECT_EQ(text["kv"]["documents"]["text"], 1);
  EXPECT_EQ(text["kv"]["documents"]["encoded"], 0);
  EXPECT_EQ(Cached(text), TokensOf("Sand is kept in the glass."));
  EXPECT_EQ(text["usage"]["prompt_tokens"], full["usage"]["prompt_tokens"]);
  // Nothing was stored, so it is the same again.
  EXPECT_EQ(Ask(documents, {{"on_miss", "fail"}}, "", 400)["error"]["message"].get<std::string>().empty(), false);
  const Json again = Ask(documents, {{"on_miss", "text"}});
  EXPECT_EQ(again["choices"], text["choices"]);
  EXPECT_EQ(again["kv"]["documents"]["text"], 1);
  // Alone, it is a full prefill.
  EXPECT_EQ(Ask(Text(other), {{"on_miss", "text"}})["choices"], Ask(Text(other), {{"linker", "full"}})["choices"]);
  EXPECT_EQ(generator_->stats().encoded, 0);
  // Stored or in memory, it is read.
  EXPECT_EQ(Ask(Text(other), {{"store", false}})["kv"]["documents"]["encoded"], 1);
  EXPECT_EQ(Ask(Text(other), {{"on_miss", "text"}})["kv"]["documents"]["resident"], 1);
  // A stored document whose encoding is gone: its tokens are in the catalog.
  ASSERT_TRUE(store_->Remove("default", IdentityOf("kept")).ok());
  ASSERT_TRUE(Eventually([&] {
    generator_->pool().Clear();
    return generator_->pool().stats().residents == 0;
  }));
  const Json gone = Ask({{{"id", "kept"}}}, {{"on_miss", "text"}});
  EXPECT_EQ(gone["kv"]["documents"]["text"], 1);
  EXPECT_EQ(Cached(gone), 0);
  EXPECT_EQ(gone["choices"], Ask({{{"id", "kept"}}}, {{"linker", "full"}})["choices"]);
}

TEST_F(RouterDocumentsTest, TextGoesOnWhileTheStoreIsSilent) {
  Start();
  catalog_->FailLookups(absl::DeadlineExceededError("no answer in 9 s"));
  EXPECT_EQ(Ask(Text("Water."), {{"on_miss", "text"}})["kv"]["documents"]["text"], 1);
  EXPECT_EQ(Ask(Text("Water."), {{"on_miss", "fail"}}, "", 503)["error"]["type"], "server_error");
  EXPECT_EQ(Ask(Text("Water."), {{"on_miss", "text"}})["kv"]["documents"]["text"], 1);  // at once
}

TEST_F(RouterDocumentsTest, TextsAreSharedByThoseWithOneSaltAlone) {
  Start();
  const std::string text = "Sand is kept in the glass.";
  const auto cached = [&](const std::string& salt) {
    const Json answer = Ask(Text(text), Json::object(), salt);
    EXPECT_TRUE(generator_->DrainWriteBack(SteadyNow() + kPatience));
    EXPECT_EQ(Cached(answer) > 0, answer["kv"]["documents"]["encoded"] == 0);
    return Cached(answer);
  };
  EXPECT_EQ(cached("alice"), 0);
  EXPECT_EQ(cached("alice"), TokensOf(text));
  EXPECT_EQ(cached("bob"), 0);
  EXPECT_EQ(cached(""), 0);
  EXPECT_EQ(cached(""), TokensOf(text));
  EXPECT_EQ(cached("bob"), TokensOf(text));
  // Also in the store, and with every way to ask for it.
  generator_->pool().Clear();
  EXPECT_EQ(cached("carol"), 0);
  EXPECT_EQ(cached("alice"), TokensOf(text));
  Ask(Text(text), {{"on_miss", "fail"}}, "bob");
  Ask(Text(text), {{"on_miss", "fail"}}, "dave", 400);
  EXPECT_EQ(Ask(Text(text), {{"on_miss", "text"}}, "dave")["kv"]["documents"]["text"], 1);
  // Stored documents are the namespace's: a salt hides none, and reveals none to a text.
  Put("kept", "Stones are kept, too.");
  EXPECT_GT(Cached(Ask({{{"id", "kept"}}}, Json::object(), "erin")), 0);
  EXPECT_EQ(Cached(Ask(Text("Stones are kept, too."), Json::object(), "erin")), 0);
  EXPECT_GT(Cached(Ask(Text("Stones are kept, too."))), 0);
}

TEST_F(RouterDocumentsTest, ABatchPutsAndDeletesAndSaysWhatFailed) {
  Start();
  Put("old", "It goes.");
  Json body;
  body["documents"] = {{{"id", "a"}, {"title", "A"}, {"text", "Sand is kept."}},
                       {{"id", "old"}, {"delete", true}},
                       {{"id", "empty"}, {"text", ""}},
                       {{"id", "b"}, {"text", "Water is kept."}},
                       {{"id", "b"}, {"text", "Water is not kept."}}};
  const Answer begun = Send("POST", kBatch, body.dump());
  ASSERT_EQ(begun.status, 202) << begun.body;
  const std::string path = begun.headers.at("location");
  EXPECT_EQ(path, absl::StrCat(kBatch, "/", Json::parse(begun.body)["id"].get<std::string>()));
  const Json batch = Ended(path);
  EXPECT_EQ(batch["state"], "done");
  EXPECT_EQ(batch["documents"], 5);
  EXPECT_EQ(batch["done"], 4);
  EXPECT_EQ(batch["failed"], 1);
  EXPECT_EQ(batch["left"], 0);
  ASSERT_EQ(batch["failures"].size(), 1);
  EXPECT_EQ(batch["failures"][0]["index"], 2);
  EXPECT_EQ(batch["failures"][0]["id"], "empty");
  EXPECT_THAT(batch["failures"][0]["error"].get<std::string>(), HasSubstr("empty"));
  EXPECT_EQ(Send("GET", "/v1/documents/old").status, 404);
  EXPECT_EQ(Json::parse(Send("GET", "/v1/documents/a").body)["title"], "A");
  EXPECT_EQ(Json::parse(Send("GET", "/v1/documents/b").body)["tokens"], TokensOf("Water is not kept."));
  EXPECT_GT(Cached(Ask({{{"id", "a"}}})), 0);
  EXPECT_EQ(Metric("batch_documents_total{end=\"done\"}"), 4);
  EXPECT_EQ(Metric("batches_total{end=\"done\"}"), 1);
  EXPECT_EQ(Metric("batches"), 0);
  // Complete documents are not computed again.
  const int64_t puts = catalog_->catalog_puts();
  body["documents"] = {{{"id", "a"}, {"title", "A"}, {"text", "Sand is kept."}}};
  EXPECT_EQ(Ended(Send("POST", kBatch, body.dump()).headers.at("location"))["done"], 1);
  EXPECT_EQ(catalog_->catalog_puts(), puts);
}

TEST_F(RouterDocumentsTest, WrongBatchesAreRefusedAsAWhole) {
  Start();
  Json body;
  for (int i = 0; i < 10000; ++i) body["documents"].push_back({{"id", absl::StrCat("d", i)}, {"text", "Sand."}});
  EXPECT_THAT(Post(kBatch, body, 400)["error"]["message"].get<std::string>(), HasSubstr("at most 1000"));
  body["documents"] = {{{"id", "a"}, {"text", "Sand."}}, {{"id", "b\n"}, {"text", "Sand."}}};
  EXPECT_EQ(Post(kBatch, body, 400)["error"]["param"], "documents[1].id");
  EXPECT_EQ(Send("POST", kBatch, "[[[[").status, 400);
  EXPECT_EQ(Send("GET", "/v1/documents/a").status, 404);
  EXPECT_EQ(Send("GET", absl::StrCat(kBatch, "/batch_0")).status, 404);
  EXPECT_EQ(Send("DELETE", absl::StrCat(kBatch, "/batch_0")).status, 404);
  EXPECT_EQ(Send("GET", kBatch).status, 405);
  EXPECT_EQ(Send("PUT", absl::StrCat(kBatch, "/batch_0")).status, 405);
  router_->BeginDrain();
  body["documents"] = {{{"id", "a"}, {"delete", true}}};
  EXPECT_EQ(Send("POST", kBatch, body.dump()).status, 503);
}

TEST_F(RouterDocumentsTest, ABatchWaitsForASilentStore) {
  BeSilent();
  Start();
  Json body;
  for (int i = 0; i < 3; ++i) body["documents"].push_back({{"id", absl::StrCat("d", i)}, {"text", "Sand."}});
  const Answer begun = Send("POST", kBatch, body.dump());
  ASSERT_EQ(begun.status, 202) << begun.body;
  const std::string path = begun.headers.at("location");
  EXPECT_TRUE(Eventually([&] { return catalog_->catalog_gets() > 0; }));
  EXPECT_EQ(Json::parse(Send("GET", path).body)["state"], "running");
  silent_ = false;
  const Json batch = Ended(path);
  EXPECT_EQ(batch["state"], "done");
  EXPECT_EQ(batch["done"], 3);
}

TEST_F(RouterDocumentsTest, ABatchMayBeCancelled) {
  Start();
  Gate gate;
  const absl::Cleanup open = [&] { gate.Open(); };
  const std::string path = BeginHeldBatch(&gate);
  EXPECT_EQ(Metric("batches"), 1);
  EXPECT_EQ(Json::parse(Send("DELETE", path).body)["state"], "cancelled");
  gate.Open();
  EXPECT_TRUE(Eventually([&] { return Metric("batches") == 0; }));
  const Json batch = Json::parse(Send("GET", path).body);
  EXPECT_EQ(batch["state"], "cancelled");
  EXPECT_GE(batch["left"], 2);
  EXPECT_EQ(Send("GET", "/v1/documents/d2").status, 404);
}

TEST_F(RouterDocumentsTest, TheEndEndsBatchesAndSaysSo) {
  Start();
  Gate gate;
  const absl::Cleanup open = [&] { gate.Open(); };
  const std::string path = BeginHeldBatch(&gate);
  std::thread end([&] { router_->EndDrain(); });
  Json body;
  body["documents"] = {{{"id", "none"}, {"delete", true}}};
  EXPECT_TRUE(Eventually([&] { return Send("POST", kBatch, body.dump()).status == 503; }));
  EXPECT_EQ(Json::parse(Send("GET", path).body)["state"], "running");
  gate.Open();
  end.join();
  const Json batch = Json::parse(Send("GET", path).body);
  EXPECT_EQ(batch["state"], "failed");
  EXPECT_THAT(batch["error"].get<std::string>(), HasSubstr("shutting down"));
  EXPECT_GE(batch["left"], 2);
}

TEST_F(RouterDocumentsTest, KeysSayWhoMayDoWhat) {
  Router::Options options;
  options.authorize = [](absl::string_view key) -> absl::StatusOr<Caller> {
    return Caller{std::string(key), absl::StartsWith(key, "writer")};
  };
  Start({}, options);
  const auto with = [&](const std::string& key, const std::string& method, const std::string& path,
                        const Json& body = nullptr) {
    return Begin(method, path, body.is_null() ? "" : body.dump(), "x-api-key: " + key + "\r\n")->ReadAnswer();
  };
  const Json ids = {{"documents", {"a"}}};
  const Json batch = {{"documents", {{{"id", "a"}, {"text", "Sand is kept."}}}}};
  for (const char* path : {kBatch, "/v1/documents:pin", "/v1/documents:unpin"}) {
    EXPECT_EQ(with("reader", "POST", path, ids).status, 403) << path;
  }
  EXPECT_EQ(with("reader", "POST", "/v1/documents:prefetch", ids).status, 202);
  EXPECT_EQ(with("reader", "GET", "/v1/usage").status, 200);
  const Answer begun = with("writer", "POST", kBatch, batch);
  ASSERT_EQ(begun.status, 202) << begun.body;
  const std::string path = begun.headers.at("location");
  EXPECT_EQ(with("writer", "GET", path).status, 200);
  EXPECT_EQ(with("writer2", "GET", path).status, 404);  // another key's
  EXPECT_EQ(with("writer2", "DELETE", path).status, 404);
  EXPECT_EQ(with("reader", "GET", path).status, 403);
}

TEST_F(RouterDocumentsTest, APrefetchLoadsWhatTheStoreHas) {
  Start();
  Put("kept", "Sand is kept in the glass.");
  Json body = {{"documents", {"kept", "none", {{"text", "Water."}}}}};
  const Json begun = Post("/v1/documents:prefetch", body, 202);
  EXPECT_EQ(begun["found"], 1);
  EXPECT_EQ(begun["loading"], 1);
  EXPECT_EQ(begun["missing"], 1);
  EXPECT_EQ(begun["resident"], 0);
  EXPECT_EQ(begun["unknown"], Json::array({"none"}));
  EXPECT_TRUE(Eventually([&] { return Metric("prefetched_total{end=\"loaded\"}") == 1; }));
  EXPECT_EQ(generator_->stats().encoded, 0);  // and nothing is computed
  EXPECT_EQ(Post("/v1/documents:prefetch", body, 202)["resident"], 1);
  EXPECT_EQ(Ask({{{"id", "kept"}}})["kv"]["documents"]["resident"], 1);
  // Under a salt, the text is another's.
  Ask(Text("Water."), Json::object(), "alice");
  ASSERT_TRUE(generator_->DrainWriteBack(SteadyNow() + kPatience));
  body = {{"documents", {{{"text", "Water."}}}}};
  EXPECT_EQ(Post("/v1/documents:prefetch", body, 202)["missing"], 1);
  body["cache_salt"] = "alice";
  EXPECT_EQ(Post("/v1/documents:prefetch", body, 202)["resident"], 1);
  body["linker"] = "full";  // reads nothing
  EXPECT_EQ(Post("/v1/documents:prefetch", body, 202)["resident"], 0);
  body["linker"] = "glue";
  EXPECT_EQ(Post("/v1/documents:prefetch", body, 400)["error"]["param"], "linker");
}

TEST_F(RouterDocumentsTest, APrefetchGivesWay) {
  infer::Scheduler::Options scheduling;
  scheduling.max_running = 1;
  Start(scheduling);
  Put("kept", "Sand is kept in the glass.");
  Json chat = Chat("Go on", 400);
  chat["stream"] = true;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(Begin("POST", "/v1/chat/completions", chat.dump()));
  ASSERT_TRUE(Eventually([&] { return scheduler_->stats().waiting > 0; }));
  EXPECT_EQ(Post("/v1/documents:prefetch", {{"documents", {"kept"}}}, 202)["found"], 1);
  EXPECT_TRUE(Eventually(
      [&] { return Metric("prefetched_total{end=\"dropped\"}") + Metric("prefetched_total{end=\"loaded\"}") == 1; }));
  if (scheduler_->stats().waiting > 0) {  // otherwise the answers were faster
    EXPECT_EQ(generator_->pool().Find(IdentityOf("kept")), nullptr);
  }
  for (const auto& client : clients) client->Reset();
  EXPECT_TRUE(Idle());
}

TEST_F(RouterDocumentsTest, PinsAreThoseOfDocuments) {
  Start();
  Put("a", "Sand is kept.");
  Put("b", "Water is kept.");
  const auto pins = [&](const std::string& action, const Json& ids) {
    return Post("/v1/documents:" + action, {{"documents", ids}});
  };
  const auto usage = [&] { return Json::parse(Send("GET", "/v1/usage").body)["data"][0]; };
  EXPECT_EQ(usage()["pinned_bytes"], 0);
  const Json pinned = pins("pin", {"a", "none", {{"id", "b"}}});
  EXPECT_EQ(pinned["failed"], 1);
  EXPECT_EQ(pinned["data"][0]["pinned"], true);
  EXPECT_EQ(pinned["data"][1]["pinned"], false);
  EXPECT_THAT(pinned["data"][1]["error"].get<std::string>(), HasSubstr("no such document"));
  EXPECT_EQ(pinned["data"][2]["pinned"], true);
  EXPECT_EQ(usage()["pinned_documents"], 2);
  EXPECT_EQ(usage()["documents"], 2);
  EXPECT_EQ(usage()["encodings"], 2);
  const int64_t bytes = usage()["pinned_bytes"];
  EXPECT_GT(bytes, 0);
  // However often it is asked for.
  EXPECT_EQ(pins("pin", {"a"})["failed"], 0);
  EXPECT_EQ(usage()["pinned_bytes"], bytes);
  EXPECT_EQ(pins("unpin", {"a", "none"})["data"][0]["pinned"], false);
  EXPECT_LT(usage()["pinned_bytes"], bytes);
  EXPECT_GT(usage()["pinned_bytes"], 0);
  // A document that was replaced: what is unpinned is what was pinned.
  Put("c", "Stones are kept.");
  EXPECT_EQ(pins("pin", {"c"})["failed"], 0);
  ASSERT_EQ(Send("PUT", "/v1/documents/c", R"({"text": "Stones are gone."})").status, 200);
  EXPECT_EQ(pins("unpin", {"b", "c"})["failed"], 0);
  EXPECT_EQ(usage()["pinned_bytes"], 0);
  EXPECT_EQ(usage()["pinned_documents"], 0);
  // What the store lacks cannot be pinned.
  ASSERT_TRUE(store_->Remove("default", IdentityOf("a")).ok());
  EXPECT_THAT(pins("pin", {"a"})["data"][0]["error"].get<std::string>(), HasSubstr("lacks"));
  EXPECT_EQ(Post("/v1/documents:pin", {{"documents", {""}}}, 400)["error"]["param"], "documents[0]");
}

TEST_F(RouterDocumentsTest, ASilentStoreIsToldOf) {
  BeSilent();
  Start();
  const Json ids = {{"documents", {"a"}}};
  EXPECT_EQ(Send("POST", "/v1/documents:pin", ids.dump()).status, 503);
  EXPECT_EQ(Send("POST", "/v1/documents:prefetch", ids.dump()).status, 503);
  EXPECT_THAT(Send("GET", "/v1/usage").status, AnyOf(200, 503));  // for a second, nobody asks
}

}  // namespace
}  // namespace kvlink::serve::testing
