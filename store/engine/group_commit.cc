// Two threads in a pipeline, so that the device flushes one group while the index commits the previous one.
#include "store/engine/group_commit.h"

#include <utility>

#include "absl/base/optimization.h"
#include "base/clock.h"

namespace kvlink::engine {

void PendingPut::Enter(Stage next) {
  const bool again = stage == Stage::kFlushing && next == Stage::kWriting;
  ABSL_ASSERT(again || static_cast<int>(next) == static_cast<int>(stage) + 1);
  stage = next;
  finished.SignalAll();
}

void PendingPut::Hold(absl::Span<const IoRequest> requests) {
  for (const IoRequest& request : requests) {
    if (files.empty() || files.back() != request.file) files.push_back(request.file);
  }
}

absl::Status PendingPut::outcome() {
  MutexLock lock(&mutex);
  return status.ok() ? device : status;
}

void PendingPut::Finish(const absl::Status& outcome, const Etag& stored, bool was_written) {
  {
    MutexLock lock(&mutex);
    status = outcome;
    etag = stored;
    written = was_written;
    Enter(Stage::kDone);
  }
  if (on_done) std::exchange(on_done, nullptr)(outcome, stored, was_written);
}

GroupCommit::GroupCommit(std::function<void(Group*)> flush, std::function<void(const Group&)> commit)
    : flush_(std::move(flush)), commit_(std::move(commit)) {
  flusher_ = Thread("engine-flush", [this] { Flush(); });
  committer_ = Thread("engine-commit", [this] { Commit(); });
}

void GroupCommit::Stop() {
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
  ready_bytes_ += put->location.stored_bytes();
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
    Group group = Take();
    last = group.empty();
    if (!last) flush_(&group);
    if (!last && group.empty()) continue;  // all of it is being written again
    MutexLock lock(&mutex_);
    while (flushed_.has_value()) handed_over_.Wait(&mutex_);
    flushed_ = std::move(group);
    handed_over_.SignalAll();
  }
}

void GroupCommit::Commit() {
  for (;;) {
    Group group;
    {
      MutexLock lock(&mutex_);
      while (!flushed_.has_value()) handed_over_.Wait(&mutex_);
      group = *std::exchange(flushed_, std::nullopt);
      handed_over_.SignalAll();
    }
    if (group.empty()) return;
    commit_(group);
  }
}

}  // namespace kvlink::engine
