// What does placement cost, how even is it, and what moves? A cluster of 1,000 nodes, half of them with four times the
// weight of the others, and 100 million encodings with random identities.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_common.h"
#include "store/cluster/placement.h"

namespace kvlink::bench {
namespace {

using store::cluster::ForEachMove;
using store::cluster::kSlots;
using store::cluster::Member;
using store::cluster::MemberState;
using store::cluster::Move;
using store::cluster::Placement;
using store::cluster::PlacementTable;

constexpr int kCopies = 2;

Placement Place(uint64_t epoch, std::vector<Member> members, const Placement* before = nullptr) {
  return Must(Placement::Compute(epoch, kCopies, std::move(members), before));
}

Member RandomMember(std::mt19937_64* random, uint32_t weight, int zone) {
  Member member;
  for (uint8_t& byte : member.node_id) byte = static_cast<uint8_t>((*random)());
  member.weight = weight;
  member.zone = absl::StrCat("zone-", zone);
  return member;
}

std::vector<Member> RandomMembers(int count, int zones) {
  std::mt19937_64 random(1);
  std::vector<Member> members;
  for (int i = 0; i < count; ++i) members.push_back(RandomMember(&random, i % 2 == 0 ? 1 : 4, i / 2 % zones));
  return members;
}

std::vector<int64_t> SlotsOwned(const PlacementTable& table) {
  std::vector<int64_t> owned(table.members().size());
  for (int slot = 0; slot < kSlots; ++slot) {
    for (const uint16_t owner : table.Owners(slot)) ++owned[owner];
  }
  return owned;
}

// Looks up the owners of `encodings` random identities; reports how evenly they are spread and how long a lookup takes.
void MeasureBalance(const Placement& placement, int64_t encodings, Report* report) {
  constexpr size_t kBatch = 1 << 16;
  std::mt19937_64 random(2);
  std::vector<Identity> identities(kBatch);
  std::vector<int64_t> owned(placement.members().size());
  double seconds = 0;
  for (int64_t done = 0; done < encodings; done += kBatch) {
    for (Identity& identity : identities) {
      const uint64_t bits = random();
      std::copy_n(reinterpret_cast<const uint8_t*>(&bits), sizeof(bits), identity.bytes.begin());
    }
    const double start = Now();
    for (const Identity& identity : identities) {
      for (const uint16_t owner : placement.NextOwners(identity)) ++owned[owner];
    }
    seconds += Now() - start;
  }
  const double looked_up = std::ceil(static_cast<double>(encodings) / kBatch) * kBatch;
  double total_weight = 0, of_weight[2] = {}, weights[2] = {}, deviation = 0, worst = 0;
  for (const Member& member : placement.members()) total_weight += member.weight;
  for (size_t i = 0; i < owned.size(); ++i) {
    const double weight = placement.members()[i].weight;
    const double off = static_cast<double>(owned[i]) / (looked_up * kCopies * weight / total_weight) - 1;
    of_weight[weight > 1] += static_cast<double>(owned[i]);
    weights[weight > 1] += weight;
    deviation += off * off;
    worst = std::max(worst, std::abs(off));
  }
  for (const int heavy : {0, 1}) {
    const double share = of_weight[heavy] / (looked_up * kCopies * weights[heavy] / total_weight);
    report->Add(heavy == 1 ? "share of the nodes of weight 4, off" : "share of the nodes of weight 1, off",
                100 * std::abs(share - 1), "%", Target{5, true});
  }
  // A share of n slots has the standard deviation sqrt(n).
  double by_chance = 0;
  for (const Member& member : placement.members()) by_chance += total_weight / (kCopies * kSlots * member.weight);
  const auto nodes = static_cast<double>(owned.size());
  report->Add("one node, standard deviation", 100 * std::sqrt(deviation / nodes), "%");
  report->Add("one node, standard deviation by chance", 100 * std::sqrt(by_chance / nodes), "%");
  report->Add("one node, worst", 100 * worst, "%");
  report->Add("lookup", 1e9 * seconds / looked_up, "ns");
}

// The copies of slots that moved, relative to those required by the change of one node.
void MeasureMoves(absl::string_view name, const Placement& from, const Placement& to, int64_t needed, Report* report) {
  int64_t moves = 0;
  ForEachMove(from.next(), to.next(), [&](const Move&) { return ++moves, true; });
  report->Add(absl::StrCat(name, ", moved"), 100.0 * static_cast<double>(moves) / (kSlots * kCopies), "%");
  report->Add(absl::StrCat(name, ", over the minimum"),
              100 * (static_cast<double>(moves) / static_cast<double>(needed) - 1), "%", Target{3, true});
}

void MeasureMovement(const std::vector<Member>& members, const Placement& placement, Report* report) {
  // The members of a placement have their own order.
  const auto owned_by = [](const Placement& by, const Member& member) {
    const auto slots = SlotsOwned(by.next());
    for (size_t i = 0; i < slots.size(); ++i) {
      if (by.members()[i].node_id == member.node_id) return slots[i];
    }
    return int64_t{0};
  };
  std::mt19937_64 random(3);
  std::vector<Member> changed = members;
  changed.push_back(RandomMember(&random, 4, 0));
  const Placement more = Place(2, changed);
  MeasureMoves("a node joins", placement, more, owned_by(more, changed.back()), report);
  const Member gone = members[1];
  changed.assign(members.begin() + 2, members.end());
  changed.push_back(members[0]);
  MeasureMoves("a node leaves", placement, Place(3, changed), owned_by(placement, gone), report);
  changed = members;
  changed[0].weight = 4;
  const Placement heavier = Place(4, changed);
  MeasureMoves("a node weighs 4 in place of 1", placement, heavier,
               owned_by(heavier, changed[0]) - owned_by(placement, changed[0]), report);
}

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(argc, argv, "Measures placement: time of an epoch and a lookup, balance, movement.",
                                  {{"nodes", "N", "Members of the cluster (default 1000)."},
                                   {"millions", "N", "Encodings, in millions (default 100)."}});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  const int nodes = static_cast<int>(std::clamp<int64_t>(flags->GetInt("nodes", 1000), 2, 10000));
  const int64_t encodings = std::clamp<int64_t>(flags->GetInt("millions", 100), 1, 100000) * 1000000;
  Report report("placement");
  const std::vector<Member> members = RandomMembers(nodes, 1);
  const Placement placement = Place(1, members);
  report.Section("an epoch");
  std::vector<Member> joining = members;
  joining[0].state = MemberState::kJoining;
  const std::vector<Member> fewer(members.begin() + 1, members.end());
  const Placement without = Place(1, fewer), filling = Place(2, joining, &without);
  const std::vector<double> seconds =
      Interleave({[&] { Place(1, members); }, [&] { Place(1, joining); }, [&] { Place(1, RandomMembers(nodes, 3)); },
                  [&] { Place(1, RandomMembers(nodes, nodes)); }, [&] { Place(2, joining, &without); },
                  [&] { Place(3, members, &filling); }, [&] { Place(2, fewer, &placement); }},
                 5);
  report.Add("compute", seconds[0], "s", Target{1, true});
  report.Add("compute, a node joins", seconds[1], "s", Target{1, true});
  report.Add("compute, three zones", seconds[2], "s", Target{1, true});
  report.Add("compute, a zone for each two nodes", seconds[3], "s");
  report.Add("compute after the epoch before: a node joins", 1e3 * seconds[4], "ms");
  report.Add("compute after the epoch before: it is active", 1e3 * seconds[5], "ms");
  report.Add("compute after the epoch before: a node leaves", 1e3 * seconds[6], "ms");
  report.Add("table", static_cast<double>(sizeof(uint16_t) * kSlots * placement.next().width()) / (1 << 20), "MiB");
  report.Section("balance");
  MeasureBalance(placement, encodings, &report);
  report.Section("movement");
  MeasureMovement(members, placement, &report);
  report.Section("movement, three zones");
  const std::vector<Member> zoned = RandomMembers(nodes, 3);
  MeasureMovement(zoned, Place(1, zoned), &report);
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
