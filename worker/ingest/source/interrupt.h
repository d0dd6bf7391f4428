// Ends waits for input that may never come (an idle pipe), from another thread.
// Thread-safety: all methods. Lifetime: outlives the waits.
#ifndef KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_
#define KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvlink::ingest {

class Interrupt {
 public:
  // RESOURCE_EXHAUSTED: out of descriptors.
  static absl::StatusOr<std::unique_ptr<Interrupt>> Create();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Permanent: ends all current and later waits.
  void Raise() const;
  // Waits until reading `descriptor` would not block. CANCELLED: raised.
  absl::Status WaitReadable(int descriptor) const;

 private:
  explicit Interrupt(int event) : event_(event) {}
  const int event_;  // an eventfd, readable once raised
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_INTERRUPT_H_
