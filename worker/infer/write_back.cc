#include "worker/infer/write_back.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::infer {

WriteBack::WriteBack(store::Store* store, const Options& options)
    : store_(store), options_(options), thread_("write-back", [this] { Run(); }) {}

WriteBack::~WriteBack() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  thread_.Join();
}

bool WriteBack::Offer(std::shared_ptr<const encode::Encoded> encoded) {
  const int64_t bytes = encoded->manifest.bytes();
  MutexLock lock(&mutex_);
  // An encoding larger than the whole queue is accepted when nothing else is queued.
  if (stop_ || (queued_bytes_ > 0 && queued_bytes_ + bytes > options_.queue_bytes)) {
    ++stats_.refused;
    return false;
  }
  queued_bytes_ += bytes;
  queue_.push_back(std::move(encoded));
  changed_.SignalAll();
  return true;
}

bool WriteBack::Drain(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (queued_bytes_ > 0) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return queued_bytes_ == 0;
  }
  return true;
}

WriteBack::Stats WriteBack::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

void WriteBack::Run() {
  while (true) {
    std::shared_ptr<const encode::Encoded> encoded;
    {
      MutexLock lock(&mutex_);
      while (queue_.empty() && !stop_) changed_.Wait(&mutex_);
      if (queue_.empty()) return;
      encoded = std::move(queue_.front());
      queue_.pop_front();
    }
    const auto put = store_->Put(options_.ns, encoded->manifest, encoded->slabs, SteadyNow() + options_.put_timeout);
    MutexLock lock(&mutex_);
    if (put.ok()) {
      ++stats_.written;
    } else {
      ++stats_.failed;
      stats_.last_error = put.status().ToString();
    }
    queued_bytes_ -= encoded->manifest.bytes();
    changed_.SignalAll();
  }
}

}  // namespace kvlink::infer
