// What a request changes of the logits that its answer's tokens are sampled from, and what of one answer that depends
// on: how often it has each token, and the state of its filter. Both depend on its tokens only, so an answer that is
// put back and computed again goes on as before.
//
// Thread-safety: an AnswerState by one thread at a time.
#ifndef KVLINK_WORKER_INFER_ANSWER_RULES_H_
#define KVLINK_WORKER_INFER_ANSWER_RULES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/logit_adjustment.h"
#include "worker/infer/token_filter.h"

namespace kvlink::infer {

// The formulas are those of kernels/logit_adjustment.h.
struct AnswerRules {
  float presence_penalty = 0;    // of the tokens that the answer has
  float frequency_penalty = 0;   // of these, for each time
  float repetition_penalty = 1;  // of the tokens that the prompt, its documents or the answer have; above 0
  std::map<int32_t, float> bias;

  bool penalises() const { return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1; }
};

// INVALID_ARGUMENT: a number that is not finite, a repetition penalty that is not positive, a token that is not in the
// vocabulary.
absl::Status CheckRules(const AnswerRules& rules, int64_t vocab);

class AnswerState {
 public:
  // nullptr if nothing is changed: neither by the rules nor by a filter (which may be empty). `prompt`: its tokens.
  static std::unique_ptr<AnswerState> Create(const AnswerRules& rules, const NewTokenFilter& filter,
                                             absl::Span<const absl::Span<const int32_t>> prompt);

  // The next token of the answer; none of the end-of-sequence set.
  void Add(int32_t token);
  // Of the next one: ascending, valid until Add. O(log n) for each token added, but for making room.
  absl::Span<const kernels::LogitAdjustment> adjustments() const { return adjustments_; }
  TokenFilter* filter() const { return filter_.get(); }  // nullptr: none

 private:
  AnswerState(const AnswerRules& rules, std::shared_ptr<TokenFilter> filter);

  const AnswerRules rules_;
  const std::shared_ptr<TokenFilter> filter_;
  std::vector<kernels::LogitAdjustment> adjustments_;
  std::vector<int64_t> counts_;  // of each adjusted token, in the answer
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_ANSWER_RULES_H_
