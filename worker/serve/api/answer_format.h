// The form that a client wants its answer to have: OpenAI's `response_format` and `text.format`, vLLM's `guided_json`
// and `structured_outputs`. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_API_ANSWER_FORMAT_H_
#define KVLINK_WORKER_SERVE_API_ANSWER_FORMAT_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

// Both read members of `body`, whose text is `text`: a schema is kept as the client wrote it, since the order of its
// properties is that of the answer.
// `response_format`, `guided_json` and `structured_outputs`.
AnswerFormat ReadResponseFormat(const Field& body, absl::string_view text);
// {"type": "json_schema", "schema": ...} at `path`.
AnswerFormat ReadFormatAt(absl::Span<const absl::string_view> path, const Field& body, absl::string_view text);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_ANSWER_FORMAT_H_
