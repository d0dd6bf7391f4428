// Derives from a view what one node must repair: the slots that it owns, and the peers to ask for each.
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
  bool gained = false;  // the node is not a current owner
  // Whether the slot can be compared: false if the node gains it and its current owners exist, but none is alive; or if
  // a draining owner is not alive, which may have the only copy of an encoding and leaves once the slot is done.
  bool given = false;
  SlotOwners peers;  // other owners, current and next, that are alive
};

struct RepairPlan {
  uint64_t epoch = 0;
  bool member = false;           // the node is a member
  std::vector<OwnedSlot> slots;  // owned under next; gained ones first
  std::bitset<kSlots> owned;     // under current or next
};
RepairPlan PlanRepair(const View& view, const NodeId& self);

// Members that came alive between two views of the same members, or have a new lease.
std::set<uint16_t> CameBack(const View& before, const View& view);

// All owners of a slot, current or next, each once.
SlotOwners AllOwners(const Placement& placement, int slot);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PLAN_H_
