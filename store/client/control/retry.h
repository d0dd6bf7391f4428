// When to try again, and how often: backoff with jitter, and a budget that all calls of a client share, so that nodes
// in trouble are not asked more than they would be otherwise.
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

// When the node said to try again, kept with the status; nothing if it did not.
absl::Status WithRetryAfter(absl::Status status, absl::Duration after);
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// `base` * 2^attempt, at most `most`, of which a random half is taken away.
absl::Duration JitteredBackoff(absl::Duration base, absl::Duration most, int attempt);

// How many retries there may be. Shared by the nodes of a client.
class RetryBudget {
 public:
  // False: none now.
  bool TakeOne();
  void Succeeded();

 private:
  static constexpr double kMaxTokens = 10, kTokensPerSecond = 0.5, kTokensPerSuccess = 0.1;
  Mutex mutex_;
  double tokens_ ABSL_GUARDED_BY(mutex_) = kMaxTokens;
  absl::Time filled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// Of one node. `budget` and `counters` outlive it.
class RetryPolicy {
 public:
  RetryPolicy(RetryBudget* budget, ClientCounters* counters) : budget_(budget), counters_(counters) {}

  // How long to wait after the `attempt`th attempt (from 0) ended so; nothing: that is the answer. Tried again is what
  // the node did not carry out: UNAVAILABLE, and RESOURCE_EXHAUSTED where it said when to come back.
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

// Calls `attempt` until it succeeds, the policy has enough of it, or the next one would begin after `deadline`.
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
