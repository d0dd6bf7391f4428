// The APIs that a client may speak, behind one interface: what differs between them is how requests are read, and how
// answers and errors are written. Thread-safety: const objects by many threads; free functions by all.
#ifndef KVLINK_WORKER_SERVE_DIALECT_H_
#define KVLINK_WORKER_SERVE_DIALECT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

// Writes the answers to one request, either whole or as a stream of server-sent events: Begin, Piece for each piece,
// EndOne for each answer that ends but the last to do so, and End for that one. One thread at a time.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  virtual std::string Whole(absl::Span<const Choice> choices, const Usage& usage) = 0;
  // `known`: of the usage, by then.
  virtual std::string Begin(const Usage& known) = 0;
  // `index`: of the answer. Of a choice, all but its text and tokens count, which pieces have given.
  virtual std::string Piece(int64_t index, const AnswerPiece& piece) = 0;
  virtual std::string EndOne(int64_t index, const Choice& choice) = 0;
  virtual std::string End(int64_t index, const Choice& choice, const Usage& usage) = 0;
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
