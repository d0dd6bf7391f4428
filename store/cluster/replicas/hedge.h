// When a second node is asked before the first has answered, and how often that may happen.
//
// A node that has not answered after kNoProgress is taken for stuck, and others are asked: that is recovery, and always
// allowed. Asking earlier, after the time in which a node nearly always answers, is a hedge: it cuts the slowest
// answers, and is paid for with load. A budget keeps it at kShare of what is asked anyhow.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_

#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store::cluster {

inline constexpr absl::Duration kNoProgress = absl::Milliseconds(250);
// How long a call takes at most for an encoding that an owner does not have, whoever else is silent.
inline constexpr absl::Duration kMissPatience = absl::Milliseconds(750);
// A layer that takes so long, while its node gives signs, is worth a read of the next owner, as far as the budget of
// hedges goes.
inline constexpr absl::Duration kSlowLayer = absl::Milliseconds(500);

// How long a node takes to answer: a running mean, and the mean deviation from it.
class Latency {
 public:
  void Add(absl::Duration took);
  // As if none were known.
  void Forget();
  // Zero before the first answer.
  absl::Duration mean() const;
  // Few answers take longer: mean + 6 mean deviations, which of an exponential distribution is the 99th percentile.
  // 2 ms .. kNoProgress; kNoProgress until enough answers are known.
  absl::Duration HedgeAfter() const;

 private:
  static constexpr double kNewest = 1.0 / 16;  // weight of the latest answer
  static constexpr int kEnough = 32;
  mutable Mutex mutex_;
  double mean_ ABSL_GUARDED_BY(mutex_) = 0, deviation_ ABSL_GUARDED_BY(mutex_) = 0;  // seconds
  int answers_ ABSL_GUARDED_BY(mutex_) = 0;                                          // up to kEnough
};

class HedgeBudget {
 public:
  static constexpr double kShare = 0.05, kMaxTokens = 10;
  // So many requests were sent that are no hedges.
  void Asked(int requests);
  // Takes the right to one hedge, if there is any.
  bool TryTake();

 private:
  Mutex mutex_;
  double tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_
