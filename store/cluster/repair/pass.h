// One pass over slots of a plan: compares them with the other owners, lists those that differ, and copies what this
// node lacks.
//
// Thread-safety: one thread. Lifetime: context, copier and plan must outlive it.
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

// Selects what a pass compares: all slots with all members, owners or not; or, if not `whole`, `slots` with their
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

  // False if it was cut short because the placement changed, the node was emptied, or the repairer is stopping.
  bool Run();
  // After Run(): the slots about which some owner could not be asked, or of which something was not copied.
  const std::bitset<kSlots>& left() const { return left_; }

 private:
  struct Work {
    const OwnedSlot* slot = nullptr;
    bool everywhere = true;  // compared with all its owners
    SlotOwners differ;       // the peers whose digests differ
    bool unknown = false;    // some owner could not be asked
    int64_t more = 0;        // the most bytes that a peer holds beyond this node's
  };
  using WantedByKey = std::map<engine::EncodingKey, Offered>;

  bool Goes() const;
  bool Asks(uint16_t peer) const { return scope_.whole || scope_.peers.contains(peer); }
  bool Compare();
  using WorkByPeer = std::map<uint16_t, std::vector<Work*>>;
  // Groups the work by the members that do not own its slots. They may have the only copy of an encoding that was
  // pushed too late, or while all owners were unreachable.
  WorkByPeer OfStrangers();
  // Compares with one peer. False if it could not be asked; if it is an owner, the work is then marked unknown.
  bool CompareWith(uint16_t peer, const std::vector<Work*>& work, bool owner);
  void List(Work* work);
  absl::Status ListAt(uint16_t peer, const Work& work, WantedByKey* wanted);
  void Choose(Work* work, WantedByKey wanted);
  // Whether to copy the encoding: if it fits into the memory of this node at all, and the store has room or the
  // encoding is hot enough to evict others for it.
  bool HasRoomFor(const SlotEntry& entry);
  void CopyAll();
  // Marks the slot as done.
  void Settle(const Work& work);

  RepairContext* const context_;
  Copier* const copier_;
  const std::shared_ptr<const View> view_;
  const PassScope scope_;
  const int64_t memory_bytes_;  // limit of one encoding
  const int64_t hot_bytes_;     // limit of bytes copied in this pass although they evict others
  std::vector<Work> work_;
  std::vector<Copy> copies_;
  std::vector<Work*> listed_;  // their copies are in copies_
  int64_t copy_bytes_ = 0, hot_taken_ = 0;
  std::bitset<kSlots> left_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PASS_H_
