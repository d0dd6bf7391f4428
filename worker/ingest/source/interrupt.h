// Ends waits for input that may never come (an idle pipe), from another thread or a signal handler.
// Thread-safety: all methods. Lifetime: outlives the waits.
#ifndef KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_
#define KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_

#include <atomic>

#include "absl/status/status.h"

namespace kvlink::ingest {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Permanent: ends all current and later waits. Safe in signal handlers.
  void Raise() const;
  bool raised() const { return raised_; }
  // Waits until reading `descriptor` would not block. CANCELLED: raised. RESOURCE_EXHAUSTED: there was no descriptor
  // for the interrupt when it was made, so nothing could end the wait.
  absl::Status WaitReadable(int descriptor) const;

 private:
  const int event_;  // an eventfd, readable once raised; -1: there was none
  mutable std::atomic<bool> raised_{false};
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_
