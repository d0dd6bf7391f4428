// Limits bytes per second: a token bucket that says when the next bytes may move.
//
// Thread-safety: all methods; none waits.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_RATE_LIMIT_H_
#define KVLINK_STORE_CLUSTER_REPAIR_RATE_LIMIT_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store::cluster {

class RateLimit {
 public:
  // REQUIRES: at least 1 byte per second. `burst`: the longest idle time for which bytes are saved up.
  RateLimit(int64_t bytes_per_second, absl::Duration burst) : bytes_per_second_(bytes_per_second), burst_(burst) {}

  // Takes the bytes and returns the time from which they may move, after all bytes taken earlier. So in any interval no
  // more bytes move than the rate allows, plus one burst and the last bytes taken.
  absl::Time Take(int64_t bytes, absl::Time now) {
    MutexLock lock(&mutex_);
    const absl::Time from = std::max(free_at_, now - burst_);
    free_at_ = from + absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
    return from;
  }

 private:
  const int64_t bytes_per_second_;
  const absl::Duration burst_;
  Mutex mutex_;
  absl::Time free_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_RATE_LIMIT_H_
