// Removes the encodings of slots that a node no longer owns, once their owners have them.
//
// Thread-safety: one thread. Lifetime: the context must outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_
#define KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_

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
  // Goes over the slots that have been unowned for `keep_unowned`.
  void Remove(const View& view);

 private:
  using Owned = std::map<engine::EncodingKey, Etag>;  // held by all owners; the smallest etag
  // False if something remains.
  bool RemoveSlot(const View& view, int slot);
  // The encodings that all owners of the slot hold. nullopt: some owner could not be asked.
  std::optional<Owned> AtOwners(const View& view, int slot);

  RepairContext* const context_;
  std::bitset<kSlots> owned_;
  std::vector<absl::Time> owned_until_;
  absl::Time due_ = absl::InfiniteFuture();
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_
