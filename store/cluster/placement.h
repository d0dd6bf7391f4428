// Which nodes of a cluster own an encoding: a pure function of the members, computed once for each epoch and then
// looked up (docs/formats.md "Placement").
//
// An identity falls into one of 65,536 slots by its first two bytes; identities are SHA-256, so slots fill evenly. The
// owners of a slot are the best members by weighted rendezvous hashing: a member owns slots in proportion to its
// weight, and a change of one member moves only what that member gains or loses. Where members are in several zones, a
// slot has an owner in as many zones as there are, or as there are copies.
//
// What a member owns deviates from its share by chance and by arithmetic. Slots are whole: of a share of n slots the
// standard deviation is sqrt(n), which with 1,000 equal members and two copies is 131 +- 11. And a member holds a slot
// once: one that weighs more than a few hundredths of the cluster owns less than its weight says, the others more.
//
// Every build on every machine computes the same tables from the same members, in whatever order they are given.
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
  kJoining,   // takes writes of its slots, and is being filled; who reads may have to ask the owners before it
  kActive,    // takes writes and serves reads
  kDraining,  // serves reads, and hands its slots to others
};

struct Member {
  NodeId node_id = {};
  std::string zone;     // a failure domain; those of one name are one zone, the empty name too
  uint32_t weight = 1;  // 1 .. kMaxWeight, relative to the others': capacity, in whatever unit
  MemberState state = MemberState::kActive;
  bool operator==(const Member&) const = default;
};

// The owners of each slot, as indices into members().
class PlacementTable {
 public:
  // In order of node id. Includes members that own nothing.
  const std::vector<Member>& members() const { return *members_; }
  // As many as there are copies, or members that may own something where those are fewer (then every slot has all of
  // them). The first ones are in zones of their own.
  absl::Span<const uint16_t> Owners(int slot) const {
    return absl::MakeConstSpan(owners_->data() + static_cast<size_t>(slot) * width_, width_);
  }
  // Owners of one slot.
  int width() const { return static_cast<int>(width_); }

 private:
  friend class Placement;
  std::shared_ptr<const std::vector<Member>> members_;
  std::shared_ptr<const std::vector<uint16_t>> owners_;  // kSlots * width_
  size_t width_ = 0;
};

class Placement {
 public:
  // Takes about a tenth of a second for 1,000 members, twice that while one joins or drains; 128 KiB for each copy.
  // INVALID_ARGUMENT: `copies` is not in [1, kMaxCopies], there are more than kMaxMembers, two have one node id, or a
  // weight is not in [1, kMaxWeight]. No members, or none that may own anything, is not an error: slots then have no
  // owners.
  static absl::StatusOr<Placement> Compute(uint64_t epoch, int copies, std::vector<Member> members);

  // Of the members that this was computed from. Only the same epoch means the same members; a greater one is later.
  uint64_t epoch() const { return epoch_; }
  int copies() const { return copies_; }
  const std::vector<Member>& members() const { return next_.members(); }

  // Where encodings are before any slot has moved: ACTIVE and DRAINING members. Who reads asks these owners until a
  // slot is filled at its next owners, and may ask both.
  const PlacementTable& current() const { return current_; }
  // Where encodings go: ACTIVE and JOINING members. Who writes writes here. The same as current() where no member
  // joins or drains.
  const PlacementTable& next() const { return next_; }

  absl::Span<const uint16_t> CurrentOwners(const Identity& identity) const { return current_.Owners(SlotOf(identity)); }
  absl::Span<const uint16_t> NextOwners(const Identity& identity) const { return next_.Owners(SlotOf(identity)); }

 private:
  uint64_t epoch_ = 0;
  int copies_ = 0;
  PlacementTable current_, next_;
};

// The best `count` ACTIVE members that own nothing of the slot, now or next, in the order of their scores, zones aside;
// fewer if there are no more. The first n do not depend on `count`. REQUIRES: at most kMaxCopies. Takes some
// microseconds for 1,000 members.
std::vector<uint16_t> FurtherMembers(const Placement& placement, int slot, int count);

// One copy of one slot that changes its owner.
struct Move {
  int slot = 0;
  std::optional<uint16_t> added;    // index into to.members(); nothing: a copy less
  std::optional<uint16_t> removed;  // index into from.members(); nothing: a copy more
};
// Calls `visit` for each, by ascending slot, until it returns false. The tables may be of different members; who has
// the same node id in both is the same member.
void ForEachMove(const PlacementTable& from, const PlacementTable& to, const std::function<bool(const Move&)>& visit);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_PLACEMENT_H_
