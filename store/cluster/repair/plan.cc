// One sweep over both tables of the placement. A stable partition puts gained slots first, each group in order of
// slots.
#include "store/cluster/repair/plan.h"

#include <algorithm>
#include <utility>

namespace kvlink::store::cluster {
namespace {

bool Has(absl::Span<const uint16_t> owners, uint16_t member) {
  return std::find(owners.begin(), owners.end(), member) != owners.end();
}

}  // namespace

SlotOwners AllOwners(const Placement& placement, int slot) {
  SlotOwners owners;
  for (const PlacementTable* const table : {&placement.current(), &placement.next()}) {
    for (const uint16_t owner : table->Owners(slot)) {
      if (!Has(owners, owner)) owners.push_back(owner);
    }
  }
  return owners;
}

std::set<uint16_t> CameBack(const View& before, const View& view) {
  std::set<uint16_t> back;
  for (size_t i = 0; i < view.status.size(); ++i) {
    const MemberStatus &was = before.status[i], &is = view.status[i];
    const bool same =
        was.incarnation == is.incarnation && was.alive_since == is.alive_since && was.address == is.address;
    if (is.incarnation.has_value() && !same) back.insert(static_cast<uint16_t>(i));
  }
  return back;
}

RepairPlan PlanRepair(const View& view, const NodeId& self) {
  RepairPlan plan;
  const Placement& placement = view.placement;
  plan.epoch = placement.epoch();
  const std::vector<Member>& members = placement.members();
  const auto me = std::find_if(members.begin(), members.end(), [&](const Member& m) { return m.node_id == self; });
  if (me == members.end()) return plan;
  plan.member = true;
  const auto index = static_cast<uint16_t>(me - members.begin());
  for (int slot = 0; slot < kSlots; ++slot) {
    const absl::Span<const uint16_t> current = placement.current().Owners(slot), next = placement.next().Owners(slot);
    const bool has = Has(current, index);
    if (has || Has(next, index)) plan.owned.set(static_cast<size_t>(slot));
    if (!Has(next, index)) continue;
    OwnedSlot owned{.slot = static_cast<uint16_t>(slot), .gained = !has, .given = has || current.empty()};
    bool leaves = false;
    for (const uint16_t owner : AllOwners(placement, slot)) {
      if (owner == index) continue;
      if (!view.alive(owner)) {
        leaves |= members[owner].state == MemberState::kDraining;
        continue;
      }
      owned.peers.push_back(owner);
      owned.given |= Has(current, owner);
    }
    owned.given &= !leaves;
    plan.slots.push_back(std::move(owned));
  }
  std::stable_partition(plan.slots.begin(), plan.slots.end(), [](const OwnedSlot& slot) { return slot.gained; });
  return plan;
}

}  // namespace kvlink::store::cluster
