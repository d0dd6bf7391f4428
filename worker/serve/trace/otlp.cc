// As the mapping of protocol buffers to JSON has it, but that ids are in hexadecimal digits: 64-bit integers are
// strings, enumerations are numbers.
#include "worker/serve/trace/otlp.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace kvlink::serve {
namespace {

using OtlpJson = nlohmann::ordered_json;

constexpr int kStatusError = 2;

OtlpJson ValueOf(const SpanAttributes::value_type::second_type& value) {
  OtlpJson json;
  if (const auto* number = std::get_if<int64_t>(&value)) {
    json["intValue"] = absl::StrCat(*number);
  } else if (const auto* real = std::get_if<double>(&value)) {
    json["doubleValue"] = *real;
  } else {
    json["stringValue"] = std::get<std::string>(value);
  }
  return json;
}

OtlpJson AttributesOf(const SpanAttributes& attributes) {
  OtlpJson list = OtlpJson::array();
  for (const auto& [key, value] : attributes) list.push_back({{"key", key}, {"value", ValueOf(value)}});
  return list;
}

std::string NanosOf(absl::Time time, absl::Duration ahead) { return absl::StrCat(absl::ToUnixNanos(time + ahead)); }

OtlpJson SpanOf(const Span& span, absl::Duration ahead) {
  OtlpJson json = {{"traceId", ToHex(span.trace)}, {"spanId", ToHex(span.id)}};
  if (span.parent != SpanId{}) json["parentSpanId"] = ToHex(span.parent);
  if (!span.state.empty()) json["traceState"] = span.state;
  json["name"] = std::string(span.name);
  json["kind"] = static_cast<int>(span.kind);
  json["startTimeUnixNano"] = NanosOf(span.began, ahead);
  json["endTimeUnixNano"] = NanosOf(span.ended, ahead);
  json["attributes"] = AttributesOf(span.attributes);
  for (const auto& [name, time] : span.events) {
    json["events"].push_back({{"timeUnixNano", NanosOf(time, ahead)}, {"name", std::string(name)}});
  }
  if (span.failed) json["status"]["code"] = kStatusError;
  return json;
}

}  // namespace

std::string OtlpRequest(const SpanAttributes& resource, absl::Span<const Span> spans, absl::Duration ahead) {
  OtlpJson list = OtlpJson::array();
  for (const Span& span : spans) list.push_back(SpanOf(span, ahead));
  OtlpJson scope, of_resource, request;
  scope["scope"]["name"] = "kvlink.serve";
  scope["spans"] = std::move(list);
  of_resource["resource"]["attributes"] = AttributesOf(resource);
  of_resource["scopeSpans"].push_back(std::move(scope));
  request["resourceSpans"].push_back(std::move(of_resource));
  // An attribute of the environment may be no UTF-8.
  return request.dump(-1, ' ', false, OtlpJson::error_handler_t::replace);
}

int64_t RejectedSpans(absl::string_view response) {
  const auto json = nlohmann::json::parse(response.begin(), response.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return 0;
  const auto partial = json.find("partialSuccess");
  if (partial == json.end() || !partial->is_object()) return 0;
  const auto rejected = partial->find("rejectedSpans");
  if (rejected == partial->end()) return 0;
  int64_t count = 0;
  if (rejected->is_number_integer()) count = rejected->get<int64_t>();
  if (rejected->is_string() && !absl::SimpleAtoi(rejected->get<std::string>(), &count)) return 0;
  return std::max<int64_t>(0, count);
}

}  // namespace kvlink::serve
