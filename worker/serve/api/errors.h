// What a client is told of a status: the HTTP status and each API's own kind of error. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_API_ERRORS_H_
#define KVLINK_WORKER_SERVE_API_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvlink::serve {

// INVALID_ARGUMENT, "<parameter>: <what>". The parameter is kept beside the message, for ParameterOf.
absl::Status ParameterError(absl::string_view parameter, absl::string_view what);
// INVALID_ARGUMENT, which is told as "413 Payload Too Large".
absl::Status TooLargeError(absl::string_view what);
// NOT_FOUND, of the parameter "model".
absl::Status UnknownModelError(absl::string_view model);

// `told`, with what really happened, which is not for clients, beside it: for CauseOf.
absl::Status WithCause(absl::Status told, const absl::Status& cause);
// "<code>: <message>" of what happened; empty if the error says all.
std::string CauseOf(const absl::Status& status);

// The parameter that the error is about, "messages[2].content"; empty if it names none.
std::string ParameterOf(const absl::Status& status);

struct ErrorKind {
  int http_status = 500;
  absl::string_view openai_type;
  absl::string_view openai_code;  // empty: none
  absl::string_view anthropic_type;
  int anthropic_http_status = 500;
};
// REQUIRES: `status` is not OK.
ErrorKind KindOf(const absl::Status& status);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_API_ERRORS_H_
