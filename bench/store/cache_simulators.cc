// LRU, and the best possible with the trace known in advance: the range in which a store's hit ratio lies.
#include "bench/store/cache_simulators.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <utility>

namespace kvlink::bench {

double LruHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up) {
  std::list<uint32_t> order;
  std::vector<std::list<uint32_t>::iterator> where(weights.size(), order.end());
  int64_t weight = 0, hits = 0;
  for (size_t i = 0; i < trace.accesses.size(); ++i) {
    const uint32_t thing = trace.accesses[i];
    if (where[thing] != order.end()) {
      order.splice(order.end(), order, where[thing]);
      hits += i >= warm_up;
      continue;
    }
    if (weight + weights[thing] > limits.high) {
      while (!order.empty() && weight + weights[thing] > limits.low) {
        weight -= weights[order.front()];
        where[order.front()] = order.end();
        order.pop_front();
      }
    }
    where[thing] = order.insert(order.end(), thing);
    weight += weights[thing];
  }
  return static_cast<double>(hits) / static_cast<double>(trace.accesses.size() - warm_up);
}

double BeladyHitRatio(const Trace& trace, const std::vector<int64_t>& weights, CacheLimits limits, size_t warm_up) {
  const size_t count = trace.accesses.size();
  std::vector<size_t> next(count), seen(weights.size(), count);
  for (size_t i = count; i-- > 0;) {
    next[i] = seen[trace.accesses[i]];
    seen[trace.accesses[i]] = i;
  }
  std::set<std::pair<size_t, uint32_t>> order;  // by next use
  std::vector<size_t> in(weights.size(), 0);    // the next use of each cached thing; 0: not cached
  int64_t weight = 0, hits = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t thing = trace.accesses[i];
    if (in[thing] != 0) {
      order.erase({in[thing], thing});
      hits += i >= warm_up;
    } else {
      if (weight + weights[thing] > limits.high) {
        while (!order.empty() && weight + weights[thing] > limits.low) {
          const auto last = std::prev(order.end());
          weight -= weights[last->second];
          in[last->second] = 0;
          order.erase(last);
        }
      }
      weight += weights[thing];
    }
    in[thing] = next[i];
    order.emplace(next[i], thing);
  }
  return static_cast<double>(hits) / static_cast<double>(count - warm_up);
}

Trace MakeTrace(std::string name, const TraceOptions& options) {
  std::mt19937_64 random(options.seed);
  std::vector<double> upto(options.count);
  double sum = 0;
  for (uint32_t i = 0; i < options.count; ++i) upto[i] = sum += 1 / std::pow(i + 1, options.skew);
  std::vector<uint32_t> things(options.count);  // by popularity
  std::iota(things.begin(), things.end(), 0);
  std::shuffle(things.begin(), things.end(), random);

  Trace trace{std::move(name), {}};
  std::multimap<int64_t, uint32_t> due;  // later uses of a burst
  uint32_t scan = 0;
  int64_t left = 0;  // of the scan
  for (int64_t now = 0; now < options.accesses; ++now) {
    const bool scans = options.scanned > 0 && random() % 1000 < 1000 * options.scanned;
    if (scans) {
      if (left-- <= 0) {
        left = options.count / 2 + static_cast<int64_t>(random() % options.count);
        scan = static_cast<uint32_t>(random() % options.count);
      }
      trace.accesses.push_back(scan++ % options.count);
    } else if (!due.empty() && due.begin()->first <= now) {
      trace.accesses.push_back(due.begin()->second);
      due.erase(due.begin());
    } else {
      const double at = std::uniform_real_distribution<double>(0, sum)(random);
      const auto rank = std::upper_bound(upto.begin(), upto.end() - 1, at) - upto.begin();
      trace.accesses.push_back(things[rank]);
      for (int use = 1; use < options.burst; ++use)
        due.emplace(now + 1 + static_cast<int64_t>(random() % options.within), things[rank]);
    }
  }
  return trace;
}

}  // namespace kvlink::bench
