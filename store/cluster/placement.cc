// Weighted rendezvous hashing in integers, because the logarithms of math libraries differ in their last bits and every
// node and client must compute the same table.
//
// A member gets its share if its score for a slot is an exponential variable with its weight as the rate, and the
// smallest score wins: -ln(y) / weight with y uniform in (0, 1). Two things make this fast, and change no result;
// docs/formats.md defines results without them.
//   - Bounds. A table of 1,000 members takes 65 million scores. Since -ln(y) >= 1 - y, a subtraction and a
//     multiplication rule out most. Of the others, the library's logarithm gives a lower and an upper bound; the exact
//     score is computed only to compare two whose bounds overlap.
//   - Former tables. If none of a slot's owners is gone, a member that did not own the slot does not own it now, since
//     further members only make it harder. So the owners are the best of the former ones and the members added, and
//     only slots that lost an owner are computed from all members. Members that changed their weight or zone are gone
//     and added.
#include "store/cluster/placement.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

using Wide = unsigned __int128;

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
// An upper bound on how far a computed score may fall below (1 - y) / weight: near y = 1 it is a few units too small.
constexpr uint64_t kSlack = 192;
// Upper bounds of the errors of Candidate's bounds: of the library's logarithm, relative; of both logarithms near y =
// 1; and of rounding a score down to 2^-58.
constexpr double kRelative = 0x1p-12, kOfLog = 0x1p-50, kOfScore = 0x1p-57;

uint64_t MultiplyHigh(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64); }

// The finalizer of SplitMix64: a bijection whose output bits all depend on all input bits.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// -ln(y / 2^64) in units of 2^-58, for odd y: k ln 2 and 2 atanh(z) with z = (1 - m) / (1 + m), where y / 2^64 is m /
// 2^k and m in [1/2, 1).
uint64_t NegativeLog(uint64_t y) {
  constexpr uint64_t kLn2 = 0x02C5C85FDF473DE6;  // floor(ln 2 * 2^58)
  const int k = std::countl_zero(y);
  const uint64_t m = y << k;
  // In units of 2^-62; at most 1/3.
  const uint64_t z = static_cast<uint64_t>((static_cast<Wide>(0 - m) << 61) / ((uint64_t{1} << 63) + (m >> 1)));
  const uint64_t square = static_cast<uint64_t>(static_cast<Wide>(z) * z >> 62);
  uint64_t sum = 0;
  uint64_t power = z;
  for (uint64_t odd = 1; power != 0; odd += 2) {
    sum += power / odd;
    power = static_cast<uint64_t>(static_cast<Wide>(power) * square >> 62);
  }
  return static_cast<uint64_t>(k) * kLn2 + (sum >> 3);
}

// A member as the inner loop needs it.
struct Contender {
  Contender(const Member& of, uint16_t index, int of_zone = 0)
      : seed(Xxh3(of.node_id.data(), of.node_id.size())),
        inverse(kNever / of.weight),
        scale(1.0 / of.weight),
        zone(of_zone),
        member(index) {}
  uint64_t YOf(uint64_t salt) const { return Mix(seed ^ salt) | 1; }
  // At most kSlack more than the score, in units of 2^-58, and cheap.
  uint64_t AtLeast(uint64_t y) const { return MultiplyHigh((0 - y) >> 6, inverse); }
  uint64_t seed = 0;     // of its node id
  uint64_t inverse = 0;  // (2^64 - 1) / weight
  double scale = 0;      // 1 / weight
  int zone = 0;
  uint16_t member = 0;
};

// A member's score for a slot. Candidates are compared exactly.
class Candidate {
 public:
  Candidate() = default;
  Candidate(const Contender& one, uint64_t y) : y_(y), inverse_(one.inverse), member_(one.member) {
    const double score = -std::log(static_cast<double>(y) * 0x1p-64) * one.scale;
    const double error = score * kRelative + one.scale * kOfLog + kOfScore;
    low_ = score - error;
    high_ = score + error;
  }
  uint16_t member() const { return member_; }
  // Contender::AtLeast() of a greater value is of a greater score.
  uint64_t limit() const { return static_cast<uint64_t>(high_ * 0x1p58) + kSlack; }
  bool operator<(const Candidate& other) const {
    if (high_ < other.low_) return true;
    if (low_ > other.high_) return false;
    const uint64_t a = Exact(), b = other.Exact();
    return a != b ? a < b : member_ < other.member_;
  }

 private:
  uint64_t Exact() const { return MultiplyHigh(NegativeLog(y_), inverse_); }

  double low_ = 0, high_ = 0;
  uint64_t y_ = 0, inverse_ = 0;
  uint16_t member_ = 0;
};

// The best few candidates, best first.
class Best {
 public:
  explicit Best(int limit) : limit_(limit) {}
  void Clear() { size_ = 0; }
  void Offer(const Candidate& candidate) {
    if (size_ == limit_ && (limit_ == 0 || !(candidate < candidates_[size_ - 1]))) return;
    int at = size_ < limit_ ? size_++ : size_ - 1;
    for (; at > 0 && candidate < candidates_[at - 1]; --at) candidates_[at] = candidates_[at - 1];
    candidates_[at] = candidate;
  }
  // Offer() rejects greater scores.
  uint64_t limit_score() const { return limit_ == 0 ? 0 : size_ < limit_ ? kNever : candidates_[size_ - 1].limit(); }
  absl::Span<const Candidate> candidates() const { return absl::MakeConstSpan(candidates_.data(), size_); }

 private:
  const int limit_;
  int size_ = 0;
  std::array<Candidate, kMaxCopies> candidates_;
};

uint64_t SaltOf(int slot) { return Mix(static_cast<uint64_t>(slot) + 1); }

using Indices = std::vector<uint16_t>;  // of members, ascending

// How the members that may own slots differ from those of a former table.
struct Change {
  static constexpr uint16_t kGone = kMaxMembers;
  Indices now;    // by its former index, each member's index now, or kGone
  Indices added;  // in the list of now
  size_t gone = 0;
  bool renumbered = false;
  size_t size() const { return gone + added.size(); }
};

Change ChangeOf(const std::vector<Member>& former, const Indices& were, const std::vector<Member>& members,
                const Indices& are) {
  Change change{.now = Indices(former.size(), Change::kGone)};
  size_t kept = 0, at = 0;
  for (const uint16_t index : are) {
    const Member& is = members[index];
    while (at < were.size() && former[were[at]].node_id < is.node_id) ++at;
    const Member* const was = at < were.size() ? &former[were[at]] : nullptr;
    if (was == nullptr || was->node_id != is.node_id || was->zone != is.zone || was->weight != is.weight) {
      change.added.push_back(index);
      continue;
    }
    change.now[were[at]] = index;
    change.renumbered |= were[at] != index;
    ++kept;
  }
  change.gone = were.size() - kept;
  return change;
}

class Contest {
 public:
  Contest(const std::vector<Member>& members, const Indices& eligible, int copies)
      : width_(std::min(copies, static_cast<int>(eligible.size()))), where_(members.size()) {
    std::map<std::string, Indices> zones;
    for (const uint16_t index : eligible) zones[members[index].zone].push_back(index);
    for (const auto& [name, in_zone] : zones) {
      for (const uint16_t index : in_zone) {
        where_[index] = contenders_.size();
        contenders_.emplace_back(members[index], index, zones_);
      }
      ++zones_;
    }
  }
  int width() const { return width_; }

  std::vector<uint16_t> Run() const {
    std::vector<uint16_t> owners = Room();
    Bests bests(zones_, width_);
    for (int slot = 0; width_ > 0 && slot < kSlots; ++slot) RunSlot(slot, contenders_, &bests, &owners);
    return owners;
  }

  // As Run().
  std::vector<uint16_t> Follow(const PlacementTable& former, const Change& change) const {
    std::vector<uint16_t> owners = Room();
    Bests bests(zones_, width_);
    std::vector<Contender> few;
    for (int slot = 0; width_ > 0 && slot < kSlots; ++slot) {
      few.clear();
      bool lost = false;
      for (const uint16_t owner : former.Owners(slot)) {
        const uint16_t now = change.now[owner];
        lost |= now == Change::kGone;
        if (!lost) few.push_back(contenders_[where_[now]]);
      }
      if (lost) {
        RunSlot(slot, contenders_, &bests, &owners);
      } else if (change.added.empty()) {
        for (const Contender& one : few) owners.push_back(one.member);
      } else {
        for (const uint16_t one : change.added) few.push_back(contenders_[where_[one]]);
        std::sort(few.begin(), few.end(), [](const Contender& x, const Contender& y) { return x.zone < y.zone; });
        RunSlot(slot, few, &bests, &owners);
      }
    }
    return owners;
  }

 private:
  struct Bests {
    Bests(int zones, int width) : apart(std::min(zones, width)), any(zones < width ? width : 0) {}
    Best apart;  // the best of each zone
    Best any;    // fills up the owners if there are fewer zones
  };

  std::vector<uint16_t> Room() const {
    std::vector<uint16_t> owners;
    owners.reserve(static_cast<size_t>(kSlots) * width_);
    return owners;
  }

  // `contenders` in order of zones.
  void RunSlot(int slot, const std::vector<Contender>& contenders, Bests* bests, std::vector<uint16_t>* owners) const {
    Best &apart = bests->apart, &any = bests->any;
    apart.Clear();
    any.Clear();
    const uint64_t salt = SaltOf(slot);
    int zone = -1;
    std::optional<Candidate> best;  // of this zone
    uint64_t of_others = 0, limit = 0;
    for (const Contender& one : contenders) {
      if (one.zone != zone) {
        if (best.has_value()) apart.Offer(*best);
        best.reset();
        zone = one.zone;
        of_others = apart.limit_score();
        limit = std::max(of_others, any.limit_score());
      }
      const uint64_t y = one.YOf(salt);
      if (one.AtLeast(y) > limit) continue;
      const Candidate candidate(one, y);
      any.Offer(candidate);
      if (!best.has_value() || candidate < *best) best = candidate;
      limit = std::max(std::min(of_others, best->limit()), any.limit_score());
    }
    if (best.has_value()) apart.Offer(*best);
    AppendOwners(apart, any, owners);
  }

  void AppendOwners(const Best& apart, const Best& any, std::vector<uint16_t>* owners) const {
    const size_t begin = owners->size();
    for (const Candidate& one : apart.candidates()) owners->push_back(one.member());
    const size_t chosen = owners->size();
    for (const Candidate& one : any.candidates()) {
      if (owners->size() - begin == static_cast<size_t>(width_)) break;
      if (std::find(owners->begin() + begin, owners->begin() + chosen, one.member()) == owners->begin() + chosen) {
        owners->push_back(one.member());
      }
    }
  }

  const int width_;
  int zones_ = 0;
  std::vector<Contender> contenders_;  // in order of zones
  std::vector<size_t> where_;          // in contenders_, by member
};

Indices AllBut(MemberState state, const std::vector<Member>& members) {
  Indices found;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].state != state) found.push_back(static_cast<uint16_t>(i));
  }
  return found;
}

std::string Show(const NodeId& id) { return absl::BytesToHexString(BytesOf(id)); }

// As they stood before.
std::vector<Member> Former(std::vector<Member> members) {
  for (Member& member : members) {
    if (!member.former.has_value()) continue;
    member.zone = member.former->zone;
    member.weight = member.former->weight;
    member.former.reset();
  }
  return members;
}

absl::Status Validate(int copies, const std::vector<Member>& members) {
  if (copies < 1 || copies > kMaxCopies) {
    return absl::InvalidArgumentError(absl::StrCat("placement: ", copies, " copies; choose 1 to ", kMaxCopies));
  }
  if (members.size() > kMaxMembers) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement: ", members.size(), " members; a cluster has at most ", kMaxMembers));
  }
  for (size_t i = 0; i < members.size(); ++i) {
    for (const uint32_t weight :
         {members[i].weight, members[i].former.has_value() ? members[i].former->weight : members[i].weight}) {
      if (weight >= 1 && weight <= kMaxWeight) continue;
      return absl::InvalidArgumentError(absl::StrCat("placement: member ", Show(members[i].node_id), " has the weight ",
                                                     weight, "; choose 1 to ", kMaxWeight));
    }
    if (i > 0 && members[i].node_id == members[i - 1].node_id) {
      return absl::InvalidArgumentError(absl::StrCat("placement: two members are ", Show(members[i].node_id),
                                                     "; remove one of them, or give its node a new identity"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> Placement::Compute(uint64_t epoch, int copies, std::vector<Member> members,
                                             const Placement* before) {
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.node_id < b.node_id; });
  KVLINK_RETURN_IF_ERROR(Validate(copies, members));
  Placement placement;
  placement.epoch_ = epoch;
  placement.copies_ = copies;
  const bool stands_anew =
      std::any_of(members.begin(), members.end(), [](const Member& one) { return one.former.has_value(); });
  auto former = stands_anew ? std::make_shared<const std::vector<Member>>(Former(members)) : nullptr;
  const auto latter = std::make_shared<const std::vector<Member>>(std::move(members));
  if (former == nullptr) former = latter;
  // Those from which another may follow, and which members may own slots in them.
  std::vector<std::pair<const PlacementTable*, Indices>> known;
  if (before != nullptr && before->copies_ == copies) {
    known.emplace_back(&before->next_, AllBut(MemberState::kDraining, before->members()));
    known.emplace_back(&before->current_, AllBut(MemberState::kJoining, before->members()));
  }
  const auto make = [&](MemberState but, const std::shared_ptr<const std::vector<Member>>& shared,
                        PlacementTable* made) {
    Indices eligible = AllBut(but, *shared);
    const PlacementTable* from = nullptr;
    Change change;
    for (const auto& [table, were] : known) {
      Change one = ChangeOf(table->members(), were, *shared, eligible);
      if (one.size() >= (from == nullptr ? eligible.size() : change.size())) continue;
      from = table;
      change = std::move(one);
    }
    made->members_ = shared;
    const Contest contest(*shared, eligible, copies);
    made->width_ = static_cast<size_t>(contest.width());
    if (from != nullptr && change.size() == 0 && !change.renumbered) {
      made->owners_ = from->owners_;
    } else {
      made->owners_ = std::make_shared<const std::vector<uint16_t>>(from != nullptr ? contest.Follow(*from, change)
                                                                                    : contest.Run());
    }
    known.emplace_back(made, std::move(eligible));
  };
  make(MemberState::kDraining, latter, &placement.next_);
  make(MemberState::kJoining, former, &placement.current_);
  return placement;
}

std::vector<uint16_t> FurtherMembers(const Placement& placement, int slot, int count) {
  const std::vector<Member>& members = placement.members();
  const auto owns = [slot](const PlacementTable& table, uint16_t member) {
    const absl::Span<const uint16_t> owners = table.Owners(slot);
    return std::find(owners.begin(), owners.end(), member) != owners.end();
  };
  const uint64_t salt = SaltOf(slot);
  Best best(count);
  for (size_t i = 0; i < members.size(); ++i) {
    const auto member = static_cast<uint16_t>(i);
    if (members[i].state != MemberState::kActive || owns(placement.current(), member) ||
        owns(placement.next(), member)) {
      continue;
    }
    const Contender one(members[i], member);
    best.Offer(Candidate(one, one.YOf(salt)));
  }
  std::vector<uint16_t> further;
  for (const Candidate& one : best.candidates()) further.push_back(one.member());
  return further;
}

void ForEachMove(const PlacementTable& from, const PlacementTable& to, const std::function<bool(const Move&)>& visit) {
  // The index in `to` of each member of `from`. Both lists are in order of node id.
  std::vector<std::optional<uint16_t>> there(from.members().size());
  for (size_t i = 0, j = 0; i < from.members().size(); ++i) {
    while (j < to.members().size() && to.members()[j].node_id < from.members()[i].node_id) ++j;
    if (j < to.members().size() && to.members()[j].node_id == from.members()[i].node_id) {
      there[i] = static_cast<uint16_t>(j);
    }
  }
  std::vector<uint16_t> added, removed, kept;
  for (int slot = 0; slot < kSlots; ++slot) {
    added.clear(), removed.clear(), kept.clear();
    const absl::Span<const uint16_t> wanted = to.Owners(slot);
    for (const uint16_t owner : from.Owners(slot)) {
      const bool stays =
          there[owner].has_value() && std::find(wanted.begin(), wanted.end(), *there[owner]) != wanted.end();
      if (stays) kept.push_back(*there[owner]);
      if (!stays) removed.push_back(owner);
    }
    for (const uint16_t owner : wanted) {
      if (std::find(kept.begin(), kept.end(), owner) == kept.end()) added.push_back(owner);
    }
    for (size_t i = 0; i < std::max(added.size(), removed.size()); ++i) {
      Move move{slot, std::nullopt, std::nullopt};
      if (i < added.size()) move.added = added[i];
      if (i < removed.size()) move.removed = removed[i];
      if (!visit(move)) return;
    }
  }
}

}  // namespace kvlink::store::cluster
