// Weighted rendezvous hashing in integers, because the logarithms of math libraries differ in their last bits and every
// node and client must compute the same table.
//
// A member gets its share if its score for a slot is an exponential variable with its weight as the rate, and the
// smallest score wins: -ln(y) / weight with y uniform in (0, 1). A table of 1,000 members takes 65 million scores.
// Since -ln(y) >= 1 - y, a subtraction and a multiplication rule out most of them: only scores that may be among the
// best so far need the logarithm. This changes no result; docs/formats.md defines results without it.
#include "store/cluster/placement.h"

#include <algorithm>
#include <bit>
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
// An upper bound on how far the computed logarithm may fall below 1 - y: near y = 1 it is a few units too small.
constexpr uint64_t kSlack = 128;

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

struct Candidate {
  uint64_t score = kNever;
  uint16_t member = 0;
  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : member < other.member;
  }
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
  uint64_t limit_score() const { return limit_ == 0 ? 0 : size_ < limit_ ? kNever : candidates_[size_ - 1].score; }
  absl::Span<const Candidate> candidates() const { return absl::MakeConstSpan(candidates_.data(), size_); }

 private:
  const int limit_;
  int size_ = 0;
  std::array<Candidate, kMaxCopies> candidates_;
};

// A member as the inner loop needs it.
struct Contender {
  Contender(const Member& of, uint16_t index)
      : seed(Xxh3(of.node_id.data(), of.node_id.size())), inverse(kNever / of.weight), member(index) {}
  uint64_t seed = 0;     // of its node id
  uint64_t inverse = 0;  // (2^64 - 1) / weight
  uint16_t member = 0;
};

uint64_t SaltOf(int slot) { return Mix(static_cast<uint64_t>(slot) + 1); }

class Contest {
 public:
  Contest(const std::vector<Member>& members, const std::vector<uint16_t>& eligible, int copies)
      : width_(std::min(copies, static_cast<int>(eligible.size()))) {
    std::map<std::string, std::vector<Contender>> zones;
    for (const uint16_t index : eligible) {
      zones[members[index].zone].emplace_back(members[index], index);
    }
    for (auto& [name, contenders] : zones) zones_.push_back(std::move(contenders));
  }

  std::vector<uint16_t> Run() const {
    std::vector<uint16_t> owners;
    owners.reserve(static_cast<size_t>(kSlots) * width_);
    const int zones = std::min(width_, static_cast<int>(zones_.size()));
    Best apart(zones);                      // the best of each zone
    Best any(zones < width_ ? width_ : 0);  // fills up the owners if there are fewer zones
    for (int slot = 0; width_ > 0 && slot < kSlots; ++slot) {
      apart.Clear();
      any.Clear();
      const uint64_t salt = SaltOf(slot);
      for (const auto& zone : zones_) RunZone(zone, salt, &apart, &any);
      AppendOwners(apart, any, &owners);
    }
    return owners;
  }
  int width() const { return width_; }

 private:
  static void RunZone(const std::vector<Contender>& zone, uint64_t salt, Best* apart, Best* any) {
    const uint64_t of_others = apart->limit_score();
    std::optional<Candidate> best;
    uint64_t limit = std::max(of_others, any->limit_score());
    for (const Contender& one : zone) {
      const uint64_t y = Mix(one.seed ^ salt) | 1;
      const uint64_t at_least = MultiplyHigh((0 - y) >> 6, one.inverse);
      if (at_least > limit && at_least - limit > kSlack) continue;
      const Candidate candidate{MultiplyHigh(NegativeLog(y), one.inverse), one.member};
      any->Offer(candidate);
      if (!best.has_value() || candidate < *best) best = candidate;
      limit = std::max(std::min(of_others, best->score), any->limit_score());
    }
    if (best.has_value()) apart->Offer(*best);
  }

  void AppendOwners(const Best& apart, const Best& any, std::vector<uint16_t>* owners) const {
    const size_t begin = owners->size();
    for (const Candidate& one : apart.candidates()) owners->push_back(one.member);
    const size_t chosen = owners->size();
    for (const Candidate& one : any.candidates()) {
      if (owners->size() - begin == static_cast<size_t>(width_)) break;
      if (std::find(owners->begin() + begin, owners->begin() + chosen, one.member) == owners->begin() + chosen) {
        owners->push_back(one.member);
      }
    }
  }

  const int width_;
  std::vector<std::vector<Contender>> zones_;
};

std::string Show(const NodeId& id) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(id.data()), id.size()));
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
    if (members[i].weight < 1 || members[i].weight > kMaxWeight) {
      return absl::InvalidArgumentError(absl::StrCat("placement: member ", Show(members[i].node_id), " has the weight ",
                                                     members[i].weight, "; choose 1 to ", kMaxWeight));
    }
    if (i > 0 && members[i].node_id == members[i - 1].node_id) {
      return absl::InvalidArgumentError(absl::StrCat("placement: two members are ", Show(members[i].node_id),
                                                     "; remove one of them, or give its node a new identity"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> Placement::Compute(uint64_t epoch, int copies, std::vector<Member> members) {
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.node_id < b.node_id; });
  KVLINK_RETURN_IF_ERROR(Validate(copies, members));
  std::vector<uint16_t> before, after;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].state != MemberState::kJoining) before.push_back(static_cast<uint16_t>(i));
    if (members[i].state != MemberState::kDraining) after.push_back(static_cast<uint16_t>(i));
  }
  Placement placement;
  placement.epoch_ = epoch;
  placement.copies_ = copies;
  const auto shared = std::make_shared<const std::vector<Member>>(std::move(members));
  const auto table = [&](const std::vector<uint16_t>& eligible) {
    const Contest contest(*shared, eligible, copies);
    PlacementTable made;
    made.members_ = shared;
    made.width_ = static_cast<size_t>(contest.width());
    made.owners_ = std::make_shared<const std::vector<uint16_t>>(contest.Run());
    return made;
  };
  placement.next_ = table(after);
  placement.current_ = before == after ? placement.next_ : table(before);
  return placement;
}

std::vector<uint16_t> FurtherMembers(const Placement& placement, int slot, int count) {
  const std::vector<Member>& members = placement.members();
  const auto owns = [slot](const PlacementTable& table, uint16_t member) {
    const absl::Span<const uint16_t> owners = table.Owners(slot);
    return std::find(owners.begin(), owners.end(), member) != owners.end();
  };
  Best best(count);
  for (size_t i = 0; i < members.size(); ++i) {
    const auto member = static_cast<uint16_t>(i);
    if (members[i].state != MemberState::kActive || owns(placement.current(), member) ||
        owns(placement.next(), member)) {
      continue;
    }
    const Contender one(members[i], member);
    best.Offer({MultiplyHigh(NegativeLog(Mix(one.seed ^ SaltOf(slot)) | 1), one.inverse), member});
  }
  std::vector<uint16_t> further;
  for (const Candidate& one : best.candidates()) further.push_back(one.member);
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
