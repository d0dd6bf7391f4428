// How spans are exported, from what OpenTelemetry calls the environment. Thread-safety: a pure function.
#ifndef KVLINK_WORKER_SERVE_TRACE_SETTINGS_H_
#define KVLINK_WORKER_SERVE_TRACE_SETTINGS_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/trace/exporter.h"

namespace kvlink::serve {

// The options of an exporter to `endpoint` or, if that is empty, to OTEL_EXPORTER_OTLP_ENDPOINT, with the attributes of
// OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME ("kvlink" without either), and the authorities of
// OTEL_EXPORTER_OTLP_CERTIFICATE. `variable` returns the value of one, empty if it is not set. nullopt: neither names a
// collector. INVALID_ARGUMENT naming the variable that is malformed.
absl::StatusOr<std::optional<SpanExporter::Options>> ExporterOptions(
    absl::string_view endpoint, const std::function<std::string(const char* name)>& variable);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_SETTINGS_H_
