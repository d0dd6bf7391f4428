// Takes away the encodings of slots that a node does not own any more, once their owners have them.
//
// Thread-safety: by one thread. Lifetime: within that of the context.
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

  // Another view holds from now on.
  void Follow(const RepairPlan& plan);
  // When there is something to look at again; infinite: there is nothing.
  absl::Time due() const { return due_; }
  // Some further copies are no longer kept (KeptCopies).
  void LookAgain();
  // Goes over the slots that were not owned for long enough.
  void Remove(const View& view);

 private:
  using Owned = std::map<engine::EncodingKey, Etag>;  // by each owner: the smallest etag
  // False: something stays.
  bool RemoveSlot(const View& view, int slot);
  // What all of the slot's owners have. Nothing: some could not be asked.
  std::optional<Owned> AtOwners(const View& view, int slot);

  RepairContext* const context_;
  std::bitset<kSlots> owned_;
  std::vector<absl::Time> owned_until_;
  absl::Time due_ = absl::InfiniteFuture();
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_UNOWNED_H_
