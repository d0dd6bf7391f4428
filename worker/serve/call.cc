#include "worker/serve/call.h"

namespace kvlink::serve {
namespace {

constexpr int kClientGone = 499;  // as nginx counts it
constexpr char kRetrySeconds[] = "1";

}  // namespace

Call::~Call() { Complete(); }

void Call::Complete() {
  if (ended_ == nullptr) return;
  record_.caller = caller.name;
  record_.took = SteadyNow() - record_.arrived;
  record_.gone = gone();
  if (record_.gone) record_.status = kClientGone;
  std::exchange(ended_, nullptr)(record_);
}

HttpHeaders Call::Traced(HttpHeaders headers) const {
  if (record_.trace.given) headers.emplace_back("traceparent", record_.trace.ToParent());
  return headers;
}

void Call::Respond(int status, absl::string_view content_type, std::string body, HttpHeaders headers) {
  record_.status = status;
  exchange_->Respond(status, content_type, std::move(body), Traced(std::move(headers)));
  Complete();
}

void Call::Begin(int status, absl::string_view content_type, HttpHeaders headers) {
  record_.status = status;
  exchange_->Begin(status, content_type, Traced(std::move(headers)));
}

void Call::End() {
  exchange_->End();
  Complete();
}

void Call::Fail(const absl::Status& status, HttpHeaders headers) {
  record_.error = status;
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
    headers.emplace_back("retry-after", kRetrySeconds);
  }
  if (absl::IsUnauthenticated(status)) headers.emplace_back("www-authenticate", "Bearer");
  Respond(dialect_->HttpStatus(status), "application/json", dialect_->ErrorBody(status), std::move(headers));
}

void Call::OnGone(std::function<void()> then) {
  exchange_->OnGone([gone = gone_, then = std::move(then)] {
    gone->store(true);
    if (then) then();
  });
}

}  // namespace kvlink::serve
