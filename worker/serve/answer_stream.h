// One answer on its way from the scheduler to a client, as a stream of events or as one response.
//
// Nothing is sent before the first token: until then an error is a response with its own status.
//
// Thread-safety: as Scheduler::Listener; Submitted by the thread that submits. Lifetime: what the options point to
// outlives the object.
#ifndef KVLINK_WORKER_SERVE_ANSWER_STREAM_H_
#define KVLINK_WORKER_SERVE_ANSWER_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/infer/scheduler.h"
#include "worker/serve/answer_text.h"
#include "worker/serve/call.h"
#include "worker/serve/dialect.h"
#include "worker/serve/metrics.h"
#include "worker/serve/service.h"

namespace kvlink::serve {

class AnswerStream : public infer::Scheduler::Listener {
 public:
  AnswerStream(std::shared_ptr<Call> call, std::unique_ptr<AnswerWriter> writer, AnswerText text, bool stream,
               int64_t prompt_tokens, Metrics* metrics)
      : call_(std::move(call)),
        writer_(std::move(writer)),
        text_(std::move(text)),
        stream_(stream),
        prompt_tokens_(prompt_tokens),
        metrics_(metrics) {}

  bool OnToken(int32_t token) override;
  void OnEnd(const absl::Status& status, infer::Scheduler::End end, const infer::RequestStats& stats) override;

 private:
  void Give(const std::string& text);
  // What a client is told if its answer fails.
  absl::Status Told(const absl::Status& status) const;

  const std::shared_ptr<Call> call_;
  const std::unique_ptr<AnswerWriter> writer_;
  AnswerText text_;
  const bool stream_;
  const int64_t prompt_tokens_;  // as PromptTokensOf
  Metrics* const metrics_;

  std::string whole_;  // without a stream
  int64_t tokens_ = 0;
  absl::Duration first_token_;  // since the request arrived
  absl::Time last_token_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_ANSWER_STREAM_H_
