// Keeps account of repair: its progress within an epoch, and counts since the start.
//
// Thread-safety: all methods; Begin, Left, Done and Tell only on repair's thread.
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

  // Starts on another view. Done slots stay done unless the members changed (`moved`) or the ledger was reset.
  void Begin(const RepairPlan& plan, bool moved);
  // Call when the node has emptied itself: no slot is done, nor becomes done before the next Begin.
  void Reset();
  // False from a Reset until the next Begin.
  bool valid() const;
  // Sets how many more bytes of the slot a peer holds. Ignored for done slots.
  void Left(uint16_t slot, int64_t bytes);
  void Done(uint16_t slot);
  bool done(uint16_t slot) const;
  void Copied(uint16_t slot, int64_t bytes);
  // Calls `change` with the counts, under the lock.
  void Count(const std::function<void(RepairStatistics*)>& change);

  // Passes on the progress if it changed and was last passed on a while ago, or is complete, or has another epoch; with
  // `at_once`, in any case. Call without locks.
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
  // For the rate: bytes copied since rate_since_.
  absl::Time rate_since_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t rate_bytes_ ABSL_GUARDED_BY(mutex_) = 0;

  // Used by Tell only.
  absl::Time told_at_ = absl::InfinitePast();
  RepairProgress told_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_LEDGER_H_
