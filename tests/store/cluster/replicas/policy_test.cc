// Decisions of a client without a network: which node to ask first, which not at all, and when to ask a second.
#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/cluster/replicas/breaker.h"
#include "store/cluster/replicas/hedge.h"
#include "store/cluster/replicas/order.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using namespace store::cluster;

Identity IdentityOf(uint64_t number) {
  Identity identity;
  std::mt19937_64 random(number);
  for (uint8_t& byte : identity.bytes) byte = static_cast<uint8_t>(random());
  return identity;
}

TEST(Breaker, EachStateAndEventHasOneTransition) {
  using S = BreakerState;
  using E = BreakerEvent;
  const std::map<std::pair<S, E>, S> expected = {
      {{S::kClosed, E::kAnswered}, S::kClosed},   {{S::kClosed, E::kFailed}, S::kClosed},
      {{S::kClosed, E::kTooOften}, S::kOpen},     {{S::kClosed, E::kProbed}, S::kClosed},
      {{S::kOpen, E::kAnswered}, S::kClosed},     {{S::kOpen, E::kFailed}, S::kOpen},
      {{S::kOpen, E::kTooOften}, S::kOpen},       {{S::kOpen, E::kProbed}, S::kHalfOpen},
      {{S::kHalfOpen, E::kAnswered}, S::kClosed}, {{S::kHalfOpen, E::kFailed}, S::kOpen},
      {{S::kHalfOpen, E::kTooOften}, S::kOpen},   {{S::kHalfOpen, E::kProbed}, S::kHalfOpen},
      {{S::kClosed, E::kUntold}, S::kClosed},     {{S::kOpen, E::kUntold}, S::kOpen},
      {{S::kHalfOpen, E::kUntold}, S::kOpen},
  };
  for (const auto& [from, to] : expected) EXPECT_EQ(Next(from.first, from.second), to);
}

TEST(Breaker, OpensOnlyAfterConsecutiveFailures) {
  Breaker breaker;
  const absl::Time now = SteadyNow();
  for (int round = 0; round < 5; ++round) {
    for (int i = 1; i < Breaker::kFailuresInARow; ++i) breaker.Failed(now);
    EXPECT_TRUE(breaker.closed());
    EXPECT_EQ(breaker.TryProbe(now + Breaker::kMaxRest), nullptr) << "it takes requests";
    breaker.Answered();
    EXPECT_EQ(breaker.failures(), 0);
  }
}

TEST(Breaker, AllowsOneProbePerRestAndRestsLonger) {
  Breaker breaker;
  absl::Time now = SteadyNow();
  for (int i = 0; i < Breaker::kFailuresInARow; ++i) breaker.Failed(now);
  EXPECT_EQ(breaker.state(), BreakerState::kOpen);
  absl::Duration before;
  for (int rest = 0; rest < 12; ++rest) {
    EXPECT_EQ(breaker.TryProbe(now), nullptr);
    const absl::Time began = now;
    Breaker::Probe probe;
    while ((probe = breaker.TryProbe(now)) == nullptr) now += absl::Milliseconds(10);
    EXPECT_EQ(breaker.state(), BreakerState::kHalfOpen);
    EXPECT_EQ(breaker.TryProbe(now), nullptr) << "one at a time";
    const absl::Duration rested = now - began;
    EXPECT_GE(rested, before / 2) << "rests vary by at most half";
    EXPECT_LE(rested, Breaker::kMaxRest + absl::Milliseconds(10));
    before = rested;
    breaker.Failed(now);
    EXPECT_EQ(breaker.state(), BreakerState::kOpen);
    probe = nullptr;
    EXPECT_EQ(breaker.TryProbe(now), nullptr) << "the probe failed, so it rests again";
  }
  EXPECT_GE(before, Breaker::kMaxRest / 2);
  while (breaker.TryProbe(now) == nullptr) now += absl::Milliseconds(10);
  EXPECT_EQ(breaker.state(), BreakerState::kOpen) << "the probe reported nothing";
  {
    const Breaker::Probe next = breaker.TryProbe(now);
    EXPECT_NE(next, nullptr) << "the next caller may probe";
    breaker.Answered();
  }
  EXPECT_TRUE(breaker.closed());
  for (int i = 0; i < Breaker::kFailuresInARow; ++i) breaker.Failed(now);
  EXPECT_NE(breaker.TryProbe(now + Breaker::kFirstRest), nullptr) << "rests start again";
}

// A call keeps the right until it returns, which may be after the next probe was sent.
TEST(Breaker, EndedProbeLeavesNextAlone) {
  Breaker breaker;
  absl::Time now = SteadyNow();
  for (int i = 0; i < Breaker::kFailuresInARow; ++i) breaker.Failed(now);
  Breaker::Probe first = breaker.TryProbe(now += Breaker::kMaxRest);
  ASSERT_NE(first, nullptr);
  breaker.Failed(now);
  const Breaker::Probe second = breaker.TryProbe(now += Breaker::kMaxRest);
  ASSERT_NE(second, nullptr);
  first = nullptr;
  EXPECT_EQ(breaker.state(), BreakerState::kHalfOpen);
  EXPECT_EQ(breaker.TryProbe(now + Breaker::kMaxRest), nullptr) << "one at a time";
}

TEST(Hedge, BudgetIsShareOfRequests) {
  HedgeBudget budget;
  EXPECT_FALSE(budget.TryTake());
  constexpr int kRequests = 10000;
  int taken = 0;
  for (int i = 0; i < kRequests; ++i) {
    budget.Asked(1);
    taken += budget.TryTake();
  }
  EXPECT_LE(taken, kRequests * HedgeBudget::kShare);
  EXPECT_GE(taken, kRequests * HedgeBudget::kShare - 2);
  // Unused budget does not accumulate.
  budget.Asked(kRequests);
  taken = 0;
  while (budget.TryTake()) ++taken;
  EXPECT_EQ(taken, static_cast<int>(HedgeBudget::kMaxTokens));
}

TEST(Hedge, DelayExceedsNearlyAllAnswers) {
  Latency latency;
  EXPECT_EQ(latency.HedgeAfter(), kNoProgress);
  std::mt19937_64 random(TestSeed());
  std::exponential_distribution<double> exponential(1 / 0.004);
  for (int i = 0; i < 2000; ++i) latency.Add(absl::Seconds(exponential(random)));
  EXPECT_NEAR(absl::ToDoubleMilliseconds(latency.mean()), 4, 2.5);
  int64_t later = 0;
  const absl::Duration after = latency.HedgeAfter();
  for (int i = 0; i < 10000; ++i) later += absl::Seconds(exponential(random)) > after;
  EXPECT_LT(later, 500) << after;
  EXPECT_LT(after, absl::Milliseconds(60));
  for (int i = 0; i < 200; ++i) latency.Add(absl::Seconds(2));
  EXPECT_EQ(latency.HedgeAfter(), kNoProgress) << "never later";
}

class OrderTest : public ::testing::Test {
 protected:
  Owners Order(const View& view, const Identity& identity, absl::string_view zone = "") {
    return OrderOfOwners(
        view, identity, zone, [this](uint16_t member) { return conditions_[member]; }, &random_);
  }
  std::map<uint16_t, Condition> conditions_;
  std::minstd_rand random_{static_cast<uint32_t>(TestSeed())};
};

TEST_F(OrderTest, HoldersOfFurtherCopiesRankAsOwners) {
  auto view = std::make_shared<View>(*MakeView(1, 2, 2, std::vector<TestMember>(5)));
  const Identity hot = IdentityOf(1), other = IdentityOf(2);
  HotRecord record;
  record.held = {{"ns", hot, Codec::kRawBf16}};
  const std::vector<uint16_t> further = FurtherMembers(view->placement, SlotOf(hot), 2);
  const Owners owners = OwnersOf(view->placement, hot);
  // A holder may have become an owner meanwhile.
  view->hot = HotView::Make({{further[0], &record}, {further[1], &record}, {owners[0], &record}});
  EXPECT_EQ(HoldersOf(*view, hot), (Owners{owners[0], owners[1], further[0], further[1]}));
  EXPECT_EQ(HoldersOf(*view, other), OwnersOf(view->placement, other));
  std::map<uint16_t, int> first;
  for (int i = 0; i < 4000; ++i) {
    int equals = 0;
    const Owners order = OrderOfOwners(
        *view, hot, "", [this](uint16_t member) { return conditions_[member]; }, &random_, &equals);
    ASSERT_EQ(order.size(), 4u);
    ASSERT_EQ(equals, 4);
    ++first[order[0]];
  }
  for (const uint16_t member : HoldersOf(*view, hot)) EXPECT_NEAR(first[member], 1000, 200) << member;
  conditions_[further[0]].resting = true;
  EXPECT_EQ(Order(*view, hot).back(), further[0]);
}

TEST_F(OrderTest, OwnersOfBothPlacementsComeFirst) {
  std::vector<TestMember> members(4);
  members[2].state = MemberState::kJoining;
  members[3].state = MemberState::kDraining;
  const auto view = MakeView(1, 2, 2, members);
  int moved = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    const Identity identity = IdentityOf(i);
    const Owners owners = OwnersOf(view->placement, identity), order = Order(*view, identity);
    ASSERT_EQ(std::set<uint16_t>(owners.begin(), owners.end()).size(), owners.size());
    ASSERT_EQ(std::set<uint16_t>(owners.begin(), owners.end()), std::set<uint16_t>(order.begin(), order.end()));
    const auto current = view->placement.CurrentOwners(identity), next = view->placement.NextOwners(identity);
    int before = 0;
    for (const uint16_t member : order) {
      const bool now = absl::c_linear_search(current, member), then = absl::c_linear_search(next, member);
      ASSERT_TRUE(now || then);
      const int place = now && then ? 0 : now ? 1 : 2;
      EXPECT_GE(place, before) << "owners not filled yet come last";
      before = place;
      moved += place > 0;
    }
  }
  EXPECT_GT(moved, 0);
}

TEST_F(OrderTest, DeadDistantAndRestingNodesComeLater) {
  std::vector<TestMember> members(3);
  members[0].zone = "a";
  members[1].zone = "b";
  members[2].zone = "b";
  for (int round = 0; round < 50; ++round) {
    const Identity identity = IdentityOf(round);
    auto view = MakeView(1, 3, 2, members);
    EXPECT_EQ(Order(*view, identity, "a")[0], 0);
    EXPECT_EQ(Order(*view, identity, "b")[2], 0);
    members[0].alive = false;
    view = MakeView(2, 3, 2, members);
    EXPECT_EQ(Order(*view, identity, "a")[2], 0);
    conditions_[1].resting = true;
    EXPECT_EQ(Order(*view, identity, "a")[2], 1) << "a node that does not answer, even if alive";
    conditions_.clear();
    members[0].alive = true;
  }
}

TEST_F(OrderTest, EqualOwnersShareReadsOfOneEncoding) {
  const auto view = MakeView(1, 2, 2, std::vector<TestMember>(2));
  const Identity hot = IdentityOf(1);
  constexpr int kReads = 10000;
  const auto first = [&] {
    std::array<int, 2> count = {};
    for (int i = 0; i < kReads; ++i) ++count[Order(*view, hot)[0]];
    return count;
  };
  auto count = first();
  EXPECT_NEAR(count[0], kReads / 2, kReads / 20);
  // A slow node, or one with many requests in progress, gets less, but not nothing.
  conditions_[0].expected = absl::Milliseconds(4);
  conditions_[1].expected = absl::Milliseconds(1);
  count = first();
  EXPECT_LT(count[0], count[1] / 2);
  EXPECT_GT(count[0], kReads / 20);
  conditions_[0] = {.expected = absl::Milliseconds(1), .under_way = 9};
  count = first();
  EXPECT_NEAR(count[0], kReads / 11, kReads / 20);
}

TEST_F(OrderTest, AsksFewNodesIfRequestsDominateCost) {
  const auto view = MakeView(1, 2, 2, std::vector<TestMember>(4));
  const auto condition = [this](uint16_t member) { return conditions_[member]; };
  const auto asked = [&] {
    std::vector<Owners> orders;
    std::vector<int> equals(40);
    for (int i = 0; i < 40; ++i) {
      orders.push_back(OrderOfOwners(*view, IdentityOf(i), "", condition, &random_, &equals[i]));
    }
    const std::vector<Owners> before = orders;
    AskFewNodes(&orders, equals, condition, &random_);
    std::set<uint16_t> first;
    for (int i = 0; i < 40; ++i) {
      EXPECT_TRUE(std::is_permutation(orders[i].begin(), orders[i].end(), before[i].begin(), before[i].end()));
      first.insert(orders[i][0]);
    }
    return first;
  };
  std::map<uint16_t, int> count;
  for (int round = 0; round < 200; ++round) {
    const std::set<uint16_t> nodes = asked();
    EXPECT_LE(nodes.size(), 3u) << "three of four nodes have all of it";
    for (const uint16_t node : nodes) ++count[node];
  }
  for (uint16_t member = 0; member < 4; ++member) EXPECT_GT(count[member], 20) << "all share the load";
  // A node that is worse for all encodings is asked for none that another node has.
  conditions_[1].resting = true;
  for (int round = 0; round < 20; ++round) EXPECT_FALSE(asked().contains(1));
  conditions_.clear();
  conditions_[2].expected = absl::Milliseconds(20);
  for (int round = 0; round < 20; ++round) EXPECT_FALSE(asked().contains(2)) << "a slow one";
}

}  // namespace
}  // namespace kvlink::testing
