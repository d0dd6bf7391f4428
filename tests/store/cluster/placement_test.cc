// Placement: shares by weight, moves when members change, zones, and equality of tables everywhere.
#include "store/cluster/placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"

namespace kvlink::store::cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

NodeId IdOf(int number) {
  NodeId id;
  const std::array<uint8_t, 32> digest = [number] {
    Sha256 hash;
    hash.Update(absl::StrCat("node ", number));
    return hash.Finish();
  }();
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

// The first half of the members weigh 1, the others `heavy`; zones alternate.
std::vector<Member> Members(int count, uint32_t heavy = 1, int zones = 1) {
  std::vector<Member> members;
  for (int i = 0; i < count; ++i) {
    members.push_back({IdOf(i), absl::StrCat("zone-", i % zones), i < count / 2 ? 1 : heavy, MemberState::kActive});
  }
  return members;
}

Placement Place(std::vector<Member> members, int copies) {
  auto placement = Placement::Compute(1, copies, std::move(members));
  EXPECT_TRUE(placement.ok()) << placement.status();
  return *std::move(placement);
}

// How many copies of slots each member owns.
std::map<NodeId, int> Owned(const PlacementTable& table) {
  std::map<NodeId, int> owned;
  for (const Member& member : table.members()) owned[member.node_id] = 0;
  for (int slot = 0; slot < kSlots; ++slot) {
    for (const uint16_t owner : table.Owners(slot)) ++owned[table.members()[owner].node_id];
  }
  return owned;
}

int CountMoves(const PlacementTable& from, const PlacementTable& to) {
  int moves = 0;
  ForEachMove(from, to, [&](const Move&) { return ++moves, true; });
  return moves;
}

TEST(PlacementTest, SharesFollowWeights) {
  const std::vector<Member> members = Members(1000, 4);
  const Placement placement = Place(members, 2);
  const auto owned = Owned(placement.next());
  const double per_weight = 2.0 * kSlots / 2500;
  std::map<uint32_t, double> of_weight;
  double deviation = 0;
  for (const Member& member : members) {
    const double expected = per_weight * member.weight, off = owned.at(member.node_id) - expected;
    of_weight[member.weight] += owned.at(member.node_id);
    EXPECT_LT(std::abs(off), 5 * std::sqrt(expected)) << "weight " << member.weight;
    deviation += off * off / expected;
  }
  EXPECT_NEAR(of_weight[1] / (500 * per_weight), 1, 0.05);
  EXPECT_NEAR(of_weight[4] / (2000 * per_weight), 1, 0.05);
  // Shares deviate no more than by chance.
  EXPECT_NEAR(deviation / static_cast<double>(members.size()), 1, 0.15);
}

TEST(PlacementTest, SharesOfFewMembersAreWithinFivePercent) {
  const std::vector<Member> members = Members(20, 4);
  const auto owned = Owned(Place(members, 1).next());
  for (const Member& member : members) {
    EXPECT_NEAR(owned.at(member.node_id) / (member.weight * kSlots / 50.0), 1, 0.05 * (member.weight == 1 ? 2 : 1));
  }
}

// Only what the changed member gains or loses moves, and nothing moves between others.
TEST(PlacementTest, ChangeMovesMinimum) {
  const std::vector<Member> members = Members(200, 4);
  const Placement before = Place(members, 3);
  auto owned = Owned(before.next());

  std::vector<Member> more = members;
  more.push_back({IdOf(1000), "zone-0", 2, MemberState::kActive});
  const Placement added = Place(more, 3);
  const int gained = Owned(added.next())[IdOf(1000)];
  EXPECT_NEAR(gained, 3.0 * kSlots * 2 / 502, 5 * std::sqrt(gained));
  EXPECT_EQ(CountMoves(before.next(), added.next()), gained);

  std::vector<Member> fewer = members;
  fewer.erase(fewer.begin() + 150);
  EXPECT_EQ(CountMoves(before.next(), Place(fewer, 3).next()), owned[IdOf(150)]);

  std::vector<Member> changed = members;
  changed[10].weight = 3;
  const Placement heavier = Place(changed, 3);
  const int grown = Owned(heavier.next())[IdOf(10)] - owned[IdOf(10)];
  EXPECT_NEAR(grown, 3.0 * kSlots * 2 / 502, 5 * std::sqrt(grown));
  EXPECT_EQ(CountMoves(before.next(), heavier.next()), grown);
}

TEST(PlacementTest, SeparatesZones) {
  const Placement three = Place(Members(30, 4, 3), 3), two = Place(Members(30, 1, 2), 5);
  for (int slot = 0; slot < kSlots; ++slot) {
    std::set<std::string> zones;
    for (const uint16_t owner : three.next().Owners(slot)) zones.insert(three.members()[owner].zone);
    ASSERT_EQ(zones.size(), 3u) << slot;
    const auto owners = two.next().Owners(slot);
    ASSERT_NE(two.members()[owners[0]].zone, two.members()[owners[1]].zone) << slot;
    ASSERT_EQ(std::set<uint16_t>(owners.begin(), owners.end()).size(), 5u) << slot;
  }
}

// Removing a zone moves only the copies that were in it.
TEST(PlacementTest, RemovesZone) {
  const std::vector<Member> members = Members(30, 1, 3);
  std::vector<Member> left;
  for (const Member& member : members) {
    if (member.zone != "zone-1") left.push_back(member);
  }
  const Placement before = Place(members, 3), after = Place(left, 3);
  int moves = 0;
  ForEachMove(before.next(), after.next(), [&](const Move& move) {
    EXPECT_EQ(before.members()[*move.removed].zone, "zone-1");
    EXPECT_TRUE(move.added.has_value());
    return ++moves, true;
  });
  EXPECT_EQ(moves, kSlots);
}

TEST(PlacementTest, MoreCopiesThanMembers) {
  const Placement placement = Place(Members(2), 5);
  EXPECT_EQ(placement.next().width(), 2);
  EXPECT_EQ(placement.copies(), 5);
  for (int slot = 0; slot < kSlots; ++slot) {
    const auto owners = placement.next().Owners(slot);
    ASSERT_EQ(owners[0] + owners[1], 1);
  }
  // A third member adds one copy of each slot.
  int added = 0;
  const Placement three = Place(Members(3), 5);
  ForEachMove(placement.next(), three.next(), [&](const Move& move) {
    EXPECT_EQ(three.members()[*move.added].node_id, IdOf(2));
    EXPECT_FALSE(move.removed.has_value());
    return ++added, true;
  });
  EXPECT_EQ(added, kSlots);
  EXPECT_TRUE(Place({}, 2).next().Owners(7).empty());
}

TEST(PlacementTest, StopsVisitingMoves) {
  int moves = 0;
  ForEachMove(Place({}, 1).next(), Place(Members(1), 1).next(), [&](const Move& move) {
    EXPECT_EQ(move.slot, moves);
    return ++moves < 3;
  });
  EXPECT_EQ(moves, 3);
}

// A joining member is only in the next table, a draining one only in the current table.
TEST(PlacementTest, JoiningAndDraining) {
  std::vector<Member> members = Members(10);
  members[3].state = MemberState::kJoining;
  members[7].state = MemberState::kDraining;
  const Placement placement = Place(members, 2);
  auto now = Owned(placement.current()), next = Owned(placement.next());
  EXPECT_EQ(now[IdOf(3)], 0);
  EXPECT_GT(now[IdOf(7)], 0);
  EXPECT_GT(next[IdOf(3)], 0);
  EXPECT_EQ(next[IdOf(7)], 0);
  ForEachMove(placement.current(), placement.next(), [&](const Move& move) {
    const bool to_joining = placement.members()[*move.added].node_id == IdOf(3);
    const bool from_draining = placement.members()[*move.removed].node_id == IdOf(7);
    EXPECT_TRUE(to_joining || from_draining);
    return true;
  });

  members[3].state = members[7].state = MemberState::kActive;
  const Placement settled = Place(members, 2);
  EXPECT_EQ(CountMoves(settled.current(), settled.next()), 0);
}

// A changed member counts in the current table as before, and in the next one as it is.
TEST(PlacementTest, FormerStanding) {
  std::vector<Member> members = Members(10);
  const Placement before = Place(members, 2);
  const Standing third{members[3].zone, members[3].weight}, sixth{members[6].zone, members[6].weight};
  members[3].weight *= 4;
  members[6].zone = "elsewhere";
  const Placement at_once = Place(members, 2);
  members[3].former = third;
  members[6].former = sixth;
  const Placement moving = Place(members, 2);
  EXPECT_EQ(CountMoves(moving.current(), before.current()), 0);
  EXPECT_EQ(CountMoves(moving.next(), at_once.next()), 0);
  EXPECT_GT(CountMoves(moving.current(), moving.next()), 0);
  EXPECT_EQ(moving.current().members(), before.members());
}

TEST(PlacementTest, SlotsComeFromTheFirstBytes) {
  Identity identity;
  identity.bytes[0] = 0x12;
  identity.bytes[1] = 0x34;
  EXPECT_EQ(SlotOf(identity), 0x1234);
  const Placement placement = Place(Members(10), 2);
  EXPECT_EQ(placement.NextOwners(identity), placement.next().Owners(0x1234));
  EXPECT_EQ(placement.CurrentOwners(identity), placement.next().Owners(0x1234));
}

TEST(PlacementTest, IgnoresOrderOfMembers) {
  std::vector<Member> members = Members(50, 4, 4);
  const Placement first = Place(members, 3);
  std::shuffle(members.begin(), members.end(), std::mt19937_64(1));
  const Placement second = Place(members, 3);
  EXPECT_EQ(CountMoves(first.next(), second.next()), 0);
  for (int slot = 0; slot < kSlots; ++slot) ASSERT_EQ(first.next().Owners(slot), second.next().Owners(slot));
}

// Computes owners literally as docs/formats.md "Placement" says, with libm's logarithm and no shortcuts.
std::vector<uint16_t> OwnersByTheBook(const std::vector<Member>& sorted, int slot, size_t copies) {
  const auto mix = [](uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  };
  std::vector<long double> scores;
  for (const Member& member : sorted) {
    const uint64_t y = mix(Xxh3(member.node_id.data(), 16) ^ mix(static_cast<uint64_t>(slot) + 1)) | 1;
    scores.push_back(-std::log(static_cast<long double>(y) / 18446744073709551616.0L) / member.weight);
  }
  std::vector<uint16_t> order(sorted.size());
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) { return scores[a] < scores[b]; });
  std::vector<uint16_t> owners;
  std::set<std::string> zones;
  for (const uint16_t index : order) {
    if (owners.size() < copies && zones.insert(sorted[index].zone).second) owners.push_back(index);
  }
  for (const uint16_t index : order) {
    if (owners.size() < copies && std::find(owners.begin(), owners.end(), index) == owners.end()) {
      owners.push_back(index);
    }
  }
  return owners;
}

TEST(PlacementTest, TableMatchesFormat) {
  for (const int zones : {1, 2, 3, 7, 40}) {
    std::vector<Member> members = Members(40, 1000, zones);
    // One member weighs next to nothing and has a zone of its own.
    members[20].weight = 1;
    members[20].zone = "alone";
    const Placement placement = Place(members, 3);
    for (int slot = 0; slot < kSlots; slot += 7) {
      const auto owners = placement.next().Owners(slot);
      ASSERT_EQ(std::vector<uint16_t>(owners.begin(), owners.end()), OwnersByTheBook(placement.members(), slot, 3))
          << "slot " << slot << ", zones " << zones;
    }
  }
}

// What follows from a former placement is what would be computed without it.
TEST(PlacementTest, IgnoresFormerPlacement) {
  std::mt19937_64 random(testing::TestSeed());
  const auto any = [&random](uint64_t below) { return static_cast<int>(random() % below); };
  for (int run = 0; run < (testing::kSanitized ? 1 : 4); ++run) {
    int copies = 1 + any(4);
    const int zones = 1 + any(5);
    int named = 0;
    const auto fresh = [&] {
      return Member{IdOf(run * 1000 + named++), absl::StrCat("zone-", any(zones)), 1u + any(4),
                    static_cast<MemberState>(any(3))};
    };
    std::vector<Member> members;
    Placement before = Place(members, copies);
    for (int step = 0; step < 25; ++step) {
      // Mostly one change at a time, as in a cluster.
      for (int changes = 1 + any(4) / 3 * any(4); changes > 0; --changes) {
        const int what = members.size() < 3 ? 0 : any(9);
        Member* const one = what < 2 ? nullptr : &members[any(members.size())];
        if (what < 2) members.insert(members.begin() + any(members.size() + 1), fresh());
        if (what == 2) members.erase(members.begin() + any(members.size()));
        if (what == 3) one->weight = 1u + any(4);
        if (what == 4) one->zone = absl::StrCat("zone-", any(zones));
        if (what == 5 || what == 6) one->state = static_cast<MemberState>(any(3));
        if (what == 7) one->former = Standing{absl::StrCat("zone-", any(zones)), 1u + any(4)};
        if (what == 8) one->former.reset();
      }
      if (any(12) == 0) copies = 1 + any(4);
      auto after = Placement::Compute(2 + step, copies, members, &before);
      ASSERT_TRUE(after.ok()) << after.status();
      const Placement anew = Place(members, copies);
      ASSERT_EQ(after->members(), anew.members());
      for (const auto& [made, expected] :
           {std::pair(&after->current(), &anew.current()), std::pair(&after->next(), &anew.next())}) {
        ASSERT_EQ(made->members(), expected->members());
        ASSERT_EQ(made->width(), expected->width()) << "run " << run << ", step " << step;
        for (int slot = 0; slot < kSlots; ++slot) {
          ASSERT_TRUE(made->Owners(slot) == expected->Owners(slot))
              << "run " << run << ", step " << step << ", slot " << slot << ", " << members.size() << " members, "
              << zones << " zones";
        }
      }
      before = *std::move(after);
    }
  }
}

// Nothing is computed if no member that may own slots differs: when one that joined is full, and when one has drained.
TEST(PlacementTest, SharesUnchangedTables) {
  std::vector<Member> members = Members(5);
  const Placement settled = Place(members, 2);
  const auto after = [](const Placement& before, std::vector<Member> now) {
    return *Placement::Compute(2, 2, std::move(now), &before);
  };
  const auto same = [](const PlacementTable& a, const PlacementTable& b) {
    return a.Owners(0).data() == b.Owners(0).data();
  };
  members[2].state = MemberState::kDraining;
  const Placement draining = after(settled, members);
  EXPECT_TRUE(same(draining.current(), settled.current()));
  EXPECT_FALSE(same(draining.next(), settled.next()));
  members[2].state = MemberState::kJoining;
  const Placement joining = after(draining, members);
  EXPECT_TRUE(same(joining.current(), draining.next()));
  EXPECT_TRUE(same(joining.next(), draining.current()));
  members[2].state = MemberState::kActive;
  const Placement joined = after(joining, members);
  EXPECT_TRUE(same(joined.current(), joining.next()));
  EXPECT_TRUE(same(joined.next(), joining.next()));
}

// A build that computes another table sends encodings to nodes that other builds do not ask, so a change of these
// numbers is a new format.
TEST(PlacementTest, GoldenTables) {
  const auto digest = [](const PlacementTable& table) {
    std::string bytes;
    for (int slot = 0; slot < kSlots; ++slot) {
      for (const uint16_t owner : table.Owners(slot)) {
        bytes.push_back(static_cast<char>(owner));
        bytes.push_back(static_cast<char>(owner >> 8));
      }
    }
    return Xxh3(bytes.data(), bytes.size());
  };
  EXPECT_EQ(digest(Place(Members(1000, 4), 2).next()), 1046541584607319237u);
  EXPECT_EQ(digest(Place(Members(100, 1u << 20, 3), 3).next()), 4011443516592992215u);
  EXPECT_EQ(digest(Place(Members(20, 7, 2), 5).next()), 2143412806007630234u);
  const Placement ten = Place(Members(10), 3);
  const auto owners = ten.next().Owners(1);
  EXPECT_THAT(std::vector<uint16_t>(owners.begin(), owners.end()), ElementsAre(8, 5, 0));
}

// The members that would own a slot if there were more copies follow its owners.
TEST(PlacementTest, FurtherMembersFollowOwners) {
  const std::vector<Member> members = Members(30, 4);
  const Placement placement = Place(members, 2), more = Place(members, 6);
  std::map<uint16_t, int> first;
  for (int slot = 0; slot < kSlots; slot += 11) {
    const auto owners = more.next().Owners(slot);
    const std::vector<uint16_t> further = FurtherMembers(placement, slot, 4);
    ASSERT_EQ(further, std::vector<uint16_t>(owners.begin() + 2, owners.end())) << slot;
    for (int count = 0; count < 4; ++count) {
      ASSERT_EQ(FurtherMembers(placement, slot, count),
                std::vector<uint16_t>(further.begin(), further.begin() + count));
    }
    ++first[further[0]];
  }
  EXPECT_EQ(first.size(), members.size()) << "all take part in it";
}

TEST(PlacementTest, FurtherMembersAreActiveAndOwnNothingOfTheSlot) {
  std::vector<Member> members = Members(6);
  members[1].state = MemberState::kJoining;
  members[2].state = MemberState::kDraining;
  const Placement placement = Place(members, 2);
  for (int slot = 0; slot < kSlots; slot += 101) {
    const std::vector<uint16_t> further = FurtherMembers(placement, slot, kMaxCopies);
    std::set<uint16_t> seen(further.begin(), further.end());
    EXPECT_EQ(seen.size(), further.size());
    for (const PlacementTable* table : {&placement.current(), &placement.next()}) {
      for (const uint16_t owner : table->Owners(slot)) seen.insert(owner);
    }
    for (const uint16_t member : further) EXPECT_EQ(placement.members()[member].state, MemberState::kActive);
    for (size_t i = 0; i < members.size(); ++i) {
      const bool active = placement.members()[i].state == MemberState::kActive;
      EXPECT_TRUE(!active || seen.contains(static_cast<uint16_t>(i))) << "slot " << slot << ", member " << i;
    }
  }
  EXPECT_TRUE(FurtherMembers(Place(Members(2), 2), 7, 3).empty());
}

TEST(PlacementTest, NamesBadInput) {
  const auto error = [](std::vector<Member> members, int copies) {
    const auto placement = Placement::Compute(1, copies, std::move(members));
    EXPECT_EQ(placement.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(placement.status().message());
  };
  EXPECT_THAT(error(Members(2), 0), HasSubstr("0 copies"));
  EXPECT_THAT(error(Members(2), kMaxCopies + 1), HasSubstr("17 copies"));
  EXPECT_THAT(error({{IdOf(1), "", 0}}, 1), HasSubstr("weight 0"));
  EXPECT_THAT(error({{IdOf(1), "", kMaxWeight + 1}}, 1), HasSubstr("weight 1048577"));
  EXPECT_THAT(error({{IdOf(1), "a"}, {IdOf(1), "b"}}, 1), HasSubstr("two members"));
}

}  // namespace
}  // namespace kvlink::store::cluster
