#include "store/client/pending.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store::client {

void Arrivals::Add(uint64_t tag) {
  MutexLock lock(&mutex_);
  if (next_ != nullptr) return next_->Add(tag);
  ready_.push_back(tag);
  changed_.Signal();
}

void Arrivals::ForwardTo(std::shared_ptr<Arrivals> next) {
  MutexLock lock(&mutex_);
  for (const uint64_t tag : ready_) next->Add(tag);
  ready_.clear();
  next_ = std::move(next);
}

std::optional<uint64_t> Arrivals::Next(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (ready_.empty()) {
    if (!changed_.WaitUntil(&mutex_, deadline) && ready_.empty()) return std::nullopt;
  }
  const uint64_t tag = ready_.front();
  ready_.pop_front();
  return tag;
}

}  // namespace kvlink::store::client
