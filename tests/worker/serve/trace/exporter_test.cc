// The exporter before collectors that take spans, and before those that do not.
#include "worker/serve/trace/exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "tests/support/certificates.h"
#include "tests/support/patience.h"
#include "tests/support/scratch_directory.h"
#include "tests/worker/serve/trace/collector_server.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve::testing {
namespace {

using kvlink::testing::Eventually;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using Reply = CollectorServer::Reply;

Span TestSpan(absl::string_view name) {
  Span span;
  span.trace = NewTraceId();
  span.id = NewSpanId();
  span.name = name;
  span.began = SteadyNow();
  span.ended = span.began + absl::Milliseconds(5);
  return span;
}

// Of an exporter without much patience.
SpanExporter::Options OptionsFor(const std::string& url) {
  SpanExporter::Options options;
  options.url = *ParseCollectorUrl(url);
  options.interval = absl::ZeroDuration();
  options.timeout = absl::Minutes(1);
  options.first_pause = absl::Milliseconds(1);
  options.attempts = 3;
  options.goodbye = absl::Minutes(1);
  return options;
}

std::unique_ptr<SpanExporter> Started(SpanExporter::Options options) {
  auto exporter = SpanExporter::Start(std::move(options));
  EXPECT_TRUE(exporter.ok()) << exporter.status();
  return *std::move(exporter);
}

// Waits until all spans that were added are accounted for.
SpanExporter::Stats Settled(const SpanExporter& exporter, int64_t spans) {
  EXPECT_TRUE(Eventually([&] {
    const SpanExporter::Stats stats = exporter.stats();
    return stats.sent + stats.dropped + stats.failed == spans;
  }));
  return exporter.stats();
}

std::vector<Json> SpansIn(const std::string& request) {
  const Json json = Json::parse(CollectorServer::BodyOf(request), nullptr, false);
  EXPECT_TRUE(json.is_object()) << request;
  return json["resourceSpans"][0]["scopeSpans"][0]["spans"];
}

TEST(SpanExporterTest, SpansArriveInBatches) {
  CollectorServer collector;
  SpanExporter::Options options = OptionsFor(collector.url() + "/base/");
  options.resource = {{"service.name", "test \xff"}};
  options.interval = absl::Hours(1);  // only full batches go
  options.max_batch = 4;
  const auto exporter = Started(options);
  exporter->Add({TestSpan("a"), TestSpan("b")});
  exporter->Add({TestSpan("c"), TestSpan("d"), TestSpan("e")});
  EXPECT_EQ(Settled(*exporter, 5).sent, 5);
  ASSERT_EQ(collector.requests().size(), 1u);
  const std::string request = collector.requests()[0];
  EXPECT_TRUE(absl::StartsWith(request, "POST /base/v1/traces HTTP/1.1\r\n")) << request;
  EXPECT_THAT(request, HasSubstr("\r\nContent-Type: application/json\r\n"));
  EXPECT_THAT(request, HasSubstr("test \xef\xbf\xbd"));
  std::string names;
  for (const Json& span : SpansIn(request)) names += span["name"];
  EXPECT_EQ(names, "abcde");
}

TEST(SpanExporterTest, TheEndSendsWhatIsQueued) {
  CollectorServer collector;
  SpanExporter::Options options = OptionsFor(collector.url());
  options.interval = absl::Hours(1);
  auto exporter = Started(options);
  exporter->Add({TestSpan("last")});
  exporter.reset();
  ASSERT_EQ(collector.requests().size(), 1u);
  EXPECT_EQ(SpansIn(collector.requests()[0])[0]["name"], "last");
}

TEST(SpanExporterTest, AnOverloadedCollectorIsAskedAgainWhenItSays) {
  CollectorServer collector([](int number) {
    return Reply{number == 0 ? HttpAnswer("503 Service Unavailable", "", "Retry-After: 1\r\n")
                             : HttpAnswer("200 OK", "")};
  });
  SpanExporter::Options options = OptionsFor(collector.url());
  options.first_pause = options.max_pause = absl::Hours(1);
  const auto exporter = Started(options);
  exporter->Add({TestSpan("once")});
  EXPECT_EQ(Settled(*exporter, 1).sent, 1);
  ASSERT_EQ(collector.requests().size(), 2u);
  EXPECT_EQ(collector.requests()[0], collector.requests()[1]);
}

TEST(SpanExporterTest, WhatIsWorthRepeatingIsRepeatedAFewTimes) {
  for (const char* status : {"429 Too Many Requests", "502 Bad Gateway", "503 Busy", "504 Late"}) {
    CollectorServer collector([&](int) { return Reply{HttpAnswer(status, "no")}; });
    const auto exporter = Started(OptionsFor(collector.url()));
    exporter->Add({TestSpan("again")});
    EXPECT_EQ(Settled(*exporter, 1).failed, 1) << status;
    EXPECT_EQ(collector.requests().size(), 3u) << status;
  }
  for (const char* status :
       {"400 Bad Request", "401 No", "404 Not Found", "413 Large", "500 Broken", "301 Moved", "100 Go on"}) {
    CollectorServer collector(
        [&](int) { return Reply{HttpAnswer(status, "no", "Location: http://127.0.0.1:1/\r\n")}; });
    const auto exporter = Started(OptionsFor(collector.url()));
    exporter->Add({TestSpan("once")});
    EXPECT_EQ(Settled(*exporter, 1).failed, 1) << status;
    EXPECT_EQ(collector.requests().size(), 1u) << status;
  }
}

TEST(SpanExporterTest, WhatACollectorRejectsHasFailed) {
  const std::string answers[] = {R"({"partialSuccess": {"rejectedSpans": "2", "errorMessage": "no"}})",
                                 R"({"partialSuccess": {"rejectedSpans": 2}})",
                                 R"({"partialSuccess": {"rejectedSpans": 99}})",
                                 R"({"partialSuccess": {"rejectedSpans": -1}})",
                                 R"({"partialSuccess": [{}]})",
                                 R"({"partialSuccess": {}})",
                                 "[[[[",
                                 ""};
  const int64_t failed[] = {2, 2, 3, 0, 0, 0, 0, 0};
  CollectorServer collector([&](int number) { return Reply{HttpAnswer("200 OK", answers[number])}; });
  int64_t expected = 0;
  const auto exporter = Started(OptionsFor(collector.url()));
  for (size_t i = 0; i < std::size(answers); ++i) {
    exporter->Add({TestSpan("a"), TestSpan("b"), TestSpan("c")});
    expected += failed[i];
    EXPECT_EQ(Settled(*exporter, 3 * static_cast<int64_t>(i + 1)).failed, expected) << answers[i];
  }
}

// What became of a span, and after how many attempts.
struct Outcome {
  std::string reply;
  bool sent = false;
  size_t attempts = 1;
};

TEST(SpanExporterTest, NonsenseCostsSpansAndNothingElse) {
  const std::string large(10 << 20, 'x');
  const std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  const Outcome outcomes[] = {
      {"", false, 3},
      {"HTTP/1.1 20", false, 3},
      {"HTTP/1.1 200 OK\r\nContent-Le", false, 3},
      {"220 mail.example.org ESMTP\r\n\r\n", false, 1},
      {std::string("\0\x01\x02\xff\xfe", 5) + large, false, 1},
      {large, false, 1},
      {"HTTP/1.1 200 OK\r\nX: " + large, false, 1},
      {"HTTP/1.1 99999999999999999999 OK\r\n\r\n", false, 1},
      // The answer is known once its header is there.
      {"HTTP/1.1 200 OK\r\n\r\n" + large, true},
      {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true},
      {HttpAnswer("200 OK", large), true},
      {HttpAnswer("202 Accepted", R"({"partialSuccess": )"), true},
      {"HTTP/1.0 204 Nothing\r\n\r\n", true},
      {chunked + "1;" + large, true},
      {chunked + "fffffffffffffffff\r\n", true},
      {HttpAnswer("400 Bad Request", large), false, 1},
      {HttpAnswer("503 Busy", "", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n"), false, 3},
      {HttpAnswer("503 Busy", "", "Retry-After: -5\r\n"), false, 3},
  };
  // Also a header without an end, in pieces.
  std::string endless = "HTTP/1.1 200 OK\r\n";
  for (int i = 0; i < 100000; ++i) absl::StrAppend(&endless, "X-", i, ": y\r\n");
  std::vector<Outcome> all(std::begin(outcomes), std::end(outcomes));
  all.push_back({endless, false, 1});
  for (const Outcome& outcome : all) {
    CollectorServer collector([&](int) { return Reply{outcome.reply}; });
    const auto exporter = Started(OptionsFor(collector.url()));
    exporter->Add({TestSpan("once")});
    const std::string begin = outcome.reply.substr(0, 60);
    EXPECT_EQ(Settled(*exporter, 1).sent, outcome.sent ? 1 : 0) << begin;
    EXPECT_EQ(collector.requests().size(), outcome.attempts) << begin;
  }
}

TEST(SpanExporterTest, ASilentCollectorIsGivenUp) {
  CollectorServer collector([](int) { return Reply{"", /*stays_open=*/true}; });
  SpanExporter::Options options = OptionsFor(collector.url());
  options.timeout = absl::Milliseconds(50);
  Mutex mutex;
  std::vector<absl::Status> failures;
  options.on_failure = [&](const absl::Status& why) {
    MutexLock lock(&mutex);
    failures.push_back(why);
  };
  auto exporter = Started(options);
  exporter->Add({TestSpan("once")});
  EXPECT_EQ(Settled(*exporter, 1).failed, 1);
  EXPECT_EQ(collector.requests().size(), 3u);
  exporter.reset();
  MutexLock lock(&mutex);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(failures[0])) << failures[0];
}

TEST(SpanExporterTest, WhatDoesNotFitIsDropped) {
  CollectorServer collector([](int) { return Reply{"", /*stays_open=*/true}; });
  SpanExporter::Options options = OptionsFor(collector.url());
  options.timeout = absl::Hours(1);
  options.max_queued = 100;
  options.goodbye = absl::ZeroDuration();
  const auto exporter = Started(options);
  exporter->Add({TestSpan("under way")});
  ASSERT_TRUE(Eventually([&] { return collector.requests().size() == 1; }));
  for (int i = 0; i < 1000; ++i) exporter->Add({TestSpan("a"), TestSpan("b"), TestSpan("c")});
  const SpanExporter::Stats stats = exporter->stats();
  EXPECT_EQ(stats.dropped, 3 * (1000 - 33));
  EXPECT_EQ(stats.sent + stats.failed, 0);
  // The end does not wait for the collector, nor for what is queued.
}

TEST(SpanExporterTest, ACollectorThatIsAwayIsTriedAgain) {
  std::string url;
  {
    const CollectorServer gone;
    url = gone.url();
  }
  SpanExporter::Options options = OptionsFor(url);
  Mutex mutex;
  absl::Status failure;
  options.on_failure = [&](const absl::Status& why) {
    MutexLock lock(&mutex);
    failure = why;
  };
  auto exporter = Started(options);
  exporter->Add({TestSpan("lost")});
  EXPECT_EQ(Settled(*exporter, 1).failed, 1);
  exporter.reset();
  EXPECT_TRUE(absl::IsUnavailable(failure)) << failure;
  EXPECT_THAT(failure.message(), HasSubstr("no connection to the collector"));
}

TEST(SpanExporterTest, TlsTrustsItsAuthorityAlone) {
  if (!kvlink::testing::HaveOpenssl()) GTEST_SKIP() << "no openssl program";
  const kvlink::testing::ScratchDirectory files;
  ASSERT_TRUE(kvlink::testing::MakeCertificates(files.path()));
  HttpServer::Options serving;
  serving.address = "0.0.0.0:0";
  serving.certificate = files.path() + "/node.pem";
  serving.key = files.path() + "/node.key";
  auto server = HttpServer::Start(serving, [](std::shared_ptr<HttpExchange> exchange) {
    exchange->Respond(exchange->request().path == "/v1/traces" ? 200 : 404, "application/json", "{}");
  });
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string port = (*server)->address().substr((*server)->address().rfind(':'));
  const auto failed = [&](const std::string& url, const std::string& authority) {
    SpanExporter::Options options = OptionsFor(url);
    options.authorities = files.path() + authority;
    options.attempts = 1;
    const auto exporter = Started(options);
    exporter->Add({TestSpan("secret")});
    return Settled(*exporter, 1).failed;
  };
  EXPECT_EQ(failed("https://127.0.0.1" + port, "/ca.pem"), 0);
  EXPECT_EQ(failed("https://localhost" + port, "/ca.pem"), 0);
  EXPECT_EQ(failed("https://127.0.0.1" + port, "/stranger.pem"), 1);
  EXPECT_EQ(failed("https://127.0.0.2" + port, "/ca.pem"), 1);  // the certificate is of another address
  EXPECT_EQ(failed("http://127.0.0.1" + port, "/ca.pem"), 1);
  SpanExporter::Options options = OptionsFor("https://127.0.0.1" + port);
  options.authorities = files.path() + "/none.pem";
  EXPECT_TRUE(absl::IsInvalidArgument(SpanExporter::Start(options).status()));
}

}  // namespace
}  // namespace kvlink::serve::testing
