// Ranks the owners, with a weighted shuffle within each rank: of keys -log(u) / weight, the smallest belongs to a
// member with a probability proportional to its weight (Efraimidis and Spirakis, 2006).
#include "store/cluster/replicas/order.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"

namespace kvlink::store::cluster {
namespace {

// The minimum time of a request: of two nodes that answer faster, neither is better.
constexpr double kFloorSeconds = 200e-6;

double SecondsAt(const Condition& condition) {
  return (absl::ToDoubleSeconds(condition.expected) + kFloorSeconds) * (1 + condition.under_way);
}

// Smaller is better.
struct Rank {
  int place;
  double chance;
  bool operator<(const Rank& other) const { return place != other.place ? place < other.place : chance < other.chance; }
};

}  // namespace

Owners OwnersOf(const Placement& placement, const Identity& identity) {
  const absl::Span<const uint16_t> current = placement.CurrentOwners(identity), next = placement.NextOwners(identity);
  Owners owners;
  for (const uint16_t member : current) {
    if (absl::c_linear_search(next, member)) owners.push_back(member);
  }
  for (const absl::Span<const uint16_t> some : {current, next}) {
    for (const uint16_t member : some) {
      if (!absl::c_linear_search(owners, member)) owners.push_back(member);
    }
  }
  return owners;
}

Owners HoldersOf(const View& view, const Identity& identity) {
  Owners holders = OwnersOf(view.placement, identity);
  for (const uint16_t member : view.FurtherHolders(identity)) {
    if (!absl::c_linear_search(holders, member)) holders.push_back(member);
  }
  return holders;
}

Owners OrderOfOwners(const View& view, const Identity& identity, absl::string_view zone,
                     const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random, int* equals) {
  const absl::Span<const uint16_t> current = view.placement.CurrentOwners(identity);
  const absl::Span<const uint16_t> next = view.placement.NextOwners(identity);
  const std::vector<Member>& members = view.placement.members();
  absl::InlinedVector<std::pair<Rank, uint16_t>, 4> ranked;
  const Owners all = HoldersOf(view, identity);
  if (all.size() < 2) {
    if (equals != nullptr) *equals = static_cast<int>(all.size());
    return all;
  }
  for (const uint16_t member : all) {
    const Condition now = condition(member);
    const bool owns_now = absl::c_linear_search(current, member), owns_next = absl::c_linear_search(next, member);
    Rank rank{0, 0};
    if (now.resting) rank.place += 16;
    if (!view.alive(member)) rank.place += 8;
    if (owns_next && !owns_now) rank.place += 4;
    if (owns_now && !owns_next) rank.place += 2;
    if (members[member].zone != zone) rank.place += 1;
    rank.chance = -std::log(std::uniform_real_distribution<double>(1e-12, 1)(*random)) * SecondsAt(now);
    ranked.emplace_back(rank, member);
  }
  absl::c_sort(ranked, [](const auto& a, const auto& b) { return a.first < b.first; });
  Owners owners;
  for (const auto& [rank, member] : ranked) owners.push_back(member);
  if (equals != nullptr) {
    *equals = static_cast<int>(
        absl::c_count_if(ranked, [&](const auto& one) { return one.first.place == ranked[0].first.place; }));
  }
  return owners;
}

void AskFewNodes(std::vector<Owners>* orders, absl::Span<const int> equals,
                 const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random) {
  if (absl::c_all_of(equals, [](int equal) { return equal < 2; })) return;
  struct Candidate {
    double worth = 0;  // value of asking the member for one encoding
    int orders = 0;    // remaining orders that it may come first in
  };
  std::vector<Candidate> candidates;  // indexed by member
  std::vector<uint16_t> members;      // the candidates
  std::vector<size_t> left;
  for (size_t i = 0; i < orders->size(); ++i) {
    for (const uint16_t member : absl::MakeConstSpan((*orders)[i]).first(equals[i])) {
      if (member >= candidates.size()) candidates.resize(member + 1);
      if (candidates[member].orders++ > 0) continue;
      candidates[member].worth =
          std::uniform_real_distribution<double>(0.75, 1)(*random) / SecondsAt(condition(member));
      members.push_back(member);
    }
    if (equals[i] > 0) left.push_back(i);
  }
  const auto gain = [&](uint16_t member) { return candidates[member].worth * candidates[member].orders; };
  while (!left.empty()) {
    const uint16_t best = *absl::c_max_element(members, [&](uint16_t a, uint16_t b) { return gain(a) < gain(b); });
    const auto served = [&](size_t i) {
      Owners& order = (*orders)[i];
      const auto end = order.begin() + equals[i], at = std::find(order.begin(), end, best);
      if (at == end) return false;
      std::for_each(order.begin(), end, [&](uint16_t member) { --candidates[member].orders; });
      std::rotate(order.begin(), at, at + 1);
      return true;
    };
    std::erase_if(left, served);
  }
}

}  // namespace kvlink::store::cluster
