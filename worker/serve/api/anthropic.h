// Anthropic's API: messages, as JSON. Errors of the parser: INVALID_ARGUMENT, naming the member that is wrong, not
// supported or too large (errors.h). What is written of a stream is whole server-sent events. Thread-safety: pure
// functions.
#ifndef KVLINK_WORKER_SERVE_API_ANTHROPIC_H_
#define KVLINK_WORKER_SERVE_API_ANTHROPIC_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve::anthropic {

// The body of POST /v1/messages. Blocks of the type `document` become documents, after those of the member `documents`;
// messages of one role that follow each other become one.
absl::StatusOr<CompletionRequest> ParseMessages(absl::string_view body);

// The whole response. `stop`: the string that ended the answer, with Finish::kStopString.
std::string Response(const Answer& answer, absl::string_view text, Finish finish, absl::string_view stop,
                     const Usage& usage);
// Of a stream: its begin, with what is known of the usage; each piece of text; and its end or the error that ends it.
std::string StreamBegin(const Answer& answer, const Usage& usage);
std::string StreamText(absl::string_view text);
std::string StreamEnd(const Answer& answer, Finish finish, absl::string_view stop, const Usage& usage);
std::string StreamError(const absl::Status& status);

// REQUIRES: `status` is not OK.
int HttpStatus(const absl::Status& status);
std::string ErrorBody(const absl::Status& status);

}  // namespace kvlink::serve::anthropic

#endif  // KVLINK_WORKER_SERVE_API_ANTHROPIC_H_
