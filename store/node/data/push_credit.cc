#include "store/node/data/push_credit.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/clock.h"

namespace kvlink::store::node {

bool PushCredit::HasRoom(const std::string& owner, int64_t bytes) const {
  if (taken_ == 0) return true;
  const auto found = held_.find(owner);
  if (found == held_.end()) return taken_ + bytes <= alone_;
  if (taken_ + bytes > Room()) return false;
  const bool others = held_.size() > 1 || std::any_of(waiting_.begin(), waiting_.end(),
                                                      [&](const Waiter& waiter) { return waiter.owner != owner; });
  return !others || found->second + bytes <= Room() / 2;
}

bool PushCredit::Take(const std::string& owner, int64_t bytes, std::function<void()> again) {
  MutexLock lock(&mutex_);
  if (HasRoom(owner, bytes)) {
    taken_ += bytes;
    held_[owner] += bytes;
    return true;
  }
  waiting_.push_back({owner, bytes, std::move(again)});
  return false;
}

// The end of the time after a pull needs no wake-up: waiting pushes are woken when taken credit is returned.
int64_t PushCredit::Room() const {
  if (pulls_ > 0) return beside_pulls_;
  return SteadyNow() - last_pull_ < shortly_ ? beside_pulls_ : alone_;
}

void PushCredit::Wake() {
  size_t left;
  {
    MutexLock lock(&mutex_);
    left = waiting_.size();
  }
  // One at a time: each takes its credit before the next is considered, and one that has gone takes none.
  for (; left > 0; --left) {
    std::function<void()> again;
    {
      MutexLock lock(&mutex_);
      std::set<absl::string_view> passed_over;
      const auto next = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiter& waiter) {
        mutex_.AssertHeld();
        if (passed_over.contains(waiter.owner)) return false;
        if (HasRoom(waiter.owner, waiter.bytes)) return true;
        passed_over.insert(waiter.owner);
        return false;
      });
      if (next == waiting_.end()) return;
      again = std::move(next->again);
      waiting_.erase(next);
    }
    again();
  }
}

void PushCredit::Return(const std::string& owner, int64_t bytes) {
  {
    MutexLock lock(&mutex_);
    taken_ -= bytes;
    const auto found = held_.find(owner);
    if (found != held_.end() && (found->second -= bytes) <= 0) held_.erase(found);
  }
  Wake();
}

void PushCredit::PullBegan() {
  MutexLock lock(&mutex_);
  ++pulls_;
}

void PushCredit::PullEnded() {
  {
    MutexLock lock(&mutex_);
    --pulls_;
    last_pull_ = SteadyNow();
  }
  Wake();
}

int64_t PushCredit::taken() const {
  MutexLock lock(&mutex_);
  return taken_;
}

}  // namespace kvlink::store::node
