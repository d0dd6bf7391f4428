// Spans as collectors take them: OTLP in JSON. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_TRACE_OTLP_H_
#define KVLINK_WORKER_SERVE_TRACE_OTLP_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/serve/trace/span.h"

namespace kvlink::serve {

// An ExportTraceServiceRequest. `resource`: what the process is. `ahead`: the wall clock's lead over SteadyNow().
std::string OtlpRequest(const SpanAttributes& resource, absl::Span<const Span> spans, absl::Duration ahead);

// How many spans the collector says that it rejected, in an ExportTraceServiceResponse; 0 if it says
// nothing, or nothing that can be read.
int64_t RejectedSpans(absl::string_view response);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_OTLP_H_
