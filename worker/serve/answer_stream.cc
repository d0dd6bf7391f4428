// The scheduler calls for each token from the thread that computes, so each call does only what cannot wait: it turns
// the token into an event and hands it to the connection.
#include "worker/serve/answer_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/clock.h"

namespace kvlink::serve {
namespace {

constexpr char kEvents[] = "text/event-stream";
// JSON has no infinity; this is what OpenAI's API says for tokens that are not likely at all.
constexpr float kMinLogprob = -9999;

// Neither proxies nor browsers keep or collect what is streamed.
const HttpHeaders& EventHeaders() {
  static const HttpHeaders headers = {{"cache-control", "no-cache"}, {"x-accel-buffering", "no"}};
  return headers;
}

// Those that begin in it.
int64_t CharactersOf(absl::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

Finish FinishOf(const AnswerText& text, infer::Scheduler::End end) {
  if (text.stopped()) return Finish::kStopString;
  const bool cut = end == infer::Scheduler::End::kMaxTokens || end == infer::Scheduler::End::kContext;
  return cut ? Finish::kLength : Finish::kStop;
}

}  // namespace

class AnswerStream::Listener : public infer::Scheduler::Listener {
 public:
  Listener(std::shared_ptr<AnswerStream> stream, int64_t index) : stream_(std::move(stream)), index_(index) {}
  bool OnToken(const infer::SampledToken& token) override { return stream_->OnToken(index_, token); }
  void OnEnd(const absl::Status& status, infer::Scheduler::End end, const infer::RequestStats& stats) override {
    stream_->OnEnd(index_, status, end, stats);
  }

 private:
  const std::shared_ptr<AnswerStream> stream_;
  const int64_t index_;
};

AnswerStream::AnswerStream(std::shared_ptr<Call> call, const CompletionRequest& request,
                           const model::Tokenizer* tokenizer, int64_t prompt_tokens, Metrics* metrics, Later later)
    : call_(std::move(call)),
      writer_(call_->dialect().NewAnswer(request)),
      tokenizer_(tokenizer),
      stream_(request.stream),
      logprobs_(request.top_logprobs.has_value()),
      prompt_tokens_(prompt_tokens),
      metrics_(metrics),
      later_(std::move(later)),
      open_(request.choices) {
  for (int64_t index = 0; index < request.choices; ++index) answers_.emplace_back(tokenizer, request.stop);
}

std::vector<std::shared_ptr<infer::Scheduler::Listener>> AnswerStream::Listen() {
  std::vector<std::shared_ptr<infer::Scheduler::Listener>> listeners;
  for (int64_t index = 0; index < open_; ++index) {
    listeners.push_back(std::make_shared<Listener>(shared_from_this(), index));
  }
  return listeners;
}

bool AnswerStream::OnToken(int64_t index, const infer::SampledToken& token) {
  if (failed_) return false;
  OneAnswer& one = answers_[static_cast<size_t>(index)];
  const absl::Time now = SteadyNow();
  if (tokens_++ == 0) {
    first_token_ = now - call_->arrived();
    metrics_->FirstToken(first_token_);
    Usage known;
    known.prompt_tokens = prompt_tokens_;
    Begin(known);
  }
  if (one.tokens++ > 0) metrics_->NextToken(now - one.last_token);
  one.last_token = now;
  const int64_t begin = one.given + one.text.held_bytes();
  std::string text = one.text.Push(token.token);
  if (logprobs_) {
    Await(one, token, begin);
    one.waiting.back().end = one.given + static_cast<int64_t>(text.size()) + one.text.held_bytes();
  }
  Give(index, std::move(text), /*last=*/false);
  return !one.text.stopped();
}

TokenLogprob AnswerStream::Spelled(int32_t token, float logprob, bool first) const {
  return {first ? tokenizer_->FirstTokenBytes(token) : tokenizer_->TokenBytes(token), std::max(logprob, kMinLogprob)};
}

void AnswerStream::Await(OneAnswer& one, const infer::SampledToken& token, int64_t begin) {
  const bool first = !one.spelled;
  OneAnswer::Waiting waiting;
  waiting.begin = begin;
  waiting.token.chosen = Spelled(token.token, token.logprob, first);
  waiting.token.offset = one.offset;
  for (const infer::SampledToken::Logprob& likely : token.likeliest) {
    waiting.token.likeliest.push_back(Spelled(likely.token, likely.logprob, first));
  }
  if (!tokenizer_->IsSpecial(token.token)) {
    one.spelled = true;
    one.offset += CharactersOf(waiting.token.chosen.bytes);
  }
  one.waiting.push_back(std::move(waiting));
}

void AnswerStream::Give(int64_t index, std::string text, bool last) {
  OneAnswer& one = answers_[static_cast<size_t>(index)];
  one.given += static_cast<int64_t>(text.size());
  AnswerPiece piece{std::move(text), {}};
  // Before a stop string: the tokens that have at least a part of the text.
  const bool stopped = one.text.stopped();
  while (!one.waiting.empty() && (stopped ? one.waiting.front().begin < one.given
                                  : last  ? true
                                          : !piece.text.empty() && one.waiting.front().end <= one.given)) {
    piece.tokens.push_back(std::move(one.waiting.front().token));
    one.waiting.pop_front();
  }
  if (piece.text.empty() && piece.tokens.empty()) return;
  if (stream_) return call_->Write(writer_->Piece(index, piece));
  AnswerPiece& whole = one.choice.answer;
  whole.text += piece.text;
  std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(whole.tokens));
}

void AnswerStream::Begin(const Usage& known) {
  if (!stream_ || std::exchange(begun_, true)) return;
  call_->Begin(200, kEvents, EventHeaders());
  call_->Write(writer_->Begin(known));
}

void AnswerStream::Submitted(std::function<void()> cancel) {
  {
    MutexLock lock(&mutex_);
    if (!failed_) {
      cancel_ = std::move(cancel);
      return;
    }
  }
  cancel();
}

void AnswerStream::Fail(const absl::Status& status) {
  std::function<void()> cancel;
  {
    MutexLock lock(&mutex_);
    failed_ = true;
    cancel = std::exchange(cancel_, nullptr);
  }
  if (cancel) cancel();
  // Cancelled by nobody but the server itself, unless the client has gone and is not told anything.
  const bool ours = absl::IsCancelled(status) && !call_->gone();
  const absl::Status told = ours ? absl::UnavailableError("the server is shutting down") : status;
  call_->record().error = told;
  if (!begun_) return call_->Fail(told);
  call_->Write(writer_->Error(told));
  call_->End();
}

void AnswerStream::OnEnd(int64_t index, const absl::Status& status, infer::Scheduler::End end,
                         const infer::RequestStats& stats) {
  if (failed_) return;
  OneAnswer& one = answers_[static_cast<size_t>(index)];
  if (!stats_.has_value() || stats.read_tokens < stats_->read_tokens) stats_ = stats;
  Usage usage = UsageOf(*stats_, tokens_);
  usage.first_token_ms = absl::ToDoubleMilliseconds(first_token_);
  call_->record().usage = usage;
  call_->record().stats = *stats_;
  if (!status.ok()) return Fail(status);
  Give(index, one.text.Finish(), /*last=*/true);
  one.choice.finish = FinishOf(one.text, end);
  one.choice.stop = one.text.stop_string();
  const bool all = --open_ == 0;
  if (all) metrics_->Answered(usage.prompt_tokens, usage.cached_tokens);
  if (stream_) {
    Begin(usage);  // unless it has: this model ended its answer at once
    call_->Write(all ? writer_->End(index, one.choice, usage) : writer_->EndOne(index, one.choice));
    if (all) call_->End();
  } else if (all && logprobs_) {
    later_([self = shared_from_this(), usage] { self->Respond(usage); });  // many numbers have to be written
  } else if (all) {
    Respond(usage);
  }
}

void AnswerStream::Respond(const Usage& usage) {
  std::vector<Choice> choices;
  for (OneAnswer& answer : answers_) choices.push_back(std::move(answer.choice));
  call_->Respond(200, "application/json", writer_->Whole(choices, usage));
}

}  // namespace kvlink::serve
