// The adjustments are kept as the kernels read them and changed token by token, so that a step costs what is new.
#include "worker/infer/answer_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/status.h"
#include "kernels/validate.h"

namespace kvlink::infer {

absl::Status CheckRules(const AnswerRules& rules, int64_t vocab) {
  if (!std::isfinite(rules.presence_penalty) || !std::isfinite(rules.frequency_penalty)) {
    return absl::InvalidArgumentError("the penalties of an answer must be finite");
  }
  KVLINK_RETURN_IF_ERROR(kernels::ValidateLogitAdjustment({.repetition = rules.repetition_penalty}, vocab));
  for (const auto& [token, bias] : rules.bias) {
    KVLINK_RETURN_IF_ERROR(kernels::ValidateLogitAdjustment({.token = token, .bias = bias}, vocab));
  }
  return absl::OkStatus();
}

AnswerState::AnswerState(const AnswerRules& rules, std::shared_ptr<TokenFilter> filter)
    : rules_(rules), filter_(std::move(filter)) {}

std::unique_ptr<AnswerState> AnswerState::Create(const AnswerRules& rules, const NewTokenFilter& filter,
                                                 absl::Span<const absl::Span<const int32_t>> prompt) {
  if (!rules.penalises() && rules.bias.empty() && filter == nullptr) return nullptr;
  std::unique_ptr<AnswerState> state(new AnswerState(rules, filter == nullptr ? nullptr : filter()));
  std::map<int32_t, kernels::LogitAdjustment> adjustments;
  for (const auto& [token, bias] : rules.bias) adjustments[token].bias = bias;
  if (rules.repetition_penalty != 1) {
    for (const absl::Span<const int32_t> tokens : prompt) {
      for (const int32_t token : tokens) adjustments[token].repetition = rules.repetition_penalty;
    }
  }
  for (auto& [token, adjustment] : adjustments) {
    adjustment.token = token;
    state->adjustments_.push_back(adjustment);
  }
  state->counts_.resize(state->adjustments_.size());
  return state;
}

void AnswerState::Add(int32_t token) {
  if (filter_ != nullptr) filter_->Accept(token);
  if (!rules_.penalises()) return;
  auto found = std::lower_bound(adjustments_.begin(), adjustments_.end(), token,
                                [](const auto& adjustment, int32_t wanted) { return adjustment.token < wanted; });
  const auto place = found - adjustments_.begin();
  if (found == adjustments_.end() || found->token != token) {
    found = adjustments_.insert(found, {.token = token});
    counts_.insert(counts_.begin() + place, 0);
  }
  const auto count = static_cast<double>(++counts_[static_cast<size_t>(place)]);
  constexpr double kMost = std::numeric_limits<float>::max();
  const double penalty = count * rules_.frequency_penalty + rules_.presence_penalty;
  found->penalty = static_cast<float>(std::clamp(penalty, -kMost, kMost));
  found->repetition = rules_.repetition_penalty;
}

}  // namespace kvlink::infer
