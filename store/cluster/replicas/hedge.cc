// Means instead of percentiles: two numbers per node, which follow a change of its load within some tens of answers.
#include "store/cluster/replicas/hedge.h"

#include <algorithm>
#include <cmath>

namespace kvlink::store::cluster {

void Latency::Add(absl::Duration took) {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(took));
  MutexLock lock(&mutex_);
  // The first answers weigh more, so that the mean does not begin at zero.
  const double weight = std::max(kNewest, 1.0 / (answers_ + 1));
  deviation_ += weight * (std::abs(seconds - mean_) - deviation_);
  mean_ += weight * (seconds - mean_);
  answers_ = std::min(answers_ + 1, kEnough);
}

void Latency::Forget() {
  MutexLock lock(&mutex_);
  mean_ = deviation_ = 0;
  answers_ = 0;
}

absl::Duration Latency::mean() const {
  MutexLock lock(&mutex_);
  return absl::Seconds(mean_);
}

absl::Duration Latency::HedgeAfter() const {
  MutexLock lock(&mutex_);
  if (answers_ < kEnough) return kNoProgress;
  return std::clamp(absl::Seconds(mean_ + 6 * deviation_), absl::Milliseconds(2), kNoProgress);
}

void HedgeBudget::Asked(int requests) {
  MutexLock lock(&mutex_);
  tokens_ = std::min(kMaxTokens, tokens_ + kShare * requests);
}

bool HedgeBudget::TryTake() {
  MutexLock lock(&mutex_);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

}  // namespace kvlink::store::cluster
