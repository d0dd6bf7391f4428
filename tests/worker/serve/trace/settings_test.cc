// Collectors' addresses, the environment, and the bytes of an export.
#include "worker/serve/trace/settings.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"
#include "worker/serve/trace/otlp.h"

namespace kvlink::serve {
namespace {

TEST(CollectorUrlTest, Parts) {
  struct Case {
    const char* url;
    bool tls;
    const char* host;
    int port;
    const char* path;
  };
  for (const Case& one : {Case{"http://localhost:4318", false, "localhost", 4318, "/v1/traces"},
                          Case{"http://localhost:4318/", false, "localhost", 4318, "/v1/traces"},
                          Case{"https://otel.example.org", true, "otel.example.org", 443, "/v1/traces"},
                          Case{"http://10.0.0.1/a/b/", false, "10.0.0.1", 80, "/a/b/v1/traces"},
                          Case{"http://[::1]:4318", false, "::1", 4318, "/v1/traces"},
                          Case{"https://[::1]", true, "::1", 443, "/v1/traces"}}) {
    const auto url = ParseCollectorUrl(one.url);
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->tls, one.tls) << one.url;
    EXPECT_EQ(url->host, one.host) << one.url;
    EXPECT_EQ(url->port, one.port) << one.url;
    EXPECT_EQ(url->path, one.path) << one.url;
  }
  for (const char* bad :
       {"", "localhost:4318", "grpc://localhost:4317", "http://", "http:///a", "http://:4318", "http://a:b",
        "http://a:0", "http://a:65536", "http://::1", "http://user@host:1", "http://a b:1", "http://a:1/x y",
        "http://a:1/?q", "http://a:1/#f", "http://a\r\nX: y", "HTTP://a:1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCollectorUrl(bad).status())) << bad;
  }
}

using Variables = std::map<std::string, std::string>;

absl::StatusOr<std::optional<SpanExporter::Options>> Read(const std::string& endpoint, Variables variables) {
  return ExporterOptions(endpoint, [&](const char* name) { return variables[name]; });
}

TEST(ExporterOptionsTest, TheEnvironmentAsOpenTelemetryNamesIt) {
  EXPECT_FALSE(Read("", {{"OTEL_SERVICE_NAME", "x"}})->has_value());
  auto options = **Read("", {{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"}});
  EXPECT_EQ(options.url.host, "collector");
  EXPECT_EQ(options.resource, (SpanAttributes{{"service.name", "kvlink"}}));
  options = **Read("http://own:1", {{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"},
                                    {"OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"},
                                    {"OTEL_RESOURCE_ATTRIBUTES", "a=1, service.name=theirs ,b=x%2Cy%3Dz"}});
  EXPECT_EQ(options.url.host, "own");
  EXPECT_EQ(options.authorities, "ca.pem");
  EXPECT_EQ(options.resource, (SpanAttributes{{"a", "1"}, {"service.name", "theirs"}, {"b", "x,y=z"}}));
  options =
      **Read("http://own:1", {{"OTEL_SERVICE_NAME", "mine"}, {"OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs"}});
  EXPECT_EQ(options.resource, (SpanAttributes{{"service.name", "mine"}}));
}

TEST(ExporterOptionsTest, WhatIsMalformedIsNamed) {
  const auto names = [](const absl::Status& status, absl::string_view name) {
    return absl::IsInvalidArgument(status) && absl::StrContains(status.message(), name);
  };
  EXPECT_TRUE(names(Read("collector", {}).status(), "--otlp-endpoint"));
  EXPECT_TRUE(
      names(Read("", {{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"}}).status(), "OTEL_EXPORTER_OTLP_ENDPOINT"));
  for (const char* bad : {"a", "=1", "a=%2", "a=1,b"}) {
    EXPECT_TRUE(names(Read("http://a:1", {{"OTEL_RESOURCE_ATTRIBUTES", bad}}).status(), "OTEL_RESOURCE_ATTRIBUTES"))
        << bad;
  }
}

// Ids in hexadecimal, times and integers as strings, enumerations as numbers.
TEST(OtlpTest, ARequestAsTheSpecificationHasIt) {
  Span root;
  for (size_t i = 0; i < root.trace.size(); ++i) root.trace[i] = static_cast<uint8_t>(0xa0 + i);
  root.id = {1, 2, 3, 4, 5, 6, 7, 0xff};
  root.name = "chat";
  root.kind = Span::Kind::kServer;
  root.began = absl::FromUnixNanos(1700000000000000001);
  root.ended = root.began + absl::Seconds(1);
  root.attributes = {{"count", int64_t{1} << 60}, {"ratio", 0.5}, {"name", std::string("a\"b\x01")}};
  root.events = {{"first_token", root.began + absl::Nanoseconds(7)}};
  root.failed = true;
  Span child = root;
  child.parent = root.id;
  child.id[0] = 9;
  child.state = "a=1";
  child.name = "load";
  child.kind = Span::Kind::kInternal;
  child.attributes = {};
  child.events = {};
  child.failed = false;
  const Span spans[] = {root, child};
  const nlohmann::json expected = nlohmann::json::parse(R"({"resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "kvlink"}}]},
    "scopeSpans": [{"scope": {"name": "kvlink.serve"}, "spans": [
      {"traceId": "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "spanId": "01020304050607ff", "name": "chat", "kind": 2,
       "startTimeUnixNano": "1700000000000000011", "endTimeUnixNano": "1700000001000000011",
       "attributes": [{"key": "count", "value": {"intValue": "1152921504606846976"}},
                      {"key": "ratio", "value": {"doubleValue": 0.5}},
                      {"key": "name", "value": {"stringValue": "a\"b\u0001"}}],
       "events": [{"timeUnixNano": "1700000000000000018", "name": "first_token"}],
       "status": {"code": 2}},
      {"traceId": "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "spanId": "09020304050607ff", "parentSpanId": "01020304050607ff",
       "traceState": "a=1", "name": "load", "kind": 1, "startTimeUnixNano": "1700000000000000011",
       "endTimeUnixNano": "1700000001000000011", "attributes": []}]}]}]})");
  EXPECT_EQ(nlohmann::json::parse(OtlpRequest({{"service.name", "kvlink"}}, spans, absl::Nanoseconds(10))), expected);
}

}  // namespace
}  // namespace kvlink::serve
