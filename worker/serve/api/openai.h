// OpenAI's API: chat completions, completions and models, as JSON. Errors of all parsers: INVALID_ARGUMENT, naming the
// member that is wrong, not supported or too large (errors.h). What is written of a stream is whole server-sent events.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_API_OPENAI_H_
#define KVLINK_WORKER_SERVE_API_OPENAI_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve::openai {

// The body of POST /v1/chat/completions.
absl::StatusOr<CompletionRequest> ParseChat(absl::string_view body);
// The body of POST /v1/completions.
absl::StatusOr<CompletionRequest> ParseCompletion(absl::string_view body);

enum class Kind : uint8_t { kChat, kCompletion };

// The whole response.
std::string Response(Kind kind, const Answer& answer, absl::Span<const Choice> choices, const Usage& usage);
// Of a stream: its begin (nothing with kCompletion), each piece of the answer `index`, the end of each answer but that
// of the last one to end, and that with the end of the stream, or the error that ends it.
std::string StreamBegin(Kind kind, const Answer& answer);
std::string StreamPiece(Kind kind, const Answer& answer, int64_t index, const AnswerPiece& piece);
std::string StreamFinish(Kind kind, const Answer& answer, int64_t index, Finish finish);
std::string StreamEnd(Kind kind, const Answer& answer, int64_t index, Finish finish, const Usage& usage);
std::string StreamError(const absl::Status& status);

struct Model {
  std::string id;
  int64_t created = 0;  // seconds since 1970
};
// The bodies of GET /v1/models and of /v1/models/{id}.
std::string ModelList(absl::Span<const Model> models);
std::string ModelEntry(const Model& model);

// REQUIRES: `status` is not OK.
int HttpStatus(const absl::Status& status);
std::string ErrorBody(const absl::Status& status);

}  // namespace kvlink::serve::openai

#endif  // KVLINK_WORKER_SERVE_API_OPENAI_H_
