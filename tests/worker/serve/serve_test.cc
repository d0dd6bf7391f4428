// kvlink serve as clients see it: the binary, the real model, a store with some of the demo's documents. What the
// server answers is what kvlink ask answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "tests/integration/node_process.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/subprocess.h"
#include "tests/worker/serve/http_client.h"
#include "tests_source_dir.h"

namespace kvlink::serve::testing {
namespace {

using kvlink::testing::Finished;
using kvlink::testing::RunToEnd;
using kvlink::testing::ScratchDirectory;
using kvlink::testing::Subprocess;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kQuestion[] = "What are the names of the two moons of Mars?";
constexpr int kTokens = 24;
constexpr absl::Duration kPatience = absl::Minutes(2);

std::string ModelPath() {
  const char* named = std::getenv("KVLINK_MODEL");
  return named != nullptr ? named : KVLINK_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class Server {
 public:
  explicit Server(const std::string& store, std::vector<std::string> more = {}) {
    std::vector<std::string> words = {KVLINK_BINARY, "serve",       "--store",  store,  "--model",   ModelPath(),
                                      "--listen",    "127.0.0.1:0", "--memory", "256M", "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    process_ = std::make_unique<Subprocess>(words);
    const absl::Time until = SteadyNow() + kPatience;
    while (SteadyNow() < until && process_->running()) {
      const std::string output = process_->output();
      if (absl::EndsWith(output, "\n")) {
        ready = Json::parse(output, nullptr, false);
        break;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_TRUE(ready.is_object()) << process_->output() << process_->errors();
    if (ready.is_object()) address_ = ready["url"].get<std::string>().substr(7);
  }

  Subprocess& process() { return *process_; }
  const std::string& address() const { return address_; }

  static std::string Request(const std::string& method, const std::string& path, const std::string& body,
                             const std::string& headers) {
    return absl::StrCat(method, " ", path,
                        " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n",
                        headers, "\r\n", body);
  }
  Answer Send(const std::string& method, const std::string& path, const std::string& body = "",
              const std::string& headers = "") const {
    HttpClient client;
    EXPECT_TRUE(client.Connect(address_));
    EXPECT_TRUE(client.Send(Request(method, path, body, headers)));
    return client.ReadAnswer(method == "HEAD");
  }
  // The value of a metric, by its name and labels.
  double Metric(const std::string& name) const {
    for (const absl::string_view line : absl::StrSplit(Send("GET", "/metrics").body, '\n')) {
      const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(line, ' ');
      double value = 0;
      if (pair.first == name && absl::SimpleAtod(pair.second, &value)) return value;
    }
    ADD_FAILURE() << "no metric " << name;
    return -1;
  }
  // Waits until a metric has a value.
  bool Reaches(const std::string& name, double value) const {
    const absl::Time until = SteadyNow() + kPatience;
    while (Metric(name) != value) {
      if (SteadyNow() > until) return false;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return true;
  }

  Json ready;

 private:
  std::unique_ptr<Subprocess> process_;
  std::string address_;
};

// What a stream said.
struct Streamed {
  std::string text;
  int pieces = 0;
  Json usage;
  std::string finish;
  bool done = false;
};

Streamed ReadStream(const std::string& body) {
  Streamed streamed;
  for (const absl::string_view line : absl::StrSplit(body, '\n')) {
    if (line == "data: [DONE]") streamed.done = true;
    if (!absl::StartsWith(line, "data: {")) continue;
    const Json chunk = Json::parse(line.substr(6), nullptr, false);
    EXPECT_TRUE(chunk.is_object()) << line;
    if (chunk.contains("usage") && chunk["usage"].is_object()) streamed.usage = chunk["usage"];
    for (const Json& choice : chunk["choices"]) {
      const Json& delta = choice.contains("delta") ? choice["delta"] : choice;
      const std::string name = choice.contains("delta") ? "content" : "text";
      const std::string piece = delta.value(name, "");
      streamed.text += piece;
      streamed.pieces += piece.empty() ? 0 : 1;
      if (choice["finish_reason"].is_string()) streamed.finish = choice["finish_reason"];
    }
  }
  return streamed;
}

class ServeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!std::filesystem::exists(ModelPath())) return;
    directory_ = new ScratchDirectory();
    const std::string documents = directory_->path() + "/documents.jsonl";
    std::ifstream demo(KVLINK_SOURCE_DIR "/deploy/demo/documents.jsonl");
    std::ofstream some(documents);
    for (std::string line; std::getline(demo, line);) {
      const Json document = Json::parse(line);
      const std::string id = document["id"];
      if (id != "moon" && id != "mars" && id != "apollo-11") continue;
      some << line << '\n';
      if (id == "mars") mars_ = document;
    }
    some.close();
    const Finished ingested = RunToEnd(
        {KVLINK_BINARY, "ingest", "--store", Store(), "--model", ModelPath(), "--threads", "1", "--quiet", documents});
    ASSERT_EQ(ingested.status, 0) << ingested.errors;
    // A directory belongs to one process at a time: what ask answers is asked before the server starts.
    for (const char* linker : {"concat", "prophet-20", "full"}) expected_[linker] = Ask(linker);
    server_ = new Server(Store(), {"--alias", "small", "--max-running", "8"});
  }
  static void TearDownTestSuite() {
    delete server_;
    delete directory_;
    server_ = nullptr;
    directory_ = nullptr;
  }
  void SetUp() override {
    if (server_ == nullptr) GTEST_SKIP() << "no model; deploy/install-deps.sh fetches it";
    ASSERT_TRUE(server_->ready.is_object());
  }

  static std::string Store() { return directory_->path() + "/store"; }
  static std::string Ask(const std::string& linker) {
    const Finished asked = RunToEnd({KVLINK_BINARY,
                                     "ask",
                                     "--store",
                                     Store(),
                                     "--model",
                                     ModelPath(),
                                     "--threads",
                                     "1",
                                     "--quiet",
                                     "--linker",
                                     linker,
                                     "--max-tokens",
                                     absl::StrCat(kTokens),
                                     "--doc",
                                     "apollo-11",
                                     "--doc",
                                     "moon",
                                     "--doc",
                                     "mars",
                                     kQuestion});
    EXPECT_EQ(asked.status, 0) << asked.errors;
    return asked.output.substr(0, asked.output.size() - 1);
  }
  static Json Named() { return Json::parse(R"([{"id": "apollo-11"}, {"id": "moon"}, {"id": "mars"}])"); }
  // A chat about the three documents, with a linker.
  static Json Chat(const std::string& linker = "concat") {
    return {{"model", "small"},     {"messages", {{{"role", "user"}, {"content", kQuestion}}}},
            {"temperature", 0},     {"max_tokens", kTokens},
            {"documents", Named()}, {"kv", {{"linker", linker}}}};
  }
  static Json Post(const std::string& path, const Json& body, int status = 200) {
    const Answer answer = server_->Send("POST", path, body.dump());
    EXPECT_EQ(answer.status, status) << answer.body;
    return Json::parse(answer.body, nullptr, false);
  }
  static std::string Content(const Json& answer) { return answer["choices"][0]["message"]["content"]; }

  static ScratchDirectory* directory_;
  static Server* server_;
  static Json mars_;
  static std::map<std::string, std::string> expected_;
};

ScratchDirectory* ServeTest::directory_ = nullptr;
Server* ServeTest::server_ = nullptr;
Json ServeTest::mars_;
std::map<std::string, std::string> ServeTest::expected_;

TEST_F(ServeTest, AnswersAsAskDoes) {
  for (const char* linker : {"concat", "prophet-20", "full", "concat"}) {
    SCOPED_TRACE(linker);
    const Json answer = Post("/v1/chat/completions", Chat(linker));
    EXPECT_EQ(Content(answer), expected_[linker]);
    const int64_t prompt = answer["usage"]["prompt_tokens"];
    const int64_t cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"];
    EXPECT_GT(prompt, 500);
    const double share = static_cast<double>(cached) / static_cast<double>(prompt);
    if (linker == std::string("concat")) {
      EXPECT_GT(share, 0.9);
    } else if (linker == std::string("prophet-20")) {
      EXPECT_GT(share, 0.7);
      EXPECT_LT(share, 0.8);
    } else {
      EXPECT_EQ(cached, 0);
    }
  }
}

TEST_F(ServeTest, DocumentsByTheirTextAreTheStoredOnes) {
  Json chat = Chat();
  chat["documents"][2] = {{"title", mars_["title"]}, {"text", mars_["text"]}};
  chat["kv"] = {{"linker", "concat"}, {"on_miss", "fail"}, {"report", true}};
  const Json answer = Post("/v1/chat/completions", chat);
  EXPECT_EQ(Content(answer), expected_["concat"]);
  EXPECT_EQ(answer["kv"]["documents"]["encoded"], 0);
  // Another text has no encoding yet.
  chat["documents"][2]["text"] = "Mars has two moons.";
  EXPECT_THAT(Post("/v1/chat/completions", chat, 400)["error"]["message"].get<std::string>(), HasSubstr("on_miss"));
  chat["kv"] = {{"linker", "concat"}, {"report", true}};
  EXPECT_EQ(Post("/v1/chat/completions", chat)["kv"]["documents"]["encoded"], 1);
}

TEST_F(ServeTest, AStreamHasTheSameText) {
  Json chat = Chat();
  chat["stream"] = true;
  chat["stream_options"] = {{"include_usage", true}};
  const Answer answer = server_->Send("POST", "/v1/chat/completions", chat.dump());
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("content-type"), "text/event-stream");
  const Streamed streamed = ReadStream(answer.body);
  EXPECT_EQ(streamed.text, expected_["concat"]);
  EXPECT_GT(streamed.pieces, 3);
  EXPECT_TRUE(streamed.done);
  EXPECT_GT(streamed.usage["prompt_tokens_details"]["cached_tokens"], 0);
}

TEST_F(ServeTest, AnthropicsApiHasTheSameText) {
  const Json body = {{"model", "small"},     {"messages", {{{"role", "user"}, {"content", kQuestion}}}},
                     {"temperature", 0},     {"max_tokens", kTokens},
                     {"documents", Named()}, {"kv", {{"linker", "concat"}}}};
  const Json answer = Post("/v1/messages", body);
  EXPECT_EQ(answer["content"][0]["text"], expected_["concat"]);
  EXPECT_GT(answer["usage"]["cache_read_input_tokens"], 0);
  Json unknown = body;
  unknown["model"] = "gpt-5";
  EXPECT_EQ(Post("/v1/messages", unknown, 404)["error"]["type"], "not_found_error");
}

TEST_F(ServeTest, AStopStringEndsTheAnswerAndIsNotInIt) {
  const std::string& whole = expected_["concat"];
  const std::string stop = whole.substr(whole.size() / 2, 5);
  Json chat = Chat();
  chat["stop"] = {stop};
  const Json answer = Post("/v1/chat/completions", chat);
  EXPECT_EQ(Content(answer), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  chat["stream"] = true;
  const Streamed streamed = ReadStream(server_->Send("POST", "/v1/chat/completions", chat.dump()).body);
  EXPECT_EQ(streamed.text, Content(answer));
  EXPECT_EQ(streamed.finish, "stop");
}

TEST_F(ServeTest, MaxTokensCutAnAnswer) {
  Json chat = Chat();
  chat["max_tokens"] = 3;
  const Json answer = Post("/v1/chat/completions", chat);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 3);
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(Content(answer), expected_["concat"].substr(0, Content(answer).size()));
}

TEST_F(ServeTest, RefusesWhatItCannotAnswer) {
  Json chat = Chat();
  chat["documents"] = Json::parse(R"([{"id": "moon"}, {"id": "venus"}, {"id": "pluto"}])");
  EXPECT_THAT(Post("/v1/chat/completions", chat, 404)["error"]["message"].get<std::string>(),
              HasSubstr("\"venus\", \"pluto\" are not"));
  chat["documents"] = Json::parse(R"([{"id": "moon", "parts": "2"}])");
  EXPECT_THAT(Post("/v1/chat/completions", chat, 400)["error"]["message"].get<std::string>(),
              HasSubstr("there is no part 2"));
  chat = Chat("nonsense");
  EXPECT_EQ(Post("/v1/chat/completions", chat, 400)["error"]["param"], "kv.linker");
  chat = Chat("links");
  EXPECT_EQ(Post("/v1/chat/completions", chat, 400)["error"]["type"], "invalid_request_error");
  chat = Chat();
  chat["model"] = "gpt-5";
  EXPECT_EQ(Post("/v1/chat/completions", chat, 404)["error"]["code"], "model_not_found");
  chat = Chat();
  chat["max_tokens"] = 100000;
  EXPECT_THAT(Post("/v1/chat/completions", chat, 400)["error"]["message"].get<std::string>(), HasSubstr("8192"));
  EXPECT_EQ(server_->Send("POST", "/v1/chat/completions", "{\"model\"").status, 400);
  EXPECT_EQ(server_->Send("GET", "/v1/nothing").status, 404);
  const Answer wrong = server_->Send("DELETE", "/v1/chat/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
}

TEST_F(ServeTest, KnowsItsModelByAliasPathAndFile) {
  const Json models = Json::parse(server_->Send("GET", "/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "small");
  const std::string file = std::filesystem::path(ModelPath()).filename();
  for (const std::string& name : {std::string("small"), ModelPath(), file}) {
    Json chat = Chat();
    chat["model"] = name;
    chat["max_tokens"] = 1;
    EXPECT_EQ(Post("/v1/chat/completions", chat)["model"], name);
    EXPECT_EQ(server_->Send("GET", "/v1/models/" + name).status, 200);
  }
  EXPECT_EQ(server_->Send("GET", "/v1/models/other").status, 404);
  const Json tokens = Post("/tokenize", {{"text", "Hello, Mars"}});
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_GT(tokens["count"], 2);
}

TEST_F(ServeTest, DocumentsAreWrittenReadListedAndDeleted) {
  const std::string path = "/v1/documents/planets/venus%20";
  const std::string body = Json{{"title", "Venus"}, {"text", "Venus has no moon. Its clouds are yellow."}}.dump();
  const Answer made = server_->Send("PUT", path, body);
  EXPECT_EQ(made.status, 201) << made.body;
  EXPECT_EQ(Json::parse(made.body)["encoded_parts"], 1);
  const Answer again = server_->Send("PUT", path, body);
  EXPECT_EQ(again.status, 200);
  EXPECT_EQ(Json::parse(again.body)["unchanged"], true);
  const Json shown = Json::parse(server_->Send("GET", path).body);
  EXPECT_EQ(shown["title"], "Venus");
  EXPECT_EQ(shown["tokens"], Json::parse(made.body)["tokens"]);
  EXPECT_EQ(server_->Send("HEAD", path).status, 200);
  const Json listed = Json::parse(server_->Send("GET", "/v1/documents?after=moon&limit=1").body);
  EXPECT_EQ(listed["data"][0]["id"], "planets/venus ");
  EXPECT_EQ(listed["has_more"], false);
  EXPECT_EQ(Json::parse(server_->Send("GET", "/v1/documents?limit=2").body)["has_more"], true);
  EXPECT_EQ(server_->Send("GET", "/v1/documents?limit=x").status, 400);
  Json chat = Chat();
  chat["documents"] = Json::parse(R"([{"id": "planets/venus "}])");
  chat["kv"]["on_miss"] = "fail";
  EXPECT_GT(Post("/v1/chat/completions", chat)["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(server_->Send("PUT", path, R"({"text": "  "})").status, 400);
  EXPECT_EQ(server_->Send("DELETE", path).status, 200);
  EXPECT_EQ(server_->Send("GET", path).status, 404);
  EXPECT_EQ(server_->Send("HEAD", path).status, 404);
}

TEST_F(ServeTest, AClientThatGoesAwayFreesItsAnswer) {
  const double cancelled = server_->Metric("kvlink_serve_answers_total{end=\"cancelled\"}");
  HttpClient client;
  ASSERT_TRUE(client.Connect(server_->address()));
  const Json body = {{"model", "small"},
                     {"prompt", "One, two, three, four, five, six, seven, eight,"},
                     {"max_tokens", 4000},
                     {"temperature", 0},
                     {"stream", true}};
  ASSERT_TRUE(client.Send(Server::Request("POST", "/v1/completions", body.dump(), "")));
  EXPECT_THAT(client.ReadThrough("data: "), HasSubstr("200 OK"));
  client.Reset();
  EXPECT_TRUE(server_->Reaches("kvlink_serve_answers_total{end=\"cancelled\"}", cancelled + 1));
  EXPECT_TRUE(server_->Reaches("kvlink_serve_requests_running", 0));
}

TEST_F(ServeTest, ManyClientsGetTheSameAnswerAsOne) {
  constexpr int kClients = 16;
  std::vector<Answer> answers(kClients);
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&answers, i] {
      Json chat = Chat();
      chat["stream"] = i % 2 == 1;
      answers[i] = server_->Send("POST", "/v1/chat/completions", chat.dump());
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kClients; ++i) {
    EXPECT_EQ(answers[i].status, 200) << answers[i].body;
    const std::string text =
        i % 2 == 1 ? ReadStream(answers[i].body).text : Content(Json::parse(answers[i].body, nullptr, false));
    EXPECT_EQ(text, expected_["concat"]);
  }
}

TEST_F(ServeTest, SaysWhatItCounts) {
  EXPECT_EQ(server_->Send("GET", "/livez").status, 200);
  EXPECT_EQ(server_->Send("GET", "/readyz").status, 200);
  Json chat = Chat();
  chat["kv"]["report"] = true;
  EXPECT_GT(Post("/v1/chat/completions", chat)["kv"]["first_token_ms"].get<double>(), 0);
  EXPECT_GT(server_->Metric("kvlink_serve_requests_total{route=\"chat\",status=\"200\"}"), 0);
  EXPECT_GT(server_->Metric("kvlink_serve_first_token_seconds_count"), 0);
  EXPECT_GT(server_->Metric("kvlink_serve_cached_tokens_total"), 0);
  // A line of the log says what a request cost, and nothing of what it asked.
  const std::string errors = server_->process().errors();
  EXPECT_THAT(errors, HasSubstr("\"event\":\"request\""));
  EXPECT_FALSE(absl::StrContains(errors, "two moons")) << errors;
}

// Needs servers of its own.
class ServeAloneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << "no model; deploy/install-deps.sh fetches it";
  }
  const ScratchDirectory directory_;
};

TEST_F(ServeAloneTest, AsksForKeysAndFinishesWhatItHasBegun) {
  const std::string access = directory_.path() + "/access";
  std::ofstream(access) << "reader 0123456789abcdef-reader read default\n"
                           "writer 0123456789abcdef-writer write *\n"
                           "other  0123456789abcdef-others write elsewhere\n";
  std::filesystem::permissions(access, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  Server server(directory_.path() + "/store", {"--access-file", access});
  ASSERT_TRUE(server.ready.is_object());
  const std::string reader = "Authorization: Bearer 0123456789abcdef-reader\r\n";
  const std::string writer = "x-api-key: 0123456789abcdef-writer\r\n";
  EXPECT_EQ(server.Send("GET", "/v1/models").status, 401);
  EXPECT_EQ(server.Send("GET", "/v1/models", "", "Authorization: Bearer 0123456789abcdef-wrong!\r\n").status, 401);
  EXPECT_EQ(server.Send("GET", "/v1/models", "", "x-api-key: 0123456789abcdef-others\r\n").status, 403);
  EXPECT_EQ(server.Send("GET", "/v1/models", "", reader).status, 200);
  EXPECT_EQ(server.Send("GET", "/livez").status, 200);
  const std::string document = R"({"text": "The Sun is a star."})";
  EXPECT_EQ(server.Send("PUT", "/v1/documents/sun", document, reader).status, 403);
  EXPECT_EQ(server.Send("PUT", "/v1/documents/sun", document, writer).status, 201);

  HttpClient client;
  ASSERT_TRUE(client.Connect(server.address()));
  const Json body = {{"model", server.ready["model"]},
                     {"prompt", "One, two, three, four, five, six, seven, eight,"},
                     {"max_tokens", 100},
                     {"temperature", 0},
                     {"stream", true}};
  ASSERT_TRUE(client.Send(Server::Request("POST", "/v1/completions", body.dump(), reader)));
  const std::string begin = client.ReadThrough("data: ");
  EXPECT_THAT(begin, HasSubstr("200 OK"));
  server.process().Signal(SIGTERM);
  EXPECT_THAT(client.ReadToEnd(), HasSubstr("data: [DONE]"));
  EXPECT_EQ(server.process().Wait(), 0) << server.process().errors();
}

TEST_F(ServeAloneTest, StopsInTimeWhateverIsUnderWay) {
  Server server(directory_.path() + "/store", {"--drain-timeout", "1"});
  ASSERT_TRUE(server.ready.is_object());
  HttpClient stream, put;
  ASSERT_TRUE(stream.Connect(server.address()));
  const Json body = {{"model", server.ready["model"]},
                     {"prompt", "One, two, three, four, five, six, seven, eight,"},
                     {"max_tokens", 4000},
                     {"temperature", 0},
                     {"stream", true}};
  ASSERT_TRUE(stream.Send(Server::Request("POST", "/v1/completions", body.dump(), "")));
  EXPECT_THAT(stream.ReadThrough("data: "), HasSubstr("200 OK"));
  std::string text;
  for (int i = 0; i < 1500; ++i) absl::StrAppend(&text, "Planet ", i, " has ", i % 7, " moons.\n");
  ASSERT_TRUE(put.Connect(server.address()));
  ASSERT_TRUE(put.Send(Server::Request("PUT", "/v1/documents/planets", Json{{"text", text}}.dump(), "")));
  absl::SleepFor(absl::Milliseconds(500));  // it is encoded by now, most likely
  server.process().Signal(SIGTERM);
  const Answer answer = put.ReadAnswer();
  EXPECT_EQ(answer.status, 503) << answer.body;
  EXPECT_EQ(answer.headers.count("retry-after"), 1u);
  EXPECT_THAT(stream.ReadToEnd(), HasSubstr("shutting down"));
  EXPECT_EQ(server.process().Wait(), 0) << server.process().errors();
  // An answer that fails in its stream is a failure, too.
  EXPECT_THAT(server.process().errors(), ::testing::ContainsRegex("request_failed[^\n]*\"status\":200"));
}

// What is known by its id waits for the node; what a request brings along does not.
TEST_F(ServeAloneTest, ANodeThatIsGoneIsMissedByThoseWhoNeedIt) {
  kvlink::testing::NodeProcess node(directory_.path() + "/node");
  ASSERT_TRUE(node.Start());
  Server server(node.address());
  ASSERT_TRUE(server.ready.is_object());
  const std::string text = "Mars has two moons, Phobos and Deimos.";
  EXPECT_EQ(server.Send("PUT", "/v1/documents/mars", Json{{"text", text}}.dump()).status, 201);
  Json named = {{"model", server.ready["model"]},
                {"messages", {{{"role", "user"}, {"content", kQuestion}}}},
                {"documents", {{{"id", "mars"}}}},
                {"max_tokens", 2},
                {"kv", {{"report", true}}}};
  Json brought = named;
  brought["documents"] = {{{"text", text + " They are small."}}};
  const Answer before = server.Send("POST", "/v1/chat/completions", named.dump());
  EXPECT_EQ(before.status, 200) << before.body;
  node.Kill();
  EXPECT_EQ(server.Send("GET", "/readyz").status, 503);
  EXPECT_EQ(server.Send("GET", "/livez").status, 200);
  const Answer missed = server.Send("POST", "/v1/chat/completions", named.dump());
  EXPECT_EQ(missed.status, 503) << missed.body;
  EXPECT_EQ(missed.headers.count("retry-after"), 1u);
  const Answer encoded = server.Send("POST", "/v1/chat/completions", brought.dump());
  ASSERT_EQ(encoded.status, 200) << encoded.body;
  EXPECT_EQ(Json::parse(encoded.body)["kv"]["documents"]["encoded"], 1);
  ASSERT_TRUE(node.Start());
  const absl::Time until = SteadyNow() + kPatience;
  while (server.Send("GET", "/readyz").status != 200 && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(server.Send("POST", "/v1/chat/completions", named.dump()).status, 200);
}

TEST_F(ServeAloneTest, ListensToOtherHostsOnlyWithKeysAndTls) {
  const auto refused = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {KVLINK_BINARY, "serve", "--store", directory_.path() + "/store", "--listen"});
    const Finished finished = RunToEnd(more);
    EXPECT_EQ(finished.status, 2) << finished.errors;
    return finished.errors;
  };
  EXPECT_THAT(refused({"0.0.0.0:0"}), HasSubstr("--access-file"));
  EXPECT_THAT(refused({"0.0.0.0:0", "--access-file", "keys"}), HasSubstr("--https-cert"));
  EXPECT_THAT(refused({"127.0.0.1:0", "--https-cert", "cert"}), HasSubstr("--https-key"));
  EXPECT_THAT(refused({"nowhere"}), HasSubstr("nowhere"));
}

}  // namespace
}  // namespace kvlink::serve::testing
