// An alarm is an entry under a number. After the work, the thread looks it up again, since the alarm may be gone.
#include "store/client/control/timer.h"

#include <algorithm>

#include "base/clock.h"

namespace kvlink::store::client {

Timer::Timer() : thread_("client-timer", [this] { Loop(); }) {}

Timer::~Timer() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  thread_.Join();
}

void Timer::SetWhen(uint64_t id, Entry* entry, absl::Time when) {
  order_.erase({entry->when, id});
  entry->when = when;
  if (when == absl::InfiniteFuture()) return;
  const auto place = order_.insert({when, id}).first;
  if (place == order_.begin()) changed_.SignalAll();
}

void Timer::Loop() {
  ReleasableMutexLock lock(&mutex_);
  while (!stop_) {
    if (order_.empty()) {
      changed_.Wait(&mutex_);
      continue;
    }
    const auto [when, id] = *order_.begin();
    if (SteadyNow() < when) {
      changed_.WaitUntil(&mutex_, when);
      continue;
    }
    Entry& due = entries_.find(id)->second;
    SetWhen(id, &due, absl::InfiniteFuture());
    auto work = due.work;
    running_ = id;
    lock.Release();
    const absl::Time again = (*work)();
    work = nullptr;
    lock.Reacquire();
    running_ = 0;
    done_.SignalAll();
    const auto entry = entries_.find(id);
    if (entry != entries_.end()) SetWhen(id, &entry->second, std::min(again, entry->second.when));
  }
}

Alarm::Alarm(Timer* timer, std::function<absl::Time()> work) : timer_(timer) {
  MutexLock lock(&timer_->mutex_);
  id_ = ++timer_->last_;
  timer_->entries_[id_].work = std::make_shared<const Timer::Work>(std::move(work));
}

Alarm::~Alarm() {
  std::shared_ptr<const Timer::Work> work;  // released without the lock
  MutexLock lock(&timer_->mutex_);
  const auto entry = timer_->entries_.find(id_);
  timer_->SetWhen(id_, &entry->second, absl::InfiniteFuture());
  work = std::move(entry->second.work);
  timer_->entries_.erase(entry);
  if (std::this_thread::get_id() == timer_->thread_.id()) return;
  while (timer_->running_ == id_) timer_->done_.Wait(&timer_->mutex_);
}

void Alarm::Set(absl::Time when) {
  MutexLock lock(&timer_->mutex_);
  Timer::Entry& entry = timer_->entries_.find(id_)->second;
  timer_->SetWhen(id_, &entry, when);
}

}  // namespace kvlink::store::client
