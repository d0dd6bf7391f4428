// Repeats calls to a store that is away; any other error would recur. Private to worker/ingest. Thread-safety: all
// methods.
#ifndef KVLINK_WORKER_INGEST_RETRY_H_
#define KVLINK_WORKER_INGEST_RETRY_H_

#include <atomic>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvlink::ingest {

class Retry {
 public:
  // `outage`: how long the store may be away (UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED) before a call gives up. Where it
  // is full (RESOURCE_EXHAUSTED), calls are tried again for 10 s at most.
  explicit Retry(absl::Duration outage) : outage_(outage) {}

  // Returns the status of the last attempt. The call must be one that may be repeated.
  absl::Status Run(absl::FunctionRef<absl::Status()> call) const;
  // From now on each call is attempted once.
  void Stop() { stopped_ = true; }

 private:
  const absl::Duration outage_;
  std::atomic<bool> stopped_{false};
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_RETRY_H_
