// Stores, in the background, encodings that requests had to compute because the store missed. Bounded: encodings that
// do not fit into the queue are dropped (and computed again later), and each write has a deadline. Thread-safety: all
// methods. Lifetime: the store outlives the object. Ownership: shares the encodings until written.
#ifndef KVLINK_WORKER_INFER_WRITE_BACK_H_
#define KVLINK_WORKER_INFER_WRITE_BACK_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/store.h"
#include "worker/encode/encoder.h"

namespace kvlink::infer {

class WriteBack {
 public:
  struct Options {
    std::string ns = "default";
    int64_t queue_bytes = int64_t{256} << 20;
    absl::Duration put_timeout = absl::Seconds(30);
  };
  WriteBack(store::Store* store, const Options& options);
  // Writes queued encodings, each within its deadline, and ends the thread.
  ~WriteBack();

  // Queues `encoded`; false if the queue is full.
  bool Offer(std::shared_ptr<const encode::Encoded> encoded);
  // Waits until the queue is empty. False if `deadline` passed first.
  bool Drain(absl::Time deadline);

  struct Stats {
    int64_t written = 0;
    int64_t refused = 0;  // the queue was full
    int64_t failed = 0;   // refused by the store
    std::string last_error;
  };
  Stats stats() const;

 private:
  void Run();

  store::Store* const store_;
  const Options options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<const encode::Encoded>> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // including the one being written
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_WRITE_BACK_H_
