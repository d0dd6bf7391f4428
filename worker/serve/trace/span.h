// A piece of the time of one request, as OpenTelemetry understands it. Thread-safety: plain values.
#ifndef KVLINK_WORKER_SERVE_TRACE_SPAN_H_
#define KVLINK_WORKER_SERVE_TRACE_SPAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/serve/trace/context.h"

namespace kvlink::serve {

using SpanAttributes = std::vector<std::pair<std::string, std::variant<int64_t, double, std::string>>>;

struct Span {
  enum class Kind : uint8_t { kInternal = 1, kServer = 2 };  // as OTLP counts them

  TraceId trace = {};
  SpanId id = {};
  SpanId parent = {};
  std::string state;       // TraceContext
  absl::string_view name;  // of a fixed set
  Kind kind = Kind::kInternal;
  absl::Time began, ended;  // SteadyNow() time
  SpanAttributes attributes;
  std::vector<std::pair<absl::string_view, absl::Time>> events;  // names of a fixed set
  bool failed = false;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_SPAN_H_
