// Fair queueing by measured cost, not by declared cost: a request for one document and one for a thousand look alike on
// arrival. Time is charged when a task ends, hence the rule about running threads: it holds back an owner whose first
// task has not ended yet.
#include "base/worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink {

Worker::Worker(const Options& options) : options_(options) {
  MutexLock lock(&join_mutex_);
  for (int i = 0; i < options_.threads; ++i) {
    threads_.emplace_back(options_.name.c_str(), [this] {
      if (options_.nice != 0) AddNiceness(options_.nice);
      Loop();
    });
  }
}

bool Worker::HasRoom(const Task& task) const {
  return queued_ < options_.max_queued && (bytes_ + task.bytes <= options_.max_queued_bytes || queued_ == 0);
}

absl::Status Worker::Closed() const { return absl::UnavailableError(absl::StrCat(options_.name, " has ended")); }

absl::Status Worker::Full() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue of ", options_.name, " is full (", queued_, " requests wait): try again later"));
}

void Worker::Queue(Task task) {
  bytes_ += task.bytes;
  ++queued_;
  const auto [owner, added] = owners_.try_emplace(task.owner);
  // No owner saves up turns by staying idle.
  if (added) owner->second.used = floor_;
  owner->second.tasks.push_back(std::move(task));
  wake_.Signal();
}

absl::Status Worker::Add(Task task) {
  MutexLock lock(&mutex_);
  if (closed_) return Closed();
  if (!HasRoom(task)) return Full();
  Queue(std::move(task));
  return absl::OkStatus();
}

absl::Status Worker::AddWhenRoom(Task task, absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!closed_ && !HasRoom(task)) {
    if (room_.WaitUntil(&mutex_, deadline)) continue;
    if (closed_ || HasRoom(task)) break;
    return absl::DeadlineExceededError(Full().message());
  }
  if (closed_) return Closed();
  Queue(std::move(task));
  return absl::OkStatus();
}

absl::Status Worker::AddAdmitted(Task task) {
  MutexLock lock(&mutex_);
  if (closed_) return Closed();
  Queue(std::move(task));
  return absl::OkStatus();
}

// Linear in the number of owners with waiting tasks, a few hundred at most.
Worker::Owners::pointer Worker::Next() {
  Owners::pointer next = nullptr;
  for (auto& owner : owners_) {
    if (owner.second.tasks.empty()) continue;
    if (next == nullptr ||
        std::pair(owner.second.running, owner.second.used) < std::pair(next->second.running, next->second.used)) {
      next = &owner;
    }
  }
  return next;
}

void Worker::Loop() {
  while (true) {
    Task task;
    {
      MutexLock lock(&mutex_);
      Owners::pointer next = nullptr;
      while ((next = Next()) == nullptr && !closed_) wake_.Wait(&mutex_);
      if (next == nullptr) return;
      Owner& owner = next->second;
      task = std::move(owner.tasks.front());
      owner.tasks.pop_front();
      ++owner.running;
      floor_ = std::max(floor_, owner.used);
      --queued_;
      bytes_ -= task.bytes;
      room_.SignalAll();
    }
    const absl::Time begun = SteadyNow();
    task.work(begun < task.deadline
                  ? absl::OkStatus()
                  : absl::DeadlineExceededError("the deadline passed while the request waited for its turn"));
    task.work = nullptr;  // release its captures before the next task begins
    MutexLock lock(&mutex_);
    const auto found = owners_.find(task.owner);
    found->second.used += SteadyNow() - begun;
    if (--found->second.running == 0 && found->second.tasks.empty()) owners_.erase(found);
  }
}

void Worker::Finish() {
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    wake_.SignalAll();
    room_.SignalAll();
  }
  Join();
}

void Worker::Stop() {
  std::vector<std::deque<Task>> left;
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    for (auto& [name, owner] : owners_) left.push_back(std::exchange(owner.tasks, {}));
    queued_ = bytes_ = 0;
    wake_.SignalAll();
    room_.SignalAll();
  }
  for (std::deque<Task>& tasks : left) {
    for (; !tasks.empty(); tasks.pop_front()) tasks.front().work(Closed());
  }
  Join();
}

void Worker::Join() {
  MutexLock lock(&join_mutex_);
  for (Thread& thread : threads_) thread.Join();
}

int64_t Worker::queued() const {
  MutexLock lock(&mutex_);
  return queued_;
}

}  // namespace kvlink
