// When to retry, and how often: backoff with jitter, and a budget shared by all calls of a client, so that retries do
// not add load to nodes in trouble.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLIENT_CONTROL_RETRY_H_
#define KVLINK_STORE_CLIENT_CONTROL_RETRY_H_

#include <cstdint>
#include <optional>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/client/control/counters.h"

namespace kvlink::store::client {

// Attaches the delay the node asked for to a status. RetryAfter returns it, or nullopt if the node sent none.
absl::Status WithRetryAfter(absl::Status status, absl::Duration after);
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// `base` * 2^attempt, at most `most`, minus a random part of up to half.
absl::Duration JitteredBackoff(absl::Duration base, absl::Duration most, int attempt);

// How many retries are allowed. Shared by the nodes of a client.
class RetryBudget {
 public:
  // Returns false if none is available now.
  bool TakeOne();
  void Succeeded();

 private:
  static constexpr double kMaxTokens = 10, kTokensPerSecond = 0.5, kTokensPerSuccess = 0.1;
  Mutex mutex_;
  double tokens_ ABSL_GUARDED_BY(mutex_) = kMaxTokens;
  absl::Time filled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// The policy for one node. `budget` and `counters` must outlive it.
class RetryPolicy {
 public:
  RetryPolicy(RetryBudget* budget, ClientCounters* counters) : budget_(budget), counters_(counters) {}

  // Returns how long to wait after attempt number `attempt` (from 0) ended with `status`; nullopt: do not retry. Only
  // requests that the node did not carry out are retried: UNAVAILABLE, and RESOURCE_EXHAUSTED with a retry delay.
  std::optional<absl::Duration> Wait(const absl::Status& status, int attempt, absl::Time deadline);
  void Succeeded() { budget_->Succeeded(); }

 private:
  RetryBudget* const budget_;
  ClientCounters* const counters_;
};

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Calls `attempt` until it succeeds, the policy declines a retry, or the next one would start after `deadline`.
template <typename Attempt>
auto WithRetries(RetryPolicy* policy, absl::Time deadline, Attempt attempt) {
  for (int n = 0;; ++n) {
    auto result = attempt();
    if (StatusOf(result).ok()) {
      policy->Succeeded();
      return result;
    }
    const std::optional<absl::Duration> wait = policy->Wait(StatusOf(result), n, deadline);
    if (!wait.has_value()) return result;
    absl::SleepFor(*wait);
  }
}

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_RETRY_H_
