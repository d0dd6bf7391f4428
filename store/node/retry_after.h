// When a refused client should retry. Thread-safety: a function.
#ifndef KVLINK_STORE_NODE_RETRY_AFTER_H_
#define KVLINK_STORE_NODE_RETRY_AFTER_H_

#include <cstdint>

#include "absl/status/status.h"

namespace kvlink::store::node {

// How long a refused client should wait before it retries; 0: retrying will not help.
inline uint32_t RetryAfterMilliseconds(const absl::Status& status) {
  constexpr uint32_t kWhenFull = 50, kWhenUnavailable = 500;
  if (absl::IsResourceExhausted(status)) return kWhenFull;
  return absl::IsUnavailable(status) ? kWhenUnavailable : 0;
}

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_RETRY_AFTER_H_
