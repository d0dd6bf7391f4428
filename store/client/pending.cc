#include "store/client/pending.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store::client {

// Signals after unlocking: the thread it wakes takes the lock at once.
void Arrivals::Add(uint64_t tag) {
  {
    MutexLock lock(&mutex_);
    if (next_ != nullptr) return next_->Add(tag);
    ready_.emplace_back(tag, SteadyNow());
    if (ready_.size() < wanted_) return;
  }
  changed_.Signal();
}

void Arrivals::ForwardTo(std::shared_ptr<Arrivals> next) {
  MutexLock lock(&mutex_);
  for (const auto& [tag, at] : ready_) next->Add(tag);
  ready_.clear();
  next_ = std::move(next);
}

std::optional<uint64_t> Arrivals::Next(absl::Time deadline, size_t wanted, absl::Time* at) {
  MutexLock lock(&mutex_);
  wanted_ = wanted;
  while (ready_.size() < wanted && changed_.WaitUntil(&mutex_, deadline)) {
  }
  if (ready_.empty()) return std::nullopt;
  const auto [tag, when] = ready_.front();
  ready_.pop_front();
  if (at != nullptr) *at = when;
  return tag;
}

}  // namespace kvlink::store::client
