// Decides when to ask a second node before the first has answered, and how often.
//
// A node that has given no sign for kNoProgress counts as stuck, and others are asked: that is recovery, and always
// allowed. Asking earlier, after the time in which a node nearly always answers, is a hedge: it cuts the slowest
// answers at the cost of load. A budget limits hedges to kShare of the other requests.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_

#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store::cluster {

inline constexpr absl::Duration kNoProgress = absl::Milliseconds(250);
// The longest that a call takes for an encoding that one owner does not have, while other owners are silent.
inline constexpr absl::Duration kMissPatience = absl::Milliseconds(750);
// A layer that takes this long although its node makes progress is worth a read from the next owner, if the budget of
// hedges allows it.
inline constexpr absl::Duration kSlowLayer = absl::Milliseconds(500);

// How long a node takes to answer: a running mean and mean deviation.
class Latency {
 public:
  void Add(absl::Duration took);
  // Forgets all answers.
  void Forget();
  // Zero before the first answer.
  absl::Duration mean() const;
  // A time that few answers exceed: the mean plus 6 mean deviations, which for an exponential distribution is the 99th
  // percentile. From 2 ms to kNoProgress; kNoProgress until kEnough answers are known.
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
  // Counts `requests` that were sent and are not hedges.
  void Asked(int requests);
  // Takes the right to one hedge. False if the budget is spent.
  bool TryTake();

 private:
  Mutex mutex_;
  double tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_HEDGE_H_
