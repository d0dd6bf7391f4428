// The text of an answer as its tokens come: given out as early as possible, and cut before the first stop string.
//
// Thread-safety: one thread at a time. Lifetime: the tokenizer outlives the object.
#ifndef KVLINK_WORKER_SERVE_ANSWER_TEXT_H_
#define KVLINK_WORKER_SERVE_ANSWER_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/text/tokenizer.h"

namespace kvlink::serve {

class AnswerText {
 public:
  // `stop`: strings that end the answer, none of them empty.
  AnswerText(const model::Tokenizer* tokenizer, std::vector<std::string> stop)
      : tokenizer_(tokenizer), decoder_(tokenizer), stop_(std::move(stop)) {}

  // Takes the next token and returns the text that is certain to be part of the answer: whole characters, without what
  // may be the beginning of a stop string. Special tokens have no text. REQUIRES: not stopped().
  std::string Push(int32_t token);
  // Returns the rest.
  std::string Finish();
  // Bytes of whole characters that are held back.
  int64_t held_bytes() const { return static_cast<int64_t>(held_.size()); }
  // A stop string has come; the text before it was returned.
  bool stopped() const { return stopped_; }
  // The one that did.
  const std::string& stop_string() const { return stop_string_; }

 private:
  std::string Take(absl::string_view text, bool last);

  const model::Tokenizer* const tokenizer_;
  model::StreamDecoder decoder_;
  const std::vector<std::string> stop_;
  std::string held_;  // not given out yet
  bool stopped_ = false;
  std::string stop_string_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_ANSWER_TEXT_H_
