// The APIs that a client may speak, behind one interface: what differs between them is how requests are read, and how
// answers and errors are written. Thread-safety: const objects by many threads; free functions by all.
#ifndef KVLINK_WORKER_SERVE_DIALECT_H_
#define KVLINK_WORKER_SERVE_DIALECT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

// Writes one answer, either whole or as a stream of server-sent events: Begin, Text for each piece, End. One thread at
// a time.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // `stop`: the string that ended the answer, with Finish::kStopString.
  virtual std::string Whole(absl::string_view text, Finish finish, absl::string_view stop, const Usage& usage) = 0;
  // `known`: of the usage, by then.
  virtual std::string Begin(const Usage& known) = 0;
  virtual std::string Text(absl::string_view text) = 0;
  virtual std::string End(Finish finish, absl::string_view stop, const Usage& usage) = 0;
  // In place of the end of a stream that has begun.
  virtual std::string Error(const absl::Status& status) = 0;
};

class Dialect {
 public:
  virtual ~Dialect() = default;
  // A completion, by the body of its request. INVALID_ARGUMENT naming the member.
  virtual absl::StatusOr<CompletionRequest> Parse(absl::string_view body) const = 0;
  virtual std::unique_ptr<AnswerWriter> NewAnswer(const CompletionRequest& request) const = 0;
  // REQUIRES: `status` is not OK.
  virtual int HttpStatus(const absl::Status& status) const = 0;
  virtual std::string ErrorBody(const absl::Status& status) const = 0;
};

// Errors of requests other than these are written as those of ChatDialect().
const Dialect& ChatDialect();        // POST /v1/chat/completions
const Dialect& CompletionDialect();  // POST /v1/completions
const Dialect& ResponsesDialect();   // POST /v1/responses
const Dialect& MessagesDialect();    // POST /v1/messages

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_DIALECT_H_
