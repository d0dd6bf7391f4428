// What a view asks of one node: the slots that it owns, and who can be asked for each.
//
// Thread-safety: values and pure functions.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_PLAN_H_
#define KVLINK_STORE_CLUSTER_REPAIR_PLAN_H_

#include <bitset>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

// Indices into placement.members().
using SlotOwners = absl::InlinedVector<uint16_t, 4>;

struct OwnedSlot {
  uint16_t slot = 0;
  bool gained = false;  // the node is no current owner
  // Whoever is to be asked is alive: some current owner at least, where the node gains the slot and there are any.
  bool given = false;
  SlotOwners peers;  // other owners, current and next, that are alive
};

struct RepairPlan {
  uint64_t epoch = 0;
  bool member = false;           // the node is one
  std::vector<OwnedSlot> slots;  // that it owns under next; the gained ones first
  std::bitset<kSlots> owned;     // under current or next
};
RepairPlan PlanRepair(const View& view, const NodeId& self);

// Members that came alive between two views of the same members; also those that lost their lease and have a new one.
std::set<uint16_t> CameBack(const View& before, const View& view);

// Every owner of a slot, current or next, once.
SlotOwners AllOwners(const Placement& placement, int slot);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PLAN_H_
