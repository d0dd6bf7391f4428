// Makes and keeps the further copies of hot encodings that this node should hold (store/cluster/hot.h, repair.h).
//
// Thread-safety: one thread. Lifetime: the context must outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_HOT_COPIES_H_
#define KVLINK_STORE_CLUSTER_REPAIR_HOT_COPIES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "store/cluster/repair/context.h"
#include "store/cluster/repair/copier.h"

namespace kvlink::store::cluster {

class HotCopies {
 public:
  explicit HotCopies(RepairContext* context);

  // Follows the views until the repairer stops.
  void Run();

 private:
  struct Kept {
    absl::Time until;                           // when to give it up, unless it is wanted again
    absl::Time compare = absl::InfinitePast();  // when to compare it with the owners' next
    bool held = false;                          // this node has what the owners have
    int64_t bytes = 0;                          // while held
  };
  using Entry = std::map<HotName, Kept>::value_type;

  // The encodings of which this node should hold further copies.
  std::set<HotName> WantedHere(const View& view) const;
  void Look(const View& view);
  // Asks all owners what they list. False if some could not be asked.
  bool AtOwners(const View& view, const HotName& name, Offered* offered);
  void Compare(const View& view, Entry* entry);
  void CopyHere(Offered offered, Entry* entry);
  bool HasRoomFor(const SlotEntry& entry) const;
  // Reports which copies are held, if that has changed.
  void Tell();

  RepairContext* const context_;
  Copier copier_;
  std::shared_ptr<const View> view_;  // of wanted_
  std::set<HotName> wanted_;
  std::map<HotName, Kept> kept_;
  std::vector<HotName> told_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_HOT_COPIES_H_
