// Which trace a request belongs to, as W3C Trace Context says it in the headers `traceparent` and `tracestate`.
// Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_SERVE_TRACE_CONTEXT_H_
#define KVLINK_WORKER_SERVE_TRACE_CONTEXT_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvlink::serve {

using TraceId = std::array<uint8_t, 16>;  // not all zeros
using SpanId = std::array<uint8_t, 8>;    // all zeros: none

TraceId NewTraceId();
SpanId NewSpanId();
// In lower-case hexadecimal digits.
std::string ToHex(const TraceId& id);
std::string ToHex(const SpanId& id);

struct TraceContext {
  TraceId trace = {};
  SpanId parent = {};    // the client's span
  SpanId span = {};      // the server's own, of the whole request
  bool given = false;    // by the client; otherwise begun here
  bool sampled = false;  // to be exported
  std::string state;     // `tracestate`, as it is passed on

  // The headers of a request, with names in lower case. A client's choice whether to sample is kept; a trace that
  // begins here is sampled with probability `ratio`. What the specification calls invalid is as if it were not there:
  // of a malformed `tracestate` that header, of a malformed or repeated `traceparent` both.
  static TraceContext Of(const std::vector<std::pair<std::string, std::string>>& headers, double ratio);
  // The value of `traceparent` that names the server's own span.
  std::string ToParent() const;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_CONTEXT_H_
