#include "store/client/control/retry.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "proto/metadata.h"

namespace kvlink::store::client {
namespace {

constexpr absl::Duration kBase = absl::Milliseconds(10), kMost = absl::Seconds(1);
constexpr int kMaxAttempts = 16;

double Random() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1)(random);
}

}  // namespace

absl::Status WithRetryAfter(absl::Status status, absl::Duration after) {
  status.SetPayload(kRetryAfterMetadata, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(after))));
  return status;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryAfterMetadata);
  int64_t milliseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) return std::nullopt;
  return absl::Milliseconds(std::clamp<int64_t>(milliseconds, 0, 3600000));
}

absl::Duration JitteredBackoff(absl::Duration base, absl::Duration most, int attempt) {
  const absl::Duration full = std::min(most, base * (int64_t{1} << std::min(attempt, 20)));
  return full * (0.5 + Random() / 2);
}

std::optional<absl::Duration> RetryPolicy::Wait(const absl::Status& status, int attempt, absl::Time deadline) {
  const std::optional<absl::Duration> told = RetryAfter(status);
  const bool worth = absl::IsUnavailable(status) || (absl::IsResourceExhausted(status) && told.has_value());
  if (!worth || attempt >= kMaxAttempts) return std::nullopt;
  absl::Duration wait = JitteredBackoff(kBase, kMost, attempt);
  if (told.has_value()) wait = std::max(wait, *told * (1 + Random() / 4));
  if (SteadyNow() + wait >= deadline) return std::nullopt;
  if (!budget_->TakeOne()) return std::nullopt;
  ++counters_->retries;
  return wait;
}

bool RetryBudget::TakeOne() {
  const absl::Time now = SteadyNow();
  MutexLock lock(&mutex_);
  if (filled_ != absl::InfinitePast()) {
    tokens_ = std::min(kMaxTokens, tokens_ + kTokensPerSecond * absl::ToDoubleSeconds(now - filled_));
  }
  filled_ = now;
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

void RetryBudget::Succeeded() {
  MutexLock lock(&mutex_);
  tokens_ = std::min(kMaxTokens, tokens_ + kTokensPerSuccess);
}

}  // namespace kvlink::store::client
