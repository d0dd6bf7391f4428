// What repair has done and what is left: progress within an epoch, and counts since the start.
//
// Thread-safety: all methods; Begin, Left, Done and Tell by repair's thread.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_LEDGER_H_
#define KVLINK_STORE_CLUSTER_REPAIR_LEDGER_H_

#include <bitset>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/cluster/repair/plan.h"
#include "store/cluster/repair/repair.h"

namespace kvlink::store::cluster {

class Ledger {
 public:
  explicit Ledger(std::function<void(const RepairProgress&)> tell) : tell_(std::move(tell)) {}

  // Another view. What was done stays done, unless the members are others than before (`moved`), or it was reset.
  void Begin(const RepairPlan& plan, bool moved);
  // The node holds nothing any more: nothing is done, nor becomes so before Begin is called again.
  void Reset();
  // Not since a Reset.
  bool valid() const;
  // Of a slot that is not done: what a peer has more of it.
  void Left(uint16_t slot, int64_t bytes);
  void Done(uint16_t slot);
  bool done(uint16_t slot) const;
  void Copied(uint16_t slot, int64_t bytes);
  // Changes the counts.
  void Count(const std::function<void(RepairStatistics*)>& change);

  // Tells of the progress if it changed, and something was told a while ago or all is complete. Called without locks.
  void Tell(bool at_once = false);
  RepairProgress progress() const;
  RepairStatistics statistics() const;

 private:
  void NothingDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void(const RepairProgress&)> tell_;
  mutable Mutex mutex_;
  RepairProgress progress_ ABSL_GUARDED_BY(mutex_);
  bool valid_ ABSL_GUARDED_BY(mutex_) = true;
  std::bitset<kSlots> owned_ ABSL_GUARDED_BY(mutex_), done_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> left_ ABSL_GUARDED_BY(mutex_) = std::vector<int64_t>(kSlots);
  RepairStatistics statistics_ ABSL_GUARDED_BY(mutex_);
  // Of the rate: bytes copied since then.
  absl::Time rate_since_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t rate_bytes_ ABSL_GUARDED_BY(mutex_) = 0;

  // Of Tell.
  absl::Time told_at_ = absl::InfinitePast();
  RepairProgress told_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_LEDGER_H_
