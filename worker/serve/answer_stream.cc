// The scheduler calls for each token from the thread that computes, so each call does only what cannot wait: it turns
// the token into an event and hands it to the connection.
#include "worker/serve/answer_stream.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::serve {
namespace {

constexpr char kEvents[] = "text/event-stream";
// Neither proxies nor browsers keep or collect what is streamed.
const HttpHeaders& EventHeaders() {
  static const HttpHeaders headers = {{"cache-control", "no-cache"}, {"x-accel-buffering", "no"}};
  return headers;
}

}  // namespace

bool AnswerStream::OnToken(int32_t token) {
  const absl::Time now = SteadyNow();
  if (tokens_++ == 0) {
    first_token_ = now - call_->arrived();
    metrics_->FirstToken(first_token_);
    if (stream_) {
      Usage known;
      known.prompt_tokens = prompt_tokens_;
      call_->Begin(200, kEvents, EventHeaders());
      call_->Write(writer_->Begin(known));
    }
  } else {
    metrics_->NextToken(now - last_token_);
  }
  last_token_ = now;
  Give(text_.Push(token));
  return !text_.stopped();
}

void AnswerStream::Give(const std::string& text) {
  if (text.empty()) return;
  if (stream_) {
    call_->Write(writer_->Text(text));
  } else {
    whole_ += text;
  }
}

absl::Status AnswerStream::Told(const absl::Status& status) const {
  // Cancelled by nobody but the server itself, unless the client has gone and is not told anything.
  return absl::IsCancelled(status) && !call_->gone() ? absl::UnavailableError("the server is shutting down") : status;
}

void AnswerStream::OnEnd(const absl::Status& status, infer::Scheduler::End end, const infer::RequestStats& stats) {
  const bool begun = stream_ && tokens_ > 0;
  Usage usage = UsageOf(stats, tokens_);
  usage.first_token_ms = absl::ToDoubleMilliseconds(first_token_);
  call_->record().usage = usage;
  call_->record().stats = stats;
  if (!status.ok()) {
    const absl::Status told = Told(status);
    call_->record().error = told;
    if (!begun) return call_->Fail(told);
    call_->Write(writer_->Error(told));
    return call_->End();
  }
  Give(text_.Finish());
  metrics_->Answered(usage.prompt_tokens, usage.cached_tokens);
  const Finish finish = text_.stopped() ? Finish::kStopString
                        : end == infer::Scheduler::End::kMaxTokens || end == infer::Scheduler::End::kContext
                            ? Finish::kLength
                            : Finish::kStop;
  if (!stream_) {
    return call_->Respond(200, "application/json", writer_->Whole(whole_, finish, text_.stop_string(), usage));
  }
  if (!begun) {  // the model ended its answer at once
    call_->Begin(200, kEvents, EventHeaders());
    call_->Write(writer_->Begin(usage));
  }
  call_->Write(writer_->End(finish, text_.stop_string(), usage));
  call_->End();
}

}  // namespace kvlink::serve
