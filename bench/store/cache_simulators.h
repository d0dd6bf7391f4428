// Caches with less or more knowledge than a store, run over a trace, for comparison in bench_cache.
//
// Thread-safety: none.
#ifndef KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_
#define KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace kvlink::bench {

// The sequence of things requested.
struct Trace {
  std::string name;
  std::vector<uint32_t> accesses;
  double least = 1;  // minimum of the store's hit ratio, relative to LRU's
};

// A cache of limited weight. When it would exceed `high`, things are evicted down to `low`.
struct CacheLimits {
  int64_t high = 0;
  int64_t low = 0;
};

// Hit ratios over the accesses from `warm_up` on. weights[i] is the weight of thing i. Evicts the least recently used.
double LruHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up);
// Evicts the thing whose next request is furthest in the future: optimal among caches that keep the latest request if
// all weights are equal, and nearly so otherwise (Belady 1966).
double BeladyHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up);

// Traces over things 0 .. count-1.
struct TraceOptions {
  uint32_t count = 0;
  int64_t accesses = 0;
  double skew = 0;     // of the Zipf law by which things are chosen
  double scanned = 0;  // fraction of the accesses that are sequential scans over everything, between the others
  int burst = 1;       // how often each chosen thing is used
  int64_t within = 0;  // over this many accesses
  uint64_t seed = 0;
};
Trace MakeTrace(std::string name, const TraceOptions& options);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_
