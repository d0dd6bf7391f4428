// A waiter is woken by returns of its own key alone: whoever waits has something in flight, and its return comes.
#include "store/node/data/pull_credit.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace kvlink::store::node {

void PullCredit::PullBegan(const std::string& key, Tier from) {
  MutexLock lock(&mutex_);
  Key& begins = keys_[key];
  ++(from == Tier::kDisk ? begins.disk_pulls : begins.memory_pulls);
}

void PullCredit::PullEnded(const std::string& key, Tier from) {
  MutexLock lock(&mutex_);
  Key& ends = keys_[key];
  --(from == Tier::kDisk ? ends.disk_pulls : ends.memory_pulls);
}

bool PullCredit::HasRoom(const Key& key, Tier from, int64_t bytes) const {
  if (key.in_flight == 0 || key.in_flight + bytes <= behind_others_) return true;
  return std::none_of(keys_.begin(), keys_.end(), [&](const auto& entry) {
    const Key& other = entry.second;
    if (&other == &key) return false;
    if (from == Tier::kDisk && other.memory_pulls > 0) return true;
    const int64_t alike = from == Tier::kDisk ? other.disk_pulls : other.memory_pulls;
    return alike > 0 && other.sent_lately < key.sent_lately;
  });
}

bool PullCredit::Take(const std::string& key, Tier from, int64_t bytes, std::function<void()> again) {
  MutexLock lock(&mutex_);
  Age();
  Key& taker = keys_[key];
  if (!HasRoom(taker, from, bytes)) {
    taker.waiting.push_back({from, bytes, std::move(again)});
    return false;
  }
  taker.in_flight += bytes;
  taker.sent_lately += bytes;
  return true;
}

void PullCredit::Return(const std::string& key, int64_t bytes) {
  size_t left;
  {
    MutexLock lock(&mutex_);
    Key& taker = keys_[key];
    taker.in_flight -= bytes;
    left = taker.waiting.size();
  }
  // One at a time: each takes its bytes before the next is judged, and one that has ended takes nothing.
  for (; left > 0; --left) {
    std::function<void()> again;
    {
      MutexLock lock(&mutex_);
      Key& taker = keys_[key];
      if (taker.waiting.empty()) return;
      if (!HasRoom(taker, taker.waiting.front().from, taker.waiting.front().bytes)) return;
      again = std::move(taker.waiting.front().again);
      taker.waiting.pop_front();
    }
    again();
  }
}

void PullCredit::Age() {
  const absl::Time now = SteadyNow();
  if (now - aged_ < half_life_) return;
  const auto halvings = static_cast<int>(std::min(absl::FDivDuration(now - aged_, half_life_), 63.0));
  aged_ = now;
  absl::erase_if(keys_, [&](auto& entry) {
    Key& key = entry.second;
    key.sent_lately >>= halvings;
    return key.memory_pulls + key.disk_pulls == 0 && key.in_flight == 0 && key.waiting.empty() && key.sent_lately == 0;
  });
}

}  // namespace kvlink::store::node
