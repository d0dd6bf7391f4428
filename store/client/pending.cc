#include "store/client/pending.h"

#include "base/clock.h"

namespace kvlink::store::client {

void Arrivals::Add(uint64_t tag) {
  MutexLock lock(&mutex_);
  ready_.push_back(tag);
  changed_.Signal();
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
