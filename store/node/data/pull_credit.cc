// A waiter is woken by returns of its own key alone: whoever waits has something in flight on its own connection, and
// the last return there lets it in, whatever else is in flight.
#include "store/node/data/pull_credit.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace kvlink::store::node {

void PullCredit::Began(const Pull& pull) {
  MutexLock lock(&mutex_);
  ++keys_[pull.key].pulls;
}

void PullCredit::Ended(const Pull& pull) {
  MutexLock lock(&mutex_);
  Key& key = keys_[pull.key];
  --key.pulls;
  const auto waits =
      std::find_if(key.waiting.begin(), key.waiting.end(), [&](const Waiter& waiter) { return waiter.pull == &pull; });
  if (waits != key.waiting.end()) key.waiting.erase(waits);
}

// A key whose pulls have been sent nothing for a while is in nobody's way.
bool PullCredit::HasRoom(const Key& key, int64_t bytes) const {
  if (key.in_flight + bytes <= behind_others_) return true;
  return std::none_of(keys_.begin(), keys_.end(), [&](const auto& other) {
    return &other.second != &key && other.second.pulls > 0 && other.second.sent_lately > 0 &&
           other.second.sent_lately < key.sent_lately;
  });
}

bool PullCredit::Take(const Pull& pull, int64_t bytes, std::function<void()> again) {
  MutexLock lock(&mutex_);
  Age();
  Key& key = keys_[pull.key];
  if (key.in_flight_on.contains(pull.connection) && !HasRoom(key, bytes)) {
    key.waiting.push_back({&pull, bytes, std::move(again)});
    return false;
  }
  key.in_flight += bytes;
  key.in_flight_on[pull.connection] += bytes;
  key.sent_lately += bytes;
  return true;
}

void PullCredit::Return(const Pull& pull, int64_t bytes) {
  size_t left;
  {
    MutexLock lock(&mutex_);
    Key& key = keys_[pull.key];
    key.in_flight -= bytes;
    const auto here = key.in_flight_on.find(pull.connection);
    if ((here->second -= bytes) <= 0) key.in_flight_on.erase(here);
    left = key.waiting.size();
  }
  // One at a time: each takes its bytes before the next is judged, and one that is ending takes nothing.
  for (; left > 0; --left) {
    std::function<void()> again;
    {
      MutexLock lock(&mutex_);
      again = Next(&keys_[pull.key], pull.connection);
    }
    if (again == nullptr) return;
    again();
  }
}

std::function<void()> PullCredit::Next(Key* key, const void* connection) {
  auto next = key->waiting.begin();
  if (next == key->waiting.end()) return nullptr;
  if (!HasRoom(*key, next->bytes)) {
    if (key->in_flight_on.contains(connection)) return nullptr;
    next = std::find_if(next, key->waiting.end(),
                        [&](const Waiter& waiter) { return waiter.pull->connection == connection; });
    if (next == key->waiting.end()) return nullptr;
  }
  std::function<void()> again = std::move(next->again);
  key->waiting.erase(next);
  return again;
}

void PullCredit::Age() {
  const absl::Time now = SteadyNow();
  if (now - aged_ < half_life_) return;
  const auto halvings = static_cast<int>(std::min(absl::FDivDuration(now - aged_, half_life_), 63.0));
  aged_ = now;
  absl::erase_if(keys_, [&](auto& entry) {
    Key& key = entry.second;
    key.sent_lately >>= halvings;
    return key.pulls == 0 && key.in_flight == 0 && key.waiting.empty() && key.sent_lately == 0;
  });
}

}  // namespace kvlink::store::node
