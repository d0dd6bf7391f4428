// Caches that decide with less or more knowledge than a store has, run over a trace: what bench_cache compares with.
//
// Thread-safety: none.
#ifndef KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_
#define KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace kvlink::bench {

// Which thing is asked for, one after the other.
struct Trace {
  std::string name;
  std::vector<uint32_t> accesses;
  double least = 1;  // what a store's hit ratio must be of LRU's
};

// A cache of limited weight. When it would hold more than `high`, things leave until it holds no more than `low`.
struct CacheLimits {
  int64_t high = 0;
  int64_t low = 0;
};

// Hit ratios over the accesses from `warm_up` on. weights[i]: of thing i.
// Least recently used leaves.
double LruHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up);
// The thing whose next request is furthest in the future leaves: no cache that keeps what it was last asked for does
// better where all things weigh the same, and hardly any where they do not (Belady 1966).
double BeladyHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up);

// Traces over things 0 .. count-1.
struct TraceOptions {
  uint32_t count = 0;
  int64_t accesses = 0;
  double skew = 0;     // of the Zipf law by which things are chosen
  double scanned = 0;  // part of the accesses that are sequential scans over everything, between the others
  int burst = 1;       // each thing chosen is used so many times
  int64_t within = 0;  // of this many accesses
  uint64_t seed = 0;
};
Trace MakeTrace(std::string name, const TraceOptions& options);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_STORE_CACHE_SIMULATORS_H_
