// Computes which nodes of a cluster own an encoding: a pure function of the members, evaluated once for each epoch and
// then looked up (docs/formats.md "Placement").
//
// An identity falls into one of 65,536 slots by its first two bytes; identities are SHA-256, so slots fill evenly. The
// owners of a slot are the best members by weighted rendezvous hashing: a member owns slots in proportion to its
// weight, and a change of one member moves only the slots that it gains or loses. If members are in several zones, the
// owners of a slot are in as many zones as there are, or as there are copies.
//
// The number of slots that a member owns deviates from its share for two reasons. Slots are whole: a share of n slots
// has a standard deviation of sqrt(n), so each of 1,000 equal members owns 131 +- 11 slots with two copies. And a
// member holds a slot only once: one with more than a few hundredths of the cluster's weight owns less than its share,
// and the others more.
//
// Every build on every machine computes the same tables from the same members, in any order.
//
// Thread-safety: immutable values. Ownership: a Placement and its tables own what they refer to; spans of owners live
// as long as the table that gave them or any copy of it.
#ifndef KVLINK_STORE_CLUSTER_PLACEMENT_H_
#define KVLINK_STORE_CLUSTER_PLACEMENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/digest.h"
#include "proto/node_id.h"
#include "proto/slots.h"

namespace kvlink::store::cluster {

using ::kvlink::kSlots;
using ::kvlink::SlotOf;
inline constexpr int kMaxMembers = 16384;
inline constexpr int kMaxCopies = 16;
inline constexpr uint32_t kMaxWeight = 1u << 20;

using ::kvlink::NodeId;

enum class MemberState {
  kJoining,   // takes writes of its slots and is being filled; readers may have to ask the current owners
  kActive,    // takes writes and serves reads
  kDraining,  // serves reads and hands its slots to other members
};

// Where a member whose weight or zone was changed stood before.
struct Standing {
  std::string zone;
  uint32_t weight = 1;
  bool operator==(const Standing&) const = default;
};

struct Member {
  NodeId node_id = {};
  std::string zone;     // a failure domain, by name; the empty name is a zone too
  uint32_t weight = 1;  // 1 .. kMaxWeight: capacity relative to the other members', in any unit
  MemberState state = MemberState::kActive;
  std::optional<Standing> former = {};  // while encodings move because of the change
  bool operator==(const Member&) const = default;
};

// The owners of each slot, as indices into members().
class PlacementTable {
 public:
  // In order of node id. Includes members that own nothing. In a current table, members with a former standing have
  // that.
  const std::vector<Member>& members() const { return *members_; }
  // width() owners. The first ones are in distinct zones.
  absl::Span<const uint16_t> Owners(int slot) const {
    return absl::MakeConstSpan(owners_->data() + static_cast<size_t>(slot) * width_, width_);
  }
  // Owners of each slot: as many as there are copies, or all members that may own slots if they are fewer.
  int width() const { return static_cast<int>(width_); }

 private:
  friend class Placement;
  std::shared_ptr<const std::vector<Member>> members_;
  std::shared_ptr<const std::vector<uint16_t>> owners_;  // kSlots * width_
  size_t width_ = 0;
};

class Placement {
 public:
  // Takes about a tenth of a second for 1,000 members; 128 KiB for each copy. `before`, which may be null, changes the
  // time and not the result: if few members differ from those of one of its tables, a table takes milliseconds, and
  // none at all if no member that may own slots differs. INVALID_ARGUMENT: `copies` is not in [1, kMaxCopies], there
  // are more than kMaxMembers, two have one node id, or a weight is not in [1, kMaxWeight]. If there are no members, or
  // none that may own slots, slots have no owners.
  static absl::StatusOr<Placement> Compute(uint64_t epoch, int copies, std::vector<Member> members,
                                           const Placement* before = nullptr);

  // Identifies the members that this was computed from; a greater epoch is later.
  uint64_t epoch() const { return epoch_; }
  int copies() const { return copies_; }
  const std::vector<Member>& members() const { return next_.members(); }

  // Where encodings are before any slot has moved: ACTIVE and DRAINING members, in their former standing. Readers ask
  // these owners until a slot is filled at its next owners, and may ask both.
  const PlacementTable& current() const { return current_; }
  // Where encodings go: ACTIVE and JOINING members. Writers write here. The same as current() while no member joins,
  // drains or has a former standing.
  const PlacementTable& next() const { return next_; }

  absl::Span<const uint16_t> CurrentOwners(const Identity& identity) const { return current_.Owners(SlotOf(identity)); }
  absl::Span<const uint16_t> NextOwners(const Identity& identity) const { return next_.Owners(SlotOf(identity)); }

 private:
  uint64_t epoch_ = 0;
  int copies_ = 0;
  PlacementTable current_, next_;
};

// The best `count` ACTIVE members that own the slot in neither table, in order of their scores and regardless of zones;
// fewer if there are no more. The first n do not depend on `count`. REQUIRES: `count` is at most kMaxCopies. Takes some
// microseconds for 1,000 members.
std::vector<uint16_t> FurtherMembers(const Placement& placement, int slot, int count);

// One copy of one slot that changes its owner.
struct Move {
  int slot = 0;
  std::optional<uint16_t> added;    // index into to.members(); nullopt: one copy fewer
  std::optional<uint16_t> removed;  // index into from.members(); nullopt: one copy more
};
// Calls `visit` for each move, in ascending order of slots, until it returns false. The tables may have different
// members; the same node id is the same member.
void ForEachMove(const PlacementTable& from, const PlacementTable& to, const std::function<bool(const Move&)>& visit);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_PLACEMENT_H_
