// Counters of a remote store. Thread-safety: atomics.
#ifndef KVLINK_STORE_CLIENT_CONTROL_COUNTERS_H_
#define KVLINK_STORE_CLIENT_CONTROL_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace kvlink::store::client {

// See RemoteCounters.
struct ClientCounters {
  std::atomic<int64_t> pulls{0}, failed_pulls{0}, corrupt_slabs{0}, late_layers{0};
  std::atomic<int64_t> mapped_leases{0}, lapsed_leases{0}, verified_bytes{0}, known_bytes{0};
  std::atomic<int64_t> device_pulls{0}, device_fallbacks{0};
  std::atomic<int64_t> pushes{0}, failed_pushes{0}, retries{0}, reconnects{0}, sessions{0};
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_COUNTERS_H_
