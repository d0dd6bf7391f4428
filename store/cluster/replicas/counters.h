// The counters of a replicated store while it runs. Thread-safety: atomics.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_COUNTERS_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace kvlink::store::cluster {

// As the fields of ReplicatedCounters.
struct Counters {
  std::atomic<int64_t> lookups{0}, lookup_requests{0}, reads{0}, read_requests{0};
  std::atomic<int64_t> next_owners{0}, hedges{0}, stuck{0}, moved{0}, changed_owner{0};
  std::atomic<int64_t> puts{0}, failed_puts{0}, lacking{0}, copied_bytes{0};
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_COUNTERS_H_
