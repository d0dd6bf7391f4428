// One pass over slots of a plan: compares them with the other owners, lists those that differ, copies what lacks.
//
// Thread-safety: by one thread. Lifetime: within that of the context and the copier.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_PASS_H_
#define KVLINK_STORE_CLUSTER_REPAIR_PASS_H_

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "store/cluster/repair/context.h"
#include "store/cluster/repair/copier.h"
#include "store/cluster/repair/plan.h"

namespace kvlink::store::cluster {

// What a pass compares: all slots with all members, owners or not; or, where it is not whole, `slots` with their
// owners, and all slots with `peers`.
struct PassScope {
  bool whole = true;
  std::bitset<kSlots> slots;
  std::set<uint16_t> peers;
};

class Pass {
 public:
  Pass(RepairContext* context, Copier* copier, std::shared_ptr<const View> view, const RepairPlan& plan,
       PassScope scope);

  // False: it was cut short, since the placement has changed, the node was emptied, or the repairer is to end.
  bool Run();
  // Slots that some owner could not be asked about, or of which something was not copied. After Run.
  const std::bitset<kSlots>& left() const { return left_; }

 private:
  struct Work {
    const OwnedSlot* slot = nullptr;
    bool everywhere = true;  // with all its owners
    SlotOwners differ;       // of the peers
    bool unknown = false;    // some owner could not be asked
    int64_t more = 0;        // bytes that a peer has more
  };
  using WantedByKey = std::map<engine::EncodingKey, Offered>;

  bool Goes() const;
  bool Asks(uint16_t peer) const { return scope_.whole || scope_.peers.contains(peer); }
  bool Compare();
  using WorkByPeer = std::map<uint16_t, std::vector<Work*>>;
  // Of slots that others own: a copy that came too late or while all owners were away is nowhere else.
  WorkByPeer OfStrangers();
  // Of the peer; false: it could not be asked, and of an owner that is remembered.
  bool CompareWith(uint16_t peer, const std::vector<Work*>& work, bool owner);
  void List(Work* work);
  absl::Status ListAt(uint16_t peer, const Work& work, WantedByKey* wanted);
  void Choose(Work* work, WantedByKey wanted);
  // Whether the store takes it: not where something would have to go for what is not hotter.
  bool HasRoomFor(const SlotEntry& entry);
  void CopyAll();
  // The slot is as its owners have it.
  void Settle(const Work& work);

  RepairContext* const context_;
  Copier* const copier_;
  const std::shared_ptr<const View> view_;
  const PassScope scope_;
  const int64_t hot_bytes_;  // that may be copied in this pass although something goes for it
  std::vector<Work> work_;
  std::vector<Copy> copies_;
  std::vector<Work*> listed_;  // whose copies are among copies_
  int64_t copy_bytes_ = 0, hot_taken_ = 0;
  std::bitset<kSlots> left_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PASS_H_
