// Further copies of hot encodings, between engines in one process: which nodes make them, how long they stay, and what
// is not done for them.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "store/cluster/repair/repair.h"
#include "tests/store/cluster/engines.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::EngineCluster;
using ::kvlink::testing::Eventually;
using ::kvlink::testing::MakeInSlot;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::Synthetic;

HotName NameOf(const Synthetic& s) { return {"ns", s.manifest.identity, s.manifest.codec}; }

class HotCopiesTest : public ::testing::Test {
 protected:
  void Start(EngineCluster* cluster, absl::Duration compare = absl::Milliseconds(5)) {
    for (int i = 0; i < cluster->size(); ++i) {
      cluster->StartRepair(i, [this, i, compare](RepairOptions* options) {
        options->keep_unowned = absl::ZeroDuration();
        options->hot_look = absl::Milliseconds(2);
        options->hot_compare = compare;
        options->keep_hot = absl::Milliseconds(20);
        options->hold = [this, i](const std::vector<HotName>& held) {
          MutexLock lock(&mutex_);
          held_[i] = held;
        };
      });
    }
  }
  std::vector<HotName> Held(int i) {
    MutexLock lock(&mutex_);
    return held_[i];
  }
  // Numbers of the first `count` further members.
  static std::vector<int> Further(const EngineCluster& cluster, const Synthetic& s, int count) {
    const auto view = cluster.view();
    std::vector<int> numbers;
    for (const uint16_t member : FurtherMembers(view->placement, SlotOf(s.manifest.identity), count)) {
      numbers.push_back(view->placement.members()[member].node_id[0] - 1);
    }
    return numbers;
  }
  static int FirstOwner(const EngineCluster& cluster, const Synthetic& s) {
    int i = 0;
    while (!cluster.Owns(i, s)) ++i;
    return i;
  }

  Mutex mutex_;
  std::map<int, std::vector<HotName>> held_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(HotCopiesTest, LastAsLongAsWanted) {
  EngineCluster cluster(6);
  const Synthetic hot = MakeSynthetic(1), other = MakeInSlot(2, SlotOf(hot.manifest.identity));
  cluster.Put(hot);
  cluster.Put(other);
  const std::vector<int> further = Further(cluster, hot, 4);
  auto& says = cluster.node(FirstOwner(cluster, hot)).hot.read;
  says = {{NameOf(hot), 2, 1000}};
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  for (int k = 0; k < 2; ++k) {
    EXPECT_TRUE(Eventually([&] { return Held(further[k]) == std::vector<HotName>{NameOf(hot)}; }));
    EXPECT_TRUE(cluster.Has(further[k], hot));
  }
  // One more copy; the earlier ones stay, although the nodes continuously remove what they do not own.
  says[0].copies = 3;
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(further[2], hot); }));
  for (int k = 0; k < 3; ++k) {
    cluster.WaitComplete(further[k], 3);
    EXPECT_TRUE(cluster.Has(further[k], hot));
    EXPECT_FALSE(cluster.Has(further[k], other));
    EXPECT_EQ(cluster.node(further[k]).repairer->statistics().hot_held, 1);
  }
  EXPECT_FALSE(cluster.Has(further[3], hot));
  EXPECT_EQ(cluster.node(further[0]).repairer->statistics().copied, 1) << "not again and again";

  says.clear();
  cluster.Publish(/*moves=*/false);
  for (int k = 0; k < 3; ++k) {
    EXPECT_TRUE(Eventually([&] { return Held(further[k]).empty() && !cluster.Has(further[k], hot); }));
  }
  for (int i = 0; i < cluster.size(); ++i) EXPECT_EQ(cluster.Has(i, hot), cluster.Owns(i, hot)) << i;
}

TEST_F(HotCopiesTest, OfDeadMembersAreReplaced) {
  EngineCluster cluster(6);
  const Synthetic hot = MakeSynthetic(1);
  cluster.Put(hot);
  const std::vector<int> further = Further(cluster, hot, 4);
  cluster.node(FirstOwner(cluster, hot)).hot.read = {{NameOf(hot), 2, 1000}};
  cluster.node(further[0]).alive = false;
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  EXPECT_TRUE(Eventually([&] { return !Held(further[1]).empty() && !Held(further[2]).empty(); }));
  EXPECT_TRUE(Held(further[0]).empty());
  EXPECT_TRUE(Held(further[3]).empty());
  cluster.node(further[0]).alive = true;
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return !Held(further[0]).empty() && Held(further[2]).empty(); }));
  EXPECT_FALSE(Held(further[1]).empty());
}

// Clients would ask for it in vain until the next comparison with the owners.
TEST_F(HotCopiesTest, AreHeldNoLongerOnceEvicted) {
  EngineCluster cluster(4);
  const Synthetic hot = MakeSynthetic(1);
  cluster.Put(hot);
  const int further = Further(cluster, hot, 1)[0];
  cluster.node(FirstOwner(cluster, hot)).hot.read = {{NameOf(hot), 1, 1000}};
  cluster.Publish(/*moves=*/false);
  Start(&cluster, /*compare=*/absl::Hours(1));
  EXPECT_TRUE(Eventually([&] { return !Held(further).empty(); }));
  EXPECT_TRUE(cluster.node(further).engine->Remove("ns", hot.manifest.identity).ok());
  EXPECT_TRUE(Eventually([&] { return Held(further).empty(); }));
}

TEST_F(HotCopiesTest, MatchOwners) {
  EngineCluster cluster(4);
  std::vector<Synthetic> variants;
  for (int v = 0; v < 2; ++v) variants.push_back(MakeInSlot(7, 1, v));
  std::sort(variants.begin(), variants.end(),
            [](const Synthetic& a, const Synthetic& b) { return a.manifest.etag.bytes < b.manifest.etag.bytes; });
  const Synthetic &smaller = variants[0], &greater = variants[1];
  const int further = Further(cluster, smaller, 1)[0];
  cluster.Put(smaller);
  cluster.node(FirstOwner(cluster, smaller)).hot.read = {{NameOf(smaller), 1, 1000}};
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(further, smaller) && !Held(further).empty(); }));
  cluster.Put(greater);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(further, greater) && !Held(further).empty(); }));
  // While an owner is unreachable, it may be the one that has the encoding.
  const auto remove = [&](int i) { EXPECT_TRUE(cluster.node(i).engine->Remove("ns", greater.manifest.identity).ok()); };
  std::vector<int> owners;
  for (int i = 0; i < cluster.size(); ++i) {
    if (!cluster.Owns(i, greater)) continue;
    owners.push_back(i);
    cluster.StopRepair(i);  // otherwise it would copy it again
  }
  ASSERT_EQ(owners.size(), 2u);
  cluster.node(owners[0]).alive = false;
  cluster.Publish(/*moves=*/false);
  remove(owners[1]);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(Held(further).empty());
  cluster.node(owners[0]).alive = true;
  remove(owners[0]);
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return Held(further).empty(); })) << "no owner has it, so this copy must not be read";
}

TEST_F(HotCopiesTest, BecomeOrdinaryCopiesAtNewOwner) {
  EngineCluster cluster(4);
  const Synthetic hot = MakeSynthetic(1);
  cluster.Put(hot);
  const int further = Further(cluster, hot, 1)[0], owner = FirstOwner(cluster, hot);
  cluster.node(owner).hot.read = {{NameOf(hot), 1, 1000}};
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  EXPECT_TRUE(Eventually([&] { return !Held(further).empty(); }));
  cluster.node(owner).state = MemberState::kDraining;
  cluster.Publish();
  ASSERT_TRUE(cluster.Owns(further, hot));
  EXPECT_TRUE(Eventually([&] { return Held(further).empty(); }));
  cluster.WaitComplete(further, 3);
  EXPECT_TRUE(cluster.Has(further, hot));
}

TEST_F(HotCopiesTest, StayWithinShareOfMemoryTier) {
  EngineCluster cluster(3, /*copies=*/1);
  std::vector<Synthetic> all;
  int64_t bytes = 0;
  for (uint64_t i = 0; i < 15; ++i) {
    all.push_back(MakeSynthetic(i, 4, 512));
    bytes += all.back().bytes();
    cluster.Put(all.back());
    cluster.node(FirstOwner(cluster, all.back())).hot.read.push_back({NameOf(all.back()), 2, 1000});
  }
  const int64_t limit = cluster.node(0).engine->Stats().dram_bytes / 8;
  ASSERT_GT(bytes * 2 / 3, 2 * limit) << "of what a node does not own";
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  for (int i = 0; i < cluster.size(); ++i) {
    EXPECT_TRUE(Eventually([&] { return cluster.node(i).repairer->statistics().left_for_room > 0; }));
    const auto held = Held(i);
    EXPECT_FALSE(held.empty());
    int64_t held_bytes = 0;
    for (const HotName& name : held) {
      const auto found = cluster.node(i).engine->Find({name.ns, name.identity, name.codec});
      ASSERT_TRUE(found.has_value());
      held_bytes += found->location.bytes;
    }
    EXPECT_LE(held_bytes, limit);
  }
}

TEST_F(HotCopiesTest, EvictNothingHotter) {
  EngineCluster cluster(3, /*copies=*/1, /*capacity=*/8 << 20);
  const Synthetic hot = MakeSynthetic(1);
  const int owner = FirstOwner(cluster, hot), further = Further(cluster, hot, 1)[0];
  for (uint64_t number = 1000; number < 1110; ++number) cluster.PutAt(further, MakeSynthetic(number));
  cluster.Put(hot);
  cluster.node(owner).hot.read = {{NameOf(hot), 1, 1000}};
  cluster.Publish(/*moves=*/false);
  Start(&cluster);
  EXPECT_TRUE(Eventually([&] { return cluster.node(further).repairer->statistics().left_for_room > 0; }));
  EXPECT_FALSE(cluster.Has(further, hot));
  for (int use = 0; use < 2; ++use) {
    EXPECT_TRUE(cluster.node(owner).engine->Touch({"ns", hot.manifest.identity, hot.manifest.codec}).ok());
  }
  EXPECT_TRUE(Eventually([&] { return cluster.Has(further, hot); })) << "it is read there";
}

}  // namespace
}  // namespace kvlink::store::cluster
