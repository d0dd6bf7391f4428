// The answers to one request on their way from the scheduler to a client, as a stream of events or as one response.
//
// Nothing is sent before the first token: until then an error is a response with its own status. An answer that fails
// fails the response, and the other ones end.
//
// Thread-safety: of the listeners, as Scheduler::Listener; Listen and Submitted by the thread that submits. Lifetime:
// what the options point to outlives the object, which its listeners own.
#ifndef KVLINK_WORKER_SERVE_ANSWER_STREAM_H_
#define KVLINK_WORKER_SERVE_ANSWER_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "worker/infer/scheduler.h"
#include "worker/serve/answer_text.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/request.h"
#include "worker/serve/call.h"
#include "worker/serve/dialect.h"
#include "worker/serve/metrics.h"
#include "worker/serve/service.h"

namespace kvlink::serve {

class AnswerStream : public std::enable_shared_from_this<AnswerStream> {
 public:
  // Has work done on another thread, or here if there is none any more.
  using Later = std::function<void(std::function<void()> work)>;

  // `prompt_tokens`: PromptTokensOf. `later`: for what is too much for the scheduler's thread.
  AnswerStream(std::shared_ptr<Call> call, const CompletionRequest& request, const model::Tokenizer* tokenizer,
               int64_t prompt_tokens, Metrics* metrics, Later later);

  // One for each of the request's answers.
  std::vector<std::shared_ptr<infer::Scheduler::Listener>> Listen();
  // Once they are submitted. `cancel` ends all of them that have not ended: called once one has failed.
  void Submitted(std::function<void()> cancel);

 private:
  class Listener;
  struct OneAnswer {
    OneAnswer(const model::Tokenizer* tokenizer, const std::vector<std::string>& stop) : text(tokenizer, stop) {}
    AnswerText text;
    Choice choice;       // of a stream, without what was sent
    int64_t tokens = 0;  // of the model
    absl::Time last_token;
    int64_t given = 0;     // bytes of text
    bool spelled = false;  // a token with text has come
    int64_t offset = 0;    // characters of all tokens with text
    // With log-probabilities: tokens that are not given yet, and where their text begins and ends in that of the
    // answer.
    struct Waiting {
      AnswerToken token;
      int64_t begin = 0, end = 0;
    };
    std::deque<Waiting> waiting;
  };

  bool OnToken(int64_t index, const infer::SampledToken& token);
  void OnEnd(int64_t index, const absl::Status& status, infer::Scheduler::End end, const infer::RequestStats& stats);

  void Await(OneAnswer& one, const infer::SampledToken& token, int64_t begin);
  TokenLogprob Spelled(int32_t token, float logprob, bool first) const;
  // Gives out text that is certain, with its tokens.
  void Give(int64_t index, std::string text, bool last);
  void Begin(const Usage& known);
  // With all answers, whole.
  void Respond(const Usage& usage);
  void Fail(const absl::Status& status);

  const std::shared_ptr<Call> call_;
  const std::unique_ptr<AnswerWriter> writer_;
  const model::Tokenizer* const tokenizer_;
  const bool stream_, logprobs_;
  const int64_t prompt_tokens_;
  Metrics* const metrics_;
  const Later later_;

  std::vector<OneAnswer> answers_;
  int64_t open_;                              // answers that have not ended
  bool begun_ = false;                        // the stream
  int64_t tokens_ = 0;                        // of all answers
  absl::Duration first_token_;                // of any, since the request arrived
  std::optional<infer::RequestStats> stats_;  // of the answer that read the least of its prompt, so far

  Mutex mutex_;
  std::atomic<bool> failed_{false};  // the response; set under the lock
  std::function<void()> cancel_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_ANSWER_STREAM_H_
