#include "store/engine/group_commit.h"

#include <utility>

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

GroupCommit::GroupCommit(std::function<void(const std::vector<std::shared_ptr<PendingPut>>&)> commit)
    : commit_(std::move(commit)) {
  thread_ = std::thread([this] { Run(); });
}

GroupCommit::~GroupCommit() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  thread_.join();
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

void GroupCommit::Run() {
  for (;;) {
    std::vector<std::shared_ptr<PendingPut>> group;
    {
      MutexLock lock(&mutex_);
      while (ready_.empty() && !(stop_ && writing_ == 0)) wake_.Wait(&mutex_);
      if (ready_.empty()) return;
      const absl::Time until = absl::Now() + kWait;
      while (writing_ > 0 && ready_bytes_ < kGroupBytes && wake_.WaitUntil(&mutex_, until)) {
      }
      group.swap(ready_);
      ready_bytes_ = 0;
    }
    commit_(group);
  }
}

}  // namespace kvlink::engine
