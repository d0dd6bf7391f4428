// What counts as hot on a node, and how many copies it wants, by rates and views that the test makes.
#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "store/cluster/node/hot_policy.h"
#include "store/node/limits.h"
#include "tests/support/seed.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::TestSeed;

Identity IdentityWith(uint8_t number) {
  Identity identity;
  identity.bytes[0] = number;
  return identity;
}

HotName NameOf(uint8_t number) { return {"ns", IdentityWith(number), Codec::kRawBf16}; }

constexpr double kLimit = 1000;  // bytes per second

TEST(HotView, CombinesReportsOfAllNodes) {
  EXPECT_EQ(HotView::Make({}), nullptr);
  const HotRecord empty;
  EXPECT_EQ(HotView::Make({{uint16_t{1}, &empty}}), nullptr);
  HotRecord a, b, c;
  a.read = {{NameOf(1), 3, 100}, {NameOf(2), 1, 10}};
  b.read = {{NameOf(1), 5, 50}};
  b.held = {NameOf(2), NameOf(2)};
  HotName elsewhere = NameOf(2);
  elsewhere.ns = "other";
  c.held = {NameOf(2), elsewhere};
  const auto view = HotView::Make({{uint16_t{7}, &a}, {uint16_t{4}, &b}, {uint16_t{2}, &c}});
  ASSERT_EQ(view->encodings().size(), 3u);
  const HotView::Encoding* const one = view->Find(NameOf(1));
  ASSERT_NE(one, nullptr);
  EXPECT_EQ(one->copies, 5);
  EXPECT_EQ(one->reads_per_second, 150u);
  EXPECT_TRUE(one->holders.empty());
  EXPECT_EQ(view->Find(NameOf(2))->holders, (std::vector<uint16_t>{2, 4}));
  EXPECT_EQ(view->Find(elsewhere)->copies, 0);
  EXPECT_EQ(view->Find(NameOf(3)), nullptr);
  EXPECT_TRUE(view->Holders(IdentityWith(1)).empty());
  EXPECT_EQ(view->Holders(IdentityWith(2)).size(), 2u) << "each once, however much it holds";
}

class HotPolicyTest : public ::testing::Test {
 protected:
  HotPolicyTest() {
    std::vector<Member> members;
    for (uint8_t i = 1; i <= 20; ++i) members.push_back({{i}, "", 1, MemberState::kActive});
    view_.placement = *Placement::Compute(1, 2, members);
    view_.status.resize(members.size());
    Forget();
  }
  void Forget() { policy_.emplace(HotOptions{.bytes_per_second = static_cast<int64_t>(kLimit), .max_copies = 8}); }
  // One look at rates in bytes per second: `bytes` for encoding 1, and `others` for all others. Returns the copies
  // wanted.
  int Copies(double bytes, double others = 0) {
    now_ += absl::Milliseconds(300);
    node::ReadRates::Snapshot rates;
    rates.bytes_per_second = bytes + others;
    rates.encodings.push_back({{"ns", IdentityWith(1), Codec::kRawBf16}, bytes, bytes / 10});
    told_ = policy_->Look(rates, view_, now_);
    if (told_.empty()) return 0;
    EXPECT_EQ(told_.size(), 1u);
    EXPECT_EQ(told_[0].name, NameOf(1));
    return told_[0].copies;
  }
  // Looks for this long and returns the last result.
  int CopiesFor(absl::Duration time, double bytes) {
    int copies = 0;
    for (const absl::Time until = now_ + time; now_ < until;) copies = Copies(bytes);
    return copies;
  }
  // Makes a view in which `holders` members hold encoding 1 and another node wants `wanted` copies.
  void SetHolders(int holders, int wanted = 0) {
    HotRecord wants, holds;
    wants.read = {{NameOf(1), wanted, 5}};
    holds.held = {NameOf(1)};
    std::vector<std::pair<uint16_t, const HotRecord*>> all = {{uint16_t{0}, &wants}};
    for (int i = 0; i < holders; ++i) all.emplace_back(static_cast<uint16_t>(i), &holds);
    view_.hot = HotView::Make(all);
  }

  View view_;
  std::vector<HotRead> told_;
  absl::Time now_ = absl::UnixEpoch();
  std::optional<HotPolicy> policy_;
};

TEST_F(HotPolicyTest, HotMeansAboveLimitAndConsiderableShare) {
  EXPECT_EQ(Copies(kLimit * 0.99), 0);
  EXPECT_EQ(Copies(kLimit * 2, kLimit * 100), 0) << "the node is busy with everything";
  EXPECT_TRUE(told_.empty());
  EXPECT_EQ(Copies(kLimit * 2, kLimit * 2), 2) << "4 limits at two owners";
  EXPECT_EQ(told_[0].reads_per_second, 200u);
}

// A copy costs as much as a read.
TEST_F(HotPolicyTest, OneReadMakesNothingHot) {
  node::ReadRates rates(node::NodeLimits().read_rates_half_life);
  const auto read = [&] {
    rates.Add({"ns", IdentityWith(1), Codec::kRawBf16}, static_cast<int64_t>(kLimit * 100), now_);
  };
  const auto most = [&](absl::Duration time) {
    size_t hot = 0;
    for (const absl::Time until = now_ + time; now_ < until; now_ += absl::Milliseconds(300)) {
      hot = std::max(hot, policy_->Look(rates.Now(now_), view_, now_).size());
    }
    return hot;
  };
  read();
  EXPECT_EQ(most(absl::Seconds(10)), 0u);
  read();
  EXPECT_EQ(most(absl::Seconds(1)), 0u);
  read();
  EXPECT_EQ(most(absl::Seconds(1)), 1u);
}

TEST_F(HotPolicyTest, AddsCopiesUntilEachHolderIsBelowLimit) {
  for (const auto& [bytes, copies] : {std::pair(1.001, 1), {1.6, 2}, {3.4, 5}, {100.0, 8}}) {
    Forget();
    EXPECT_EQ(Copies(kLimit * bytes), copies) << bytes;
  }
  Forget();
  policy_.emplace(HotOptions{.bytes_per_second = 0});
  EXPECT_EQ(Copies(kLimit * 100), 0) << "never";
}

TEST_F(HotPolicyTest, AddsNoCopiesIfEveryMemberIsOwner) {
  const std::vector<Member> all = view_.placement.members();
  view_.placement = *Placement::Compute(2, 3, {all.begin(), all.begin() + 3});
  view_.status.resize(3);
  EXPECT_EQ(Copies(kLimit * 100), 0);
}

// The rates still date from before the copies.
TEST_F(HotPolicyTest, AddsCopiesOnlyAfterEarlierOnesTakeEffect) {
  EXPECT_EQ(Copies(kLimit * 2), 2);
  SetHolders(2);
  EXPECT_EQ(CopiesFor(HotOptions().settle - absl::Seconds(1), kLimit * 2), 2);
  EXPECT_EQ(CopiesFor(absl::Seconds(2), kLimit * 2), 6) << "8 limits at four holders";
}

TEST_F(HotPolicyTest, RemovesCopiesAfterLowDemandForAWhile) {
  EXPECT_EQ(Copies(kLimit * 2), 2);
  SetHolders(2);
  EXPECT_EQ(CopiesFor(absl::Hours(1), kLimit * 0.51), 2) << "2.04 limits: five at half of it";
  EXPECT_EQ(CopiesFor(HotOptions().cool - absl::Seconds(1), 0), 2);
  EXPECT_EQ(Copies(kLimit), 2) << "it was hot again, so the time starts again";
  EXPECT_EQ(CopiesFor(HotOptions().cool - absl::Seconds(1), kLimit * 0.35), 2);
  EXPECT_EQ(CopiesFor(absl::Seconds(2), kLimit * 0.35), 1) << "1.4 limits: three at half of it";
  SetHolders(1);
  EXPECT_EQ(CopiesFor(HotOptions().cool + absl::Seconds(2), 0), 0);
  EXPECT_TRUE(told_.empty());
}

TEST_F(HotPolicyTest, ReportsWantedEncodingsWithRates) {
  SetHolders(1, /*wanted=*/3);
  EXPECT_EQ(Copies(kLimit / 10), 0);
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].reads_per_second, 10u);
  EXPECT_EQ(CopiesFor(absl::Seconds(5), kLimit / 7), 0);
  EXPECT_EQ(told_[0].reads_per_second, 10u) << "it has not doubled";
  EXPECT_EQ(Copies(kLimit / 4), 0);
  EXPECT_EQ(told_[0].reads_per_second, 25u);
  SetHolders(1, /*wanted=*/0);
  EXPECT_EQ(Copies(kLimit / 4), 0);
  EXPECT_TRUE(told_.empty());
}

// For any steady demand, the number of copies becomes steady, and no holder serves more than the limit.
TEST_F(HotPolicyTest, SteadyDemandLeadsToSteadyCopies) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20; ++round) {
    Forget();
    const double demand = kLimit * std::uniform_real_distribution<>(2.01, 9.5)(random);
    double rate = 0;
    int wanted = 0, held = 0, changes = 0;
    SetHolders(0);
    for (int look = 0; look < 1000; ++look) {
      // A half-life of two seconds; copies appear and disappear some looks after the decision.
      rate += (demand / (2 + held) - rate) * (1 - std::exp2(-0.3 / 2));
      const int now = Copies(rate * std::uniform_real_distribution<>(0.98, 1.02)(random));
      changes += now != wanted ? 1 : 0;
      wanted = now;
      if (look % 7 == 0 && held != wanted) SetHolders(held = wanted, wanted);
    }
    EXPECT_LE(demand / (2 + held), kLimit * 1.05) << demand;
    EXPECT_LE(changes, 4) << demand;
  }
}

}  // namespace
}  // namespace kvlink::store::cluster
