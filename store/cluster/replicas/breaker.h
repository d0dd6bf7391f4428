// Decides whether to send a node requests. A node that has failed several times in a row rests; then it is probed with
// one request at a time, on which no caller depends, until it answers again.
//
//   state      event                                  next state
//   closed     several failures in a row              open
//   open       its rest is over, and a probe is sent  half-open
//   half-open  the probe is answered                  closed
//   half-open  the probe fails                        open, for longer
//   half-open  the probe is given up                  open
//
// Any answer, even an error, is a success: it shows that the node works. Rests double from 0.5 s to 30 s, less a random
// part.
//
// Thread-safety: Next is a pure function; a Breaker: all methods. Lifetime: a Breaker outlives its probes.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_BREAKER_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_BREAKER_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store::cluster {

enum class BreakerState : uint8_t {
  kClosed,    // takes requests
  kOpen,      // rests
  kHalfOpen,  // a probe is in progress
};
enum class BreakerEvent : uint8_t {
  kAnswered,
  kFailed,    // no answer in time
  kTooOften,  // the last of several failures in a row
  kProbed,    // its rest is over, and a probe is sent
  kUntold,    // the probe was given up
};

// The transition function.
BreakerState Next(BreakerState state, BreakerEvent event);

class Breaker {
 public:
  struct GiveBack {
    int64_t probe = 0;
    void operator()(Breaker* breaker) const { breaker->Untold(probe); }
  };
  // The right to send one request to a resting node and to report its outcome by Answered() or Failed(). If destroyed
  // before, another caller may get the right at once.
  using Probe = std::unique_ptr<Breaker, GiveBack>;

  static constexpr int kFailuresInARow = 3;
  static constexpr absl::Duration kFirstRest = absl::Milliseconds(500), kMaxRest = absl::Seconds(30);

  BreakerState state() const;
  bool closed() const { return state() == BreakerState::kClosed; }
  // Failures since the last answer.
  int failures() const;
  void Answered();
  void Failed(absl::Time now);
  // Gives the right to one caller at a time, once a rest is over; else null.
  Probe TryProbe(absl::Time now);

 private:
  void Move(BreakerEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { state_ = Next(state_, event); }
  // Ignored unless `probe` is the latest: an earlier one was told, and a later one is in progress.
  void Untold(int64_t probe);
  void Rest(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  BreakerState state_ ABSL_GUARDED_BY(mutex_) = BreakerState::kClosed;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int rests_ ABSL_GUARDED_BY(mutex_) = 0;       // in a row
  int64_t probes_ ABSL_GUARDED_BY(mutex_) = 0;  // that were given
  absl::Time rested_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_BREAKER_H_
