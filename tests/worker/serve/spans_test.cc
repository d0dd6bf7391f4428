// The trace of a request, as a collector receives it.
#include <gmock/gmock.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/worker/serve/router_fixture.h"
#include "tests/worker/serve/trace/collector_server.h"

namespace kvlink::serve::testing {
namespace {

using kvlink::testing::Eventually;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736", kParent[] = "00f067aa0ba902b7";

class SpansTest : public RouterTest {
 protected:
  void Serve(Router::Options options = {}) {
    SpanExporter::Options exporting;
    exporting.url = *ParseCollectorUrl(collector_.url());
    exporting.interval = absl::ZeroDuration();
    exporter_ = *SpanExporter::Start(exporting);
    options.exporter = exporter_.get();
    Start({}, std::move(options));
  }
  void TearDown() override {
    RouterTest::TearDown();
    router_.reset();  // which uses the exporter
  }
  Answer Ask(const std::string& method, const std::string& path, const std::string& body, const std::string& flags) {
    return Begin(method, path, body,
                 absl::StrCat("traceparent: 00-", kTrace, "-", kParent, "-", flags, "\r\ntracestate: congo=t61\r\n"))
        ->ReadAnswer();
  }
  // All that the collector has, once it has `roots` spans of requests.
  std::vector<Json> Spans(size_t roots) {
    std::vector<Json> spans;
    EXPECT_TRUE(Eventually([&] {
      spans.clear();
      size_t found = 0;
      for (const std::string& request : collector_.requests()) {
        Json json = Json::parse(CollectorServer::BodyOf(request));
        for (const Json& span : json["resourceSpans"][0]["scopeSpans"][0]["spans"]) {
          spans.push_back(span);
          found += span["kind"] == 2 ? 1 : 0;
        }
      }
      return found >= roots;
    }));
    return spans;
  }
  static int64_t Nanos(const Json& span, const std::string& which) {
    int64_t nanos = 0;
    EXPECT_TRUE(absl::SimpleAtoi(span[which].get<std::string>(), &nanos)) << span;
    return nanos;
  }
  // An attribute that is a text or a whole number.
  static std::string Attribute(const Json& span, const std::string& key) {
    for (const Json& one : span["attributes"]) {
      if (one["key"] == key) return one["value"].begin()->get<std::string>();
    }
    return "";
  }

  CollectorServer collector_;
  std::unique_ptr<SpanExporter> exporter_;
};

TEST_F(SpansTest, ARequestsSpansAreNestedAndSayNoText) {
  Serve();
  ASSERT_EQ(Send("PUT", "/v1/documents/idofquartz", R"({"title": "titlequartz", "text": "wordsquartz in the store."})")
                .status,
            201);
  Json chat = Chat("questionquartz?", 4);
  chat["documents"] =
      Json::parse(R"([{"id": "idofquartz"}, {"title": "othertitlequartz", "text": "New wordsquartz."}])");
  const Answer answer = Ask("POST", "/v1/chat/completions", chat.dump(), "01");
  ASSERT_EQ(answer.status, 200) << answer.body;

  std::map<std::string, Json> by_id;
  std::vector<std::string> names;
  Json root;
  for (const Json& span : Spans(2)) {
    if (span["traceId"] != kTrace) continue;  // of the document that was put
    EXPECT_TRUE(by_id.emplace(span["spanId"], span).second) << span;
    names.push_back(span["name"]);
    EXPECT_EQ(span["traceState"], "congo=t61");
    if (span["kind"] == 2) root = span;
  }
  EXPECT_THAT(names,
              UnorderedElementsAre("chat", "catalog", "wait", "land", "lookup", "load", "encode", "link", "decode"));
  ASSERT_TRUE(root.is_object());
  EXPECT_EQ(root["name"], "chat");
  EXPECT_EQ(root["parentSpanId"], kParent);
  EXPECT_EQ(answer.headers.at("traceparent"),
            absl::StrCat("00-", kTrace, "-", root["spanId"].get<std::string>(), "-01"));
  EXPECT_EQ(Attribute(root, "http.response.status_code"), "200");
  const Json usage = Json::parse(answer.body)["usage"];
  EXPECT_EQ(Attribute(root, "gen_ai.usage.input_tokens"), absl::StrCat(usage["prompt_tokens"].get<int>()));
  EXPECT_EQ(Attribute(root, "gen_ai.usage.output_tokens"), absl::StrCat(usage["completion_tokens"].get<int>()));
  EXPECT_EQ(Attribute(root, "kvlink.documents.encoded"), "1");
  EXPECT_FALSE(root.contains("status"));
  ASSERT_EQ(root["events"].size(), 1u);
  EXPECT_EQ(root["events"][0]["name"], "first_token");

  const std::set<std::string> landing = {"lookup", "load", "encode"};
  std::map<std::string, Json> by_name;
  for (const auto& [id, span] : by_id) {
    by_name[span["name"]] = span;
    EXPECT_LE(Nanos(span, "startTimeUnixNano"), Nanos(span, "endTimeUnixNano")) << span;
    if (span["kind"] == 2) continue;
    const auto within = by_id.find(span["parentSpanId"].get<std::string>());
    ASSERT_NE(within, by_id.end()) << span;
    EXPECT_EQ(within->second["name"], landing.contains(span["name"]) ? "land" : "chat");
    EXPECT_GE(Nanos(span, "startTimeUnixNano"), Nanos(within->second, "startTimeUnixNano")) << span;
    EXPECT_LE(Nanos(span, "endTimeUnixNano"), Nanos(within->second, "endTimeUnixNano")) << span;
  }
  // One after another.
  const char* const order[] = {"catalog", "wait", "land", "lookup", "load"};
  for (size_t i = 1; i < std::size(order); ++i) {
    EXPECT_GE(Nanos(by_name[order[i]], "startTimeUnixNano"), Nanos(by_name[order[i - 1]], "startTimeUnixNano"))
        << order[i];
  }
  EXPECT_GE(Nanos(by_name["load"], "startTimeUnixNano"), Nanos(by_name["lookup"], "endTimeUnixNano"));
  EXPECT_GE(Nanos(by_name["link"], "startTimeUnixNano"), Nanos(by_name["encode"], "endTimeUnixNano"));
  EXPECT_EQ(Nanos(root["events"][0], "timeUnixNano"), Nanos(by_name["decode"], "startTimeUnixNano"));
  EXPECT_GE(Nanos(by_name["decode"], "startTimeUnixNano"), Nanos(by_name["link"], "endTimeUnixNano"));
  const Json& load = by_name["load"];
  EXPECT_THAT(Attribute(load, "kvlink.place"), ::testing::AnyOf("dram", "disk"));
  EXPECT_EQ(Attribute(load, "kvlink.documents"), "1");
  EXPECT_NE(Attribute(load, "kvlink.bytes"), "0");
  const Json waited = load["attributes"].back();
  EXPECT_EQ(waited["key"], "kvlink.waited_ms");
  EXPECT_GT(waited["value"]["doubleValue"], 0);
  EXPECT_LE(waited["value"]["doubleValue"],
            static_cast<double>(Nanos(load, "endTimeUnixNano") - Nanos(load, "startTimeUnixNano")) / 1e6);
  EXPECT_EQ(Attribute(by_name["encode"], "kvlink.documents"), "1");
  for (const std::string& request : collector_.requests()) EXPECT_THAT(request, Not(HasSubstr("quartz")));

  const std::string page = Send("GET", "/metrics").body;
  for (const char* phase : {"catalog\"", "lookup\"", "encode\"", "link\""}) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("kvlink_serve_phase_seconds_count{namespace=\"default\",phase=\"", phase,
                                             "} 1\n")));
  }
  EXPECT_THAT(page,
              HasSubstr(absl::StrCat("kvlink_serve_loaded_bytes_total{namespace=\"default\",place=\"",
                                     Attribute(load, "kvlink.place"), "\"} ", Attribute(load, "kvlink.bytes"), "\n")));
}

TEST_F(SpansTest, WhatWasInMemoryIsReadFromNowhere) {
  Serve();
  Json chat = Chat("How much?", 2);
  chat["documents"] = Json::parse(R"([{"text": "Sand is kept in the glass."}])");
  ASSERT_EQ(Ask("POST", "/v1/chat/completions", chat.dump(), "00").status, 200);
  chat["stream"] = true;
  const Answer answer = Ask("POST", "/v1/chat/completions", chat.dump(), "01");
  EXPECT_THAT(answer.headers.at("traceparent"), HasSubstr(kTrace));
  std::vector<std::string> names;
  for (const Json& span : Spans(1)) names.push_back(span["name"]);
  EXPECT_THAT(names, Contains("link"));
  EXPECT_THAT(names, Contains("decode"));
  for (const char* name : {"catalog", "lookup", "load", "encode"}) EXPECT_THAT(names, Not(Contains(name)));
}

TEST_F(SpansTest, OnlyWhatIsSampledAndAdmittedIsExported) {
  Router::Options options;
  options.sample = 0;
  options.authorize = [](absl::string_view key) -> absl::StatusOr<Caller> {
    if (key == "reader") return Caller{"reader", false};
    return absl::UnauthenticatedError("unknown");
  };
  Serve(options);
  const auto ask = [&](const std::string& path, const std::string& key, const std::string& flags) {
    const std::string trace =
        flags.empty() ? "" : absl::StrCat("traceparent: 00-", kTrace, "-", kParent, "-", flags, "\r\n");
    return Begin("GET", path, "", absl::StrCat("x-api-key: ", key, "\r\n", trace))->ReadAnswer();
  };
  EXPECT_EQ(ask("/v1/models", "other", "01").status, 401);
  EXPECT_EQ(ask("/v1/models", "other", "01").headers.count("traceparent"), 1u);
  EXPECT_EQ(ask("/livez", "reader", "01").status, 200);
  EXPECT_EQ(ask("/nowhere", "reader", "01").status, 404);
  EXPECT_EQ(ask("/v1/models", "reader", "00").status, 200);
  EXPECT_EQ(ask("/v1/models", "reader", "").headers.count("traceparent"), 0u);
  EXPECT_EQ(ask("/v1/documents/none", "reader", "01").status, 404);
  const std::vector<Json> spans = Spans(1);
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0]["name"], "get_document");
  EXPECT_EQ(Attribute(spans[0], "http.response.status_code"), "404");
  EXPECT_EQ(Attribute(spans[0], "error.type"), "NOT_FOUND");
  EXPECT_FALSE(spans[0].contains("status"));  // no fault of the server's
}

TEST_F(SpansTest, ARequestThatTheServerFailsIsAnError) {
  hold_ = [] { return absl::InternalError("secretquartz"); };
  Serve();
  Json chat = Chat("How much?", 2);
  chat["documents"] = Json::parse(R"([{"id": "sand"}])");
  EXPECT_EQ(Ask("POST", "/v1/chat/completions", chat.dump(), "01").status, 500);
  const std::vector<Json> spans = Spans(1);
  EXPECT_EQ(spans[0]["status"]["code"], 2);
  EXPECT_EQ(Attribute(spans[0], "error.type"), "INTERNAL");
  for (const std::string& request : collector_.requests()) EXPECT_THAT(request, Not(HasSubstr("quartz")));
}

}  // namespace
}  // namespace kvlink::serve::testing
