// Removes the encodings of slots that a node no longer owns, once their owners have them.
//
// Thread-safety: one thread. Lifetime: the context must outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_
#define KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_

#include <algorithm>
#include <bitset>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "store/cluster/repair/context.h"
#include "store/cluster/repair/plan.h"

namespace kvlink::store::cluster {

class Unowned {
 public:
  explicit Unowned(RepairContext* context);

  // Takes the plan of a new view.
  void Follow(const RepairPlan& plan);
  // When to call Remove() next; InfiniteFuture if there is nothing to remove.
  absl::Time due() const { return due_; }
  // Makes Remove() due, because some further copies are no longer kept (KeptCopies).
  void LookAgain();
  // Goes on over the slots that have been unowned for `keep_unowned`. At `until`, or when the members change, it
  // returns and is due again: what it removes passes the rate limit, which may take hours.
  void Remove(const View& view, absl::Time until);

 private:
  using Owned = std::map<engine::EncodingKey, Etag>;  // held by all owners; the smallest etag
  enum class Outcome { kGone, kRemains, kOutOfTime };
  Outcome RemoveSlot(const View& view, int slot, absl::Time until);
  void DueAt(absl::Time time) {
    due_ = std::min(due_, time);
    again_ = std::min(again_, time);
  }
  // The encodings that all owners of the slot hold. nullopt: some owner could not be asked.
  std::optional<Owned> AtOwners(const View& view, int slot);

  RepairContext* const context_;
  std::bitset<kSlots> owned_;
  std::vector<absl::Time> owned_until_;
  absl::Time due_ = absl::InfiniteFuture();
  int from_ = 0;                               // the slot at which Remove() goes on
  absl::Time again_ = absl::InfiniteFuture();  // when slots before it are due
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_
