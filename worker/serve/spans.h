// What a request took its time for, as metrics count it and as collectors of traces show it. No text, no id or title of
// a document and no key is in any of it. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_SPANS_H_
#define KVLINK_WORKER_SERVE_SPANS_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/infer/phases.h"
#include "worker/serve/call.h"
#include "worker/serve/trace/span.h"

namespace kvlink::serve {

// In the order in which they begin; the first that lie in "land" follow it.
//   catalog  the store looked up documents by their ids
//   wait     for the request's turn, until its documents begin to land or its prompt is computed
//   land     its encodings were looked up, read or encoded; in it
//     lookup   the store was asked which it has
//     load     they were read, by where they were found, until every layer was in its place
//     encode   those that it lacks were encoded
//   link     the fresh tokens of the prompt were computed; the last layers may have arrived meanwhile
//   decode   the rest of the answer, from its first token on
struct RequestPhase {
  absl::string_view name;
  absl::string_view place = {};  // of "load": "host", "dram" or "disk"
  bool lands = false;            // it lies in "land"
  infer::Phase time = {};
  SpanAttributes attributes = {};
  int64_t bytes = 0;         // of "load"
  absl::Duration took = {};  // of "load" that the request waited for it; of others, from beginning to end
};

// All of them; those that did not happen are empty. REQUIRES: the record is complete.
std::vector<RequestPhase> PhasesOf(const Record& record);

// The span of the request, and those of its phases below it. A span lies within the one that it belongs to.
std::vector<Span> SpansOf(const Record& record);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_SPANS_H_
