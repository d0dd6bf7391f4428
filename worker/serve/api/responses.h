// OpenAI's other API for chats, /v1/responses, as far as it is text that is not kept by the server. Its errors are
// those of openai.h, and so is their form.
#ifndef KVLINK_WORKER_SERVE_API_RESPONSES_H_
#define KVLINK_WORKER_SERVE_API_RESPONSES_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve::responses {

// The body of POST /v1/responses. Thread-safety: a pure function, as the next.
absl::StatusOr<CompletionRequest> Parse(absl::string_view body);

// The whole response.
std::string Response(const Answer& answer, absl::string_view text, Finish finish, const Usage& usage);

// Writes a stream as whole server-sent events: its begin, each piece of text, and its end or the error that ends it.
// The events are numbered, and the last ones repeat the text. Thread-safety: one thread at a time.
class Stream {
 public:
  explicit Stream(Answer answer) : answer_(std::move(answer)) {}

  std::string Begin();
  std::string Text(absl::string_view text);
  std::string End(Finish finish, const Usage& usage);
  std::string Error(const absl::Status& status);

 private:
  const Answer answer_;
  std::string text_;      // so far
  int64_t sequence_ = 0;  // of the next event
};

}  // namespace kvlink::serve::responses

#endif  // KVLINK_WORKER_SERVE_API_RESPONSES_H_
