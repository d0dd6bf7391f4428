// What a member owns by the tables of the present epoch and of former ones.
#include "store/cluster/members/ownership.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/node_id.h"

namespace kvlink::store::cluster {
namespace {

using kvlink::testing::NodeOf;

Identity IdentityIn(int slot) {
  Identity identity;
  identity.bytes[0] = static_cast<uint8_t>(slot >> 8);
  identity.bytes[1] = static_cast<uint8_t>(slot);
  return identity;
}

std::shared_ptr<const View> ViewOf(uint64_t epoch, int members, MemberState last = MemberState::kActive) {
  std::vector<Member> list;
  for (int i = 1; i <= members; ++i) {
    list.push_back({NodeOf(static_cast<uint8_t>(i)), "", 1, i == members ? last : MemberState::kActive});
  }
  auto view = std::make_shared<View>();
  auto placement = Placement::Compute(epoch, 2, std::move(list));
  EXPECT_TRUE(placement.ok()) << placement.status();
  view->placement = *std::move(placement);
  view->status.resize(members);
  return view;
}

int Owned(const MemberOwnership& ownership, uint64_t epoch) {
  int owned = 0;
  for (int slot = 0; slot < kSlots; ++slot) owned += ownership.Owns(IdentityIn(slot), epoch) ? 1 : 0;
  return owned;
}

TEST(MemberOwnership, OwnsSlotsOfEitherTable) {
  MemberOwnership ownership;
  EXPECT_TRUE(ownership.Owns(IdentityIn(0), 7)) << "before its identity is known";
  const auto view = ViewOf(10, 4, MemberState::kJoining);
  ownership.Update(view);
  ownership.SetNode(NodeOf(1));
  EXPECT_EQ(ownership.epoch(), 10u);
  for (int slot = 0; slot < kSlots; ++slot) {
    bool owner = false;
    for (const PlacementTable* table : {&view->placement.current(), &view->placement.next()}) {
      for (const uint16_t one : table->Owners(slot)) owner |= table->members()[one].node_id == NodeOf(1);
    }
    ASSERT_EQ(ownership.Owns(IdentityIn(slot), 10), owner) << slot;
    ASSERT_EQ(ownership.owned()->test(static_cast<size_t>(slot)), owner) << slot;
    bool takes = false;
    for (const uint16_t one : view->placement.next().Owners(slot)) {
      takes |= view->placement.members()[one].node_id == NodeOf(1);
    }
    ASSERT_EQ(ownership.Takes(IdentityIn(slot)), takes) << slot;
  }
  // Not a member at all.
  MemberOwnership stranger;
  stranger.SetNode(NodeOf(9));
  stranger.Update(view);
  EXPECT_EQ(Owned(stranger, 10), 0);
  EXPECT_EQ(stranger.owned(), nullptr);
}

// Shares are of all copies: with fewer members than copies, no member has the shares of the missing copies.
TEST(MemberOwnership, ShareIsOfAllCopies) {
  std::vector<MemberOwnership> members(4);
  for (uint8_t i = 0; i < 4; ++i) members[i].SetNode(NodeOf(i + 1));
  const auto share = [&](int member) { return members[member].share().value_or(0); };
  const auto sum = [&] { return share(0) + share(1) + share(2) + share(3); };
  const auto update = [&](const std::shared_ptr<const View>& view) {
    for (MemberOwnership& member : members) member.Update(view);
  };
  EXPECT_FALSE(members[0].share().has_value());
  update(ViewOf(1, 1));
  EXPECT_EQ(share(0), 0.5);
  EXPECT_FALSE(members[1].share().has_value());
  update(ViewOf(2, 2));
  EXPECT_EQ(share(0), 0.5);
  EXPECT_EQ(share(1), 0.5);
  update(ViewOf(3, 3));
  EXPECT_NEAR(sum(), 1, 1e-9);
  EXPECT_NEAR(share(2), 1.0 / 3, 0.02);
  // A joining member has its share, and the others keep theirs until it is active.
  update(ViewOf(4, 4, MemberState::kJoining));
  EXPECT_NEAR(share(0), 1.0 / 3, 0.02);
  EXPECT_NEAR(share(3), 1.0 / 4, 0.02);
  EXPECT_NEAR(sum(), 1 + share(3), 1e-9);
  update(ViewOf(5, 4));
  EXPECT_NEAR(share(0), 1.0 / 4, 0.02);
  EXPECT_NEAR(sum(), 1, 1e-9);
}

TEST(MemberOwnership, RemembersSixteenEpochs) {
  MemberOwnership ownership;
  ownership.SetNode(NodeOf(1));
  // Two members own everything, five do not.
  for (uint64_t epoch = 1; epoch <= 20; ++epoch) ownership.Update(ViewOf(epoch, epoch % 2 == 0 ? 2 : 5));
  EXPECT_EQ(ownership.epoch(), 20u);
  EXPECT_EQ(Owned(ownership, 20), kSlots);
  EXPECT_LT(Owned(ownership, 19), kSlots);
  EXPECT_GT(Owned(ownership, 19), 0);
  EXPECT_EQ(Owned(ownership, 4), kSlots);
  EXPECT_EQ(Owned(ownership, 3), 0) << "forgotten";
  EXPECT_EQ(Owned(ownership, 21), 0) << "not known";
  // etcd went back: later epochs no longer exist, and earlier ones may have differed.
  ownership.Update(ViewOf(15, 5));
  EXPECT_EQ(ownership.epoch(), 15u);
  EXPECT_EQ(Owned(ownership, 16), 0);
  EXPECT_EQ(Owned(ownership, 14), 0);
  // The same epoch with other members.
  ownership.Update(ViewOf(15, 2));
  EXPECT_EQ(Owned(ownership, 15), kSlots);
}

}  // namespace
}  // namespace kvlink::store::cluster
