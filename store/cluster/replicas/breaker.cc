// Counts failures in a row and times rests. The states and their transitions are one function without time, so that a
// test can walk through all of them.
#include "store/cluster/replicas/breaker.h"

#include "store/client/control/retry.h"

namespace kvlink::store::cluster {

BreakerState Next(BreakerState state, BreakerEvent event) {
  switch (event) {
    case BreakerEvent::kAnswered:
      return BreakerState::kClosed;  // even if the answer was no longer expected
    case BreakerEvent::kFailed:
      return state == BreakerState::kHalfOpen ? BreakerState::kOpen : state;
    case BreakerEvent::kTooOften:
      return BreakerState::kOpen;
    case BreakerEvent::kProbed:
      return state == BreakerState::kOpen ? BreakerState::kHalfOpen : state;
    case BreakerEvent::kUntold:
      return state == BreakerState::kHalfOpen ? BreakerState::kOpen : state;
  }
  return state;
}

BreakerState Breaker::state() const {
  MutexLock lock(&mutex_);
  return state_;
}

int Breaker::failures() const {
  MutexLock lock(&mutex_);
  return failures_;
}

void Breaker::Answered() {
  MutexLock lock(&mutex_);
  failures_ = rests_ = 0;
  Move(BreakerEvent::kAnswered);
}

void Breaker::Failed(absl::Time now) {
  MutexLock lock(&mutex_);
  ++failures_;
  // A request sent before the breaker opened says nothing new.
  if (state_ == BreakerState::kOpen) return;
  Move(failures_ >= kFailuresInARow ? BreakerEvent::kTooOften : BreakerEvent::kFailed);
  if (state_ == BreakerState::kOpen) Rest(now);
}

Breaker::Probe Breaker::TryProbe(absl::Time now) {
  MutexLock lock(&mutex_);
  if (state_ != BreakerState::kOpen || now < rested_) return nullptr;
  Move(BreakerEvent::kProbed);
  return Probe(this, GiveBack{++probes_});
}

void Breaker::Untold(int64_t probe) {
  MutexLock lock(&mutex_);
  if (probe == probes_) Move(BreakerEvent::kUntold);
}

void Breaker::Rest(absl::Time now) { rested_ = now + client::JitteredBackoff(kFirstRest, kMaxRest, rests_++); }

}  // namespace kvlink::store::cluster
