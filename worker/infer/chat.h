// A conversation in text over documents: renders the chat, streams answers, and continues with further questions by
// computing only what is new.
//
// Thread-safety: a Chat by one thread at a time. Lifetime: generator, tokenizer and template outlive it.
#ifndef KVLINK_WORKER_INFER_CHAT_H_
#define KVLINK_WORKER_INFER_CHAT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/infer/generator.h"
#include "worker/link/plan.h"
#include "worker/text/template/chat_template.h"
#include "worker/text/tokenizer.h"

namespace kvlink::infer {

struct ChatSettings {
  link::Linker linker = link::Linker::kConcat;
  std::string system;  // empty: no system message
  std::vector<RequestDocument> documents;
  int64_t max_tokens = 256;  // of one answer; the first question must leave room for them
  kernels::SampleParams sampling;
  model::ChatOptions options;
  bool allow_untrained_links = false;  // measurements only
};

enum class Stop {
  kEnd,        // the model ended its answer
  kMaxTokens,  // ChatSettings::max_tokens
  kContext,    // the model's context is full
};

struct Answer {
  std::string text;
  Stop stop = Stop::kEnd;
  int64_t tokens = 0;                  // of the answer
  int64_t fresh_tokens = 0;            // computed before its first token
  absl::Duration time_to_first_token;  // from the call to Ask, rendering and tokenising included
  absl::Duration decode_time;          // from then until the last token
  double decode_rate() const;          // tokens a second behind the first one; 0 if there was none
};

class Chat {
 public:
  // Called with each piece of text as it becomes certain.
  using OnText = std::function<void(absl::string_view)>;

  Chat(Generator* generator, const model::Tokenizer* tokenizer, const model::ChatTemplate* chat, ChatSettings settings);
  ~Chat();

  // Errors of link::MakePrompt and of Generator. An Ask that failed before the first token changes nothing; one that
  // was cancelled or ran out of time later leaves the answer as far as it came, and the next question stands behind
  // that.
  absl::StatusOr<Answer> Ask(absl::string_view question, const Limits& limits, const OnText& on_text);

  // The cost of the last answer: its own passes, and where its encodings were read; those that the conversation held
  // count as documents_resident. All zero before the first answer.
  const RequestStats& stats() const { return turn_; }
  // nullptr before the first answer.
  const Conversation* conversation() const { return conversation_.get(); }

 private:
  absl::Status First(absl::string_view question, const Limits& limits);
  absl::Status Next(absl::string_view question, const Limits& limits);
  absl::Status Decode(const Limits& limits, const OnText& on_text, Answer* answer);
  // The last turn's share of what the conversation has cost; `before` it, and with `answer`.
  RequestStats TurnSince(const RequestStats& before, const Answer& answer, int64_t prompt_tokens) const;

  Generator* const generator_;
  const model::Tokenizer* const tokenizer_;
  const model::ChatTemplate* const template_;
  const ChatSettings settings_;
  std::unique_ptr<Conversation> conversation_;
  std::vector<std::string> questions_;  // answered, at least in part
  RequestStats turn_;
  // The last token of the answer was given out, but not fed to the model: the answer ended by something else than the
  // model.
  bool unfed_ = false;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_CHAT_H_
