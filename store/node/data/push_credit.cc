#include "store/node/data/push_credit.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store {

bool PushCredit::Take(int64_t bytes, std::function<void()> again) {
  MutexLock lock(&mutex_);
  if (HasRoom(bytes)) {
    taken_ += bytes;
    return true;
  }
  waiting_.push_back({bytes, std::move(again)});
  return false;
}

// Nobody needs to be woken when the time after a pull is over: whoever waits does so for what is taken to be returned.
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
  // One at a time: each takes what it takes before the next is judged, and one that is gone takes nothing.
  for (; left > 0; --left) {
    std::function<void()> again;
    {
      MutexLock lock(&mutex_);
      if (waiting_.empty() || !HasRoom(waiting_.front().bytes)) return;
      again = std::move(waiting_.front().again);
      waiting_.pop_front();
    }
    again();
  }
}

void PushCredit::Return(int64_t bytes) {
  {
    MutexLock lock(&mutex_);
    taken_ -= bytes;
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

}  // namespace kvlink::store
