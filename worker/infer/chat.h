// A conversation in text over documents: renders the chat, streams answers, and computes only the new text of further
// questions.
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
  int64_t max_tokens = 256;  // per answer; the first question must leave room for them
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
  int64_t fresh_tokens = 0;            // computed before the answer's first token
  absl::Duration time_to_first_token;  // from the call to Ask, including rendering and tokenising
  absl::Duration decode_time;          // from then until the last token
  double decode_rate() const;          // tokens per second after the first one; 0 if there were none
};

class Chat {
 public:
  // Called with each piece of text once it is final.
  using OnText = std::function<void(absl::string_view)>;

  Chat(Generator* generator, const model::Tokenizer* tokenizer, const model::ChatTemplate* chat, ChatSettings settings);
  ~Chat();

  // Errors of link::MakePrompt and Generator. An Ask that fails before the first token changes nothing. One that is
  // cancelled or times out later keeps the answer so far, and the next question follows it.
  absl::StatusOr<Answer> Ask(absl::string_view question, const Limits& limits, const OnText& on_text);

  // The cost of the last answer: its own passes, and where its encodings were read. Encodings that the conversation
  // already held count as documents_resident. All zero before the first answer.
  const RequestStats& stats() const { return turn_; }
  // nullptr before the first answer.
  const Conversation* conversation() const { return conversation_.get(); }

 private:
  absl::Status First(absl::string_view question, const Limits& limits);
  absl::Status Next(absl::string_view question, const Limits& limits);
  absl::Status Decode(const Limits& limits, const OnText& on_text, Answer* answer);
  // The last turn's share of the conversation's cost, given the statistics `before` it and its `answer`.
  RequestStats TurnSince(const RequestStats& before, const Answer& answer, int64_t prompt_tokens) const;

  Generator* const generator_;
  const model::Tokenizer* const tokenizer_;
  const model::ChatTemplate* const template_;
  const ChatSettings settings_;
  std::unique_ptr<Conversation> conversation_;
  std::vector<std::string> questions_;  // answered, at least in part
  RequestStats turn_;
  // The last token of the answer was given out but not fed to the model, because something other than the model ended
  // the answer.
  bool unfed_ = false;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_CHAT_H_
