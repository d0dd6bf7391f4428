// A rank of each owner, and within a rank a weighted shuffle: of keys -log(u) / weight the smallest is a member with a
// probability in proportion to its weight (Efraimidis and Spirakis, 2006).
#include "store/cluster/replicas/order.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"

namespace kvlink::store::cluster {
namespace {

// What a node takes at least: of two that answer within it neither is better.
constexpr double kFloorSeconds = 200e-6;

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

Owners OrderOfOwners(const View& view, const Identity& identity, absl::string_view zone,
                     const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random) {
  const absl::Span<const uint16_t> current = view.placement.CurrentOwners(identity);
  const absl::Span<const uint16_t> next = view.placement.NextOwners(identity);
  const std::vector<Member>& members = view.placement.members();
  absl::InlinedVector<std::pair<Rank, uint16_t>, 4> ranked;
  for (const uint16_t member : OwnersOf(view.placement, identity)) {
    const Condition now = condition(member);
    const bool owns_now = absl::c_linear_search(current, member), owns_next = absl::c_linear_search(next, member);
    Rank rank{0, 0};
    if (now.resting) rank.place += 16;
    if (!view.alive(member)) rank.place += 8;
    if (!owns_now) rank.place += 4;
    if (owns_now && !owns_next) rank.place += 2;
    if (members[member].zone != zone) rank.place += 1;
    const double seconds = (absl::ToDoubleSeconds(now.expected) + kFloorSeconds) * (1 + now.under_way);
    rank.chance = -std::log(std::uniform_real_distribution<double>(1e-12, 1)(*random)) * seconds;
    ranked.emplace_back(rank, member);
  }
  absl::c_sort(ranked, [](const auto& a, const auto& b) { return a.first < b.first; });
  Owners owners;
  for (const auto& [rank, member] : ranked) owners.push_back(member);
  return owners;
}

}  // namespace kvlink::store::cluster
