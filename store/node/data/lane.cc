#include "store/node/data/lane.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink::store {

Lane::Lane(const Options& options) : options_(options) {
  for (int i = 0; i < options_.threads; ++i) {
    threads_.emplace_back(options_.name.c_str(), [this] {
      if (options_.nice != 0) {
        // Linux gives every thread a niceness of its own. Where that is not allowed, the lane works all the same.
        (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)),
                          getpriority(PRIO_PROCESS, 0) + options_.nice);
      }
      Loop();
    });
  }
}

absl::Status Lane::Add(absl::Time deadline, int64_t bytes, Work work) {
  return Queue(deadline, bytes, std::move(work), false);
}

absl::Status Lane::AddAdmitted(absl::Time deadline, Work work) { return Queue(deadline, 0, std::move(work), true); }

absl::Status Lane::Queue(absl::Time deadline, int64_t bytes, Work work, bool admitted) {
  MutexLock lock(&mutex_);
  if (stopped_) return absl::UnavailableError("the node is closing");
  if (!admitted && (items_.size() >= static_cast<size_t>(options_.max_queued) ||
                    (bytes_ + bytes > options_.max_queued_bytes && !items_.empty()))) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the ", options_.name, " lane is full (", items_.size(), " requests wait): try again later"));
  }
  bytes_ += bytes;
  items_.push_back({deadline, bytes, std::move(work)});
  wake_.Signal();
  return absl::OkStatus();
}

void Lane::Loop() {
  while (true) {
    Item item;
    {
      MutexLock lock(&mutex_);
      while (items_.empty() && !stopped_) wake_.Wait(&mutex_);
      if (stopped_) return;
      item = std::move(items_.front());
      items_.pop_front();
      bytes_ -= item.bytes;
    }
    item.work(SteadyNow() < item.deadline
                  ? absl::OkStatus()
                  : absl::DeadlineExceededError("the deadline passed while the request waited for its turn"));
  }
}

void Lane::Stop() {
  std::deque<Item> left;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    left.swap(items_);
    bytes_ = 0;
    wake_.SignalAll();
  }
  for (const Item& item : left) item.work(absl::UnavailableError("the node is closing"));
  left.clear();
  for (Thread& thread : threads_) thread.Join();
}

int64_t Lane::queued() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(items_.size());
}

}  // namespace kvlink::store
