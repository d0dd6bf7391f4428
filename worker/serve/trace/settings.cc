#include "worker/serve/trace/settings.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "worker/serve/http/request.h"

namespace kvlink::serve {
namespace {

constexpr char kService[] = "service.name";

// "key=value,key=value", with percent-encoded values.
absl::StatusOr<SpanAttributes> ParseAttributes(absl::string_view text) {
  SpanAttributes attributes;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const absl::string_view key = absl::StripAsciiWhitespace(pair.first);
    std::optional<std::string> value = PercentDecode(absl::StripAsciiWhitespace(pair.second));
    if (key.empty() || !value || !absl::StrContains(part, "=")) {
      return absl::InvalidArgumentError(
          absl::StrCat("OTEL_RESOURCE_ATTRIBUTES: '", part, "' is not KEY=VALUE with a percent-encoded value"));
    }
    attributes.emplace_back(std::string(key), *std::move(value));
  }
  return attributes;
}

}  // namespace

absl::StatusOr<std::optional<SpanExporter::Options>> ExporterOptions(
    absl::string_view endpoint, const std::function<std::string(const char* name)>& variable) {
  constexpr char kEndpoint[] = "OTEL_EXPORTER_OTLP_ENDPOINT";
  const std::string url = endpoint.empty() ? variable(kEndpoint) : std::string(endpoint);
  if (url.empty()) return std::nullopt;
  SpanExporter::Options options;
  auto parsed = ParseCollectorUrl(url);
  if (!parsed.ok()) return Annotate(parsed.status(), endpoint.empty() ? kEndpoint : "--otlp-endpoint");
  options.url = *std::move(parsed);
  options.authorities = variable("OTEL_EXPORTER_OTLP_CERTIFICATE");
  KVLINK_ASSIGN_OR_RETURN(options.resource, ParseAttributes(variable("OTEL_RESOURCE_ATTRIBUTES")));
  const auto service = absl::c_find_if(options.resource, [](const auto& one) { return one.first == kService; });
  std::string name = variable("OTEL_SERVICE_NAME");
  if (service == options.resource.end()) {
    options.resource.emplace_back(kService, name.empty() ? "kvlink" : std::move(name));
  } else if (!name.empty()) {
    service->second = std::move(name);
  }
  return options;
}

}  // namespace kvlink::serve
