#include "store/engine/group_commit.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::engine {

void PendingPut::Finish(const absl::Status& outcome, const Etag& stored, bool was_written) {
  {
    MutexLock lock(&mutex);
    status = outcome;
    etag = stored;
    written = was_written;
    done = true;
    finished.SignalAll();
  }
  if (on_done) std::exchange(on_done, nullptr)(outcome, stored, was_written);
}

GroupCommit::GroupCommit(std::function<absl::Status(const Group&)> flush,
                         std::function<void(const Group&, const absl::Status&)> commit)
    : flush_(std::move(flush)), commit_(std::move(commit)) {
  flusher_ = Thread("engine-flush", [this] { Flush(); });
  committer_ = Thread("engine-commit", [this] { Commit(); });
}

GroupCommit::~GroupCommit() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  flusher_.Join();
  committer_.Join();
}

void GroupCommit::Begin() {
  MutexLock lock(&mutex_);
  ++writing_;
}

void GroupCommit::Written(std::shared_ptr<PendingPut> put) {
  MutexLock lock(&mutex_);
  --writing_;
  ready_bytes_ += put->location.bytes;
  ready_.push_back(std::move(put));
  wake_.Signal();
}

void GroupCommit::Abandon() {
  MutexLock lock(&mutex_);
  --writing_;
  wake_.Signal();
}

GroupCommit::Group GroupCommit::Take() {
  MutexLock lock(&mutex_);
  while (ready_.empty() && !(stop_ && writing_ == 0)) wake_.Wait(&mutex_);
  const absl::Time until = SteadyNow() + kWait;
  while (!ready_.empty() && writing_ > 0 && ready_bytes_ < kGroupBytes && wake_.WaitUntil(&mutex_, until)) {
  }
  ready_bytes_ = 0;
  return std::exchange(ready_, {});
}

void GroupCommit::Flush() {
  bool last = false;
  while (!last) {
    Flushed flushed{Take(), absl::OkStatus()};
    last = flushed.group.empty();
    if (!last) flushed.status = flush_(flushed.group);
    MutexLock lock(&mutex_);
    while (flushed_.has_value()) handed_over_.Wait(&mutex_);
    flushed_ = std::move(flushed);
    handed_over_.SignalAll();
  }
}

void GroupCommit::Commit() {
  for (;;) {
    Flushed flushed;
    {
      MutexLock lock(&mutex_);
      while (!flushed_.has_value()) handed_over_.Wait(&mutex_);
      flushed = *std::exchange(flushed_, std::nullopt);
      handed_over_.SignalAll();
    }
    if (flushed.group.empty()) return;
    commit_(flushed.group, flushed.status);
  }
}

}  // namespace kvlink::engine
