// Each slot counts its own bytes left, so that finishing or copying part of one subtracts exactly what it added.
#include "store/cluster/repair/ledger.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kTellEvery = absl::Milliseconds(500);
constexpr absl::Duration kRateOver = absl::Seconds(5);

}  // namespace

void Ledger::Begin(const RepairPlan& plan, bool moved) {
  MutexLock lock(&mutex_);
  owned_.reset();
  for (const OwnedSlot& slot : plan.slots) owned_.set(slot.slot);
  if (moved || !valid_) {
    NothingDone();
    progress_.epoch = plan.epoch;
    progress_.slots = static_cast<int64_t>(plan.slots.size());
  }
  valid_ = true;
}

void Ledger::Reset() {
  MutexLock lock(&mutex_);
  NothingDone();
  valid_ = false;
}

bool Ledger::valid() const {
  MutexLock lock(&mutex_);
  return valid_;
}

void Ledger::NothingDone() {
  done_.reset();
  std::fill(left_.begin(), left_.end(), 0);
  progress_.slots_done = progress_.bytes_left = 0;
}

void Ledger::Left(uint16_t slot, int64_t bytes) {
  MutexLock lock(&mutex_);
  if (!valid_ || done_.test(slot)) return;
  progress_.bytes_left += bytes - left_[slot];
  left_[slot] = bytes;
}

void Ledger::Done(uint16_t slot) {
  MutexLock lock(&mutex_);
  if (!valid_ || done_.test(slot) || !owned_.test(slot)) return;
  done_.set(slot);
  ++progress_.slots_done;
  progress_.bytes_left -= left_[slot];
  left_[slot] = 0;
}

bool Ledger::done(uint16_t slot) const {
  MutexLock lock(&mutex_);
  return done_.test(slot);
}

void Ledger::Copied(uint16_t slot, int64_t bytes) {
  MutexLock lock(&mutex_);
  ++statistics_.copied;
  statistics_.copied_bytes += bytes;
  const int64_t less = std::min(bytes, left_[slot]);
  left_[slot] -= less;
  progress_.bytes_left -= less;
  // The rate over the last seconds: when the interval is too long, both bytes and time are halved.
  const absl::Time now = SteadyNow();
  if (rate_bytes_ == 0) rate_since_ = now - absl::Seconds(1);
  rate_bytes_ += bytes;
  progress_.bytes_per_second =
      static_cast<int64_t>(static_cast<double>(rate_bytes_) / absl::ToDoubleSeconds(now - rate_since_));
  if (now - rate_since_ > kRateOver) {
    rate_bytes_ /= 2;
    rate_since_ = now - (now - rate_since_) / 2;
  }
}

void Ledger::Count(const std::function<void(RepairStatistics*)>& change) {
  MutexLock lock(&mutex_);
  change(&statistics_);
}

void Ledger::Tell(bool at_once) {
  if (!tell_) return;
  const RepairProgress now = progress();
  const bool news = now.epoch != told_.epoch || (now.complete() && !told_.complete());
  if (now == told_ && !at_once) return;
  if (!news && !at_once && SteadyNow() < told_at_ + kTellEvery) return;
  told_ = now;
  told_at_ = SteadyNow();
  tell_(now);
}

RepairProgress Ledger::progress() const {
  MutexLock lock(&mutex_);
  return progress_;
}

RepairStatistics Ledger::statistics() const {
  MutexLock lock(&mutex_);
  return statistics_;
}

}  // namespace kvlink::store::cluster
