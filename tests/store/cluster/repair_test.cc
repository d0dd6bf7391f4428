// Repair between engines in one process: a node gets what it lacks, whatever its peers do meanwhile, and nothing else
// moves.
#include "store/cluster/repair/repair.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/cluster/repair/rate_limit.h"
#include "tests/store/cluster/engines.h"
#include "tests/support/seed.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::AllDigests;
using ::kvlink::testing::EngineCluster;
using ::kvlink::testing::Eventually;
using ::kvlink::testing::MakeInSlot;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;

std::vector<Synthetic> Many(int count, uint64_t first = 1) {
  std::vector<Synthetic> many;
  for (int i = 0; i < count; ++i) {
    // Some share a slot, so that slots are listed in pages.
    const uint64_t number = first + static_cast<uint64_t>(i);
    many.push_back(i % 4 == 0 ? MakeInSlot(number, i % 3) : MakeSynthetic(number));
  }
  return many;
}

int64_t BytesOwned(const EngineCluster& cluster, int node, const std::vector<Synthetic>& all) {
  int64_t bytes = 0;
  for (const Synthetic& s : all) bytes += cluster.Owns(node, s) ? s.bytes() : 0;
  return bytes;
}

TEST(Repair, FillsEmptyNodeExactly) {
  EngineCluster cluster(3);
  for (const Synthetic& s : Many(120)) cluster.Put(s, s.manifest.identity.bytes[5] % 2 == 0 ? "ns" : "other");
  std::vector<SlotDigest> before = AllDigests(cluster.node(1).engine.get());
  const int64_t bytes = cluster.node(1).engine->Stats().segment_bytes_used;
  cluster.Replace(1);
  cluster.StartRepair(1);
  cluster.WaitComplete(1);
  EXPECT_EQ(AllDigests(cluster.node(1).engine.get()), before);
  const RepairStatistics statistics = cluster.node(1).repairer->statistics();
  EXPECT_EQ(statistics.copied_bytes, bytes);
  EXPECT_EQ(statistics.failed, 0);
  EXPECT_EQ(statistics.removed, 0);
  EXPECT_EQ(cluster.node(1).repairer->progress().bytes_left, 0);
  // Passes between equal nodes list and copy nothing.
  cluster.WaitComplete(1, 3);
  EXPECT_EQ(cluster.node(1).repairer->statistics().copied, statistics.copied);
  EXPECT_EQ(cluster.node(1).repairer->statistics().slots_listed, statistics.slots_listed);
}

TEST(Repair, GreaterEtagWinsOnAllOwners) {
  EngineCluster cluster(3, /*copies=*/3);
  std::mt19937_64 random(TestSeed());
  std::vector<std::vector<Synthetic>> variants;
  for (uint64_t i = 0; i < 40; ++i) {
    variants.emplace_back();
    for (int v = 0; v < 3; ++v) variants.back().push_back(MakeInSlot(i, static_cast<int>(i % 5), v));
    for (int node = 0; node < 3; ++node) {
      if (random() % 4 != 0) cluster.PutAt(node, variants.back()[random() % 3]);
    }
  }
  std::map<uint64_t, Etag> greatest;
  for (int node = 0; node < 3; ++node) {
    for (uint64_t i = 0; i < variants.size(); ++i) {
      for (const Synthetic& s : variants[i]) {
        if (cluster.Has(node, s)) greatest[i].bytes = std::max(greatest[i].bytes, s.manifest.etag.bytes);
      }
    }
  }
  for (int node = 0; node < 3; ++node) cluster.StartRepair(node);
  EXPECT_TRUE(Eventually([&] {
    const auto first = AllDigests(cluster.node(0).engine.get());
    return first == AllDigests(cluster.node(1).engine.get()) && first == AllDigests(cluster.node(2).engine.get());
  }));
  for (uint64_t i = 0; i < variants.size(); ++i) {
    for (const Synthetic& s : variants[i]) {
      EXPECT_EQ(cluster.Has(0, s), greatest.contains(i) && greatest[i] == s.manifest.etag);
    }
  }
}

TEST(Repair, JoinMovesOnlyEncodingsOfTheNewMember) {
  Mutex mutex;
  std::vector<RepairProgress> told;
  EngineCluster cluster(3);
  const std::vector<Synthetic> all = Many(150);
  for (const Synthetic& s : all) cluster.Put(s);
  const auto quick = [](RepairOptions* options) { options->keep_unowned = absl::ZeroDuration(); };
  for (int node = 0; node < 3; ++node) cluster.StartRepair(node, quick);
  for (int node = 0; node < 3; ++node) cluster.WaitComplete(node);

  const int joining = cluster.Add(MemberState::kJoining);
  cluster.Publish();
  cluster.StartRepair(joining, [&](RepairOptions* options) {
    options->keep_unowned = absl::ZeroDuration();
    options->progress = [&](const RepairProgress& progress) {
      MutexLock lock(&mutex);
      told.push_back(progress);
    };
  });
  for (int node = 0; node < 4; ++node) cluster.WaitComplete(node);
  const int64_t least = BytesOwned(cluster, joining, all);
  EXPECT_GT(least, 0);
  EXPECT_EQ(cluster.node(joining).repairer->statistics().copied_bytes, least);
  for (int node = 0; node < 3; ++node) {
    EXPECT_EQ(cluster.node(node).repairer->statistics().copied, 0);
    EXPECT_EQ(cluster.node(node).repairer->statistics().removed, 0) << "current owners keep their encodings until then";
  }
  {
    MutexLock lock(&mutex);
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.front().slots_done, 0);
    EXPECT_TRUE(told.back().complete());
    EXPECT_EQ(told.back().bytes_left, 0);
  }
  // Once it is active, nodes remove what it owns in their place.
  cluster.node(joining).state = MemberState::kActive;
  cluster.Publish();
  EXPECT_TRUE(Eventually([&] {
    for (int node = 0; node < 4; ++node) {
      for (const Synthetic& s : all) {
        if (cluster.Has(node, s) != cluster.Owns(node, s)) return false;
      }
    }
    return true;
  }));
  const auto sum = [&](int64_t RepairStatistics::*bytes) {
    int64_t sum = 0;
    for (int node = 0; node < 4; ++node) sum += cluster.node(node).repairer->statistics().*bytes;
    return sum;
  };
  // What is removed is counted afterwards.
  EXPECT_TRUE(Eventually([&] { return sum(&RepairStatistics::removed_bytes) >= least; }));
  EXPECT_EQ(sum(&RepairStatistics::removed_bytes), least);
  EXPECT_EQ(sum(&RepairStatistics::copied_bytes), least);
}

TEST(Repair, DrainMovesOnlyEncodingsOfTheMember) {
  EngineCluster cluster(4);
  const std::vector<Synthetic> all = Many(150);
  for (const Synthetic& s : all) cluster.Put(s);
  const int64_t least = BytesOwned(cluster, 2, all);
  for (int node = 0; node < 4; ++node) cluster.StartRepair(node);
  for (int node = 0; node < 4; ++node) cluster.WaitComplete(node);
  cluster.node(2).state = MemberState::kDraining;
  cluster.Publish();
  for (int node = 0; node < 4; ++node) cluster.WaitComplete(node);
  EXPECT_EQ(cluster.node(2).repairer->progress().slots, 0);
  int64_t copied = 0;
  for (int node = 0; node < 4; ++node) copied += cluster.node(node).repairer->statistics().copied_bytes;
  EXPECT_EQ(copied, least);
  for (const Synthetic& s : all) {
    for (const int node : {0, 1, 3}) EXPECT_EQ(cluster.Has(node, s), cluster.Owns(node, s) || cluster.Has(node, s));
    int holders = 0;
    for (const int node : {0, 1, 3}) holders += cluster.Owns(node, s) && cluster.Has(node, s);
    EXPECT_EQ(holders, 2);
  }
}

// What the draining member alone holds was acknowledged by it alone. It leaves once the others report that all is done,
// so they must not do so while it is away, whichever of them has the slot already.
TEST(Repair, DrainAwaitsDataOfMemberThatIsAway) {
  EngineCluster cluster(3);
  const std::vector<Synthetic> all = Many(60);
  for (const Synthetic& s : all) {
    if (cluster.Owns(0, s)) {
      cluster.PutAt(0, s);
    } else {
      cluster.Put(s);
    }
  }
  cluster.node(0).alive = false;
  cluster.node(0).faults.down = true;
  cluster.node(0).state = MemberState::kDraining;
  cluster.Publish();
  for (const int node : {1, 2}) cluster.StartRepair(node);
  for (const int node : {1, 2}) {
    const Repairer& repairer = *cluster.node(node).repairer;
    EXPECT_TRUE(Eventually([&] { return repairer.statistics().passes > 1; }));
    EXPECT_FALSE(repairer.progress().complete());
    EXPECT_GT(repairer.progress().slots_done, 0) << "slots that the draining member does not own";
  }
  cluster.node(0).faults.down = false;
  cluster.node(0).alive = true;
  cluster.Publish(/*moves=*/false);
  for (const int node : {1, 2}) cluster.WaitComplete(node, 0);
  for (const Synthetic& s : all) {
    for (const int node : {1, 2}) EXPECT_TRUE(cluster.Has(node, s));
  }
  // What was compared stays done: the draining member takes no more writes.
  cluster.node(0).alive = false;
  cluster.Publish(/*moves=*/false);
  for (const int node : {1, 2}) {
    cluster.WaitComplete(node);
    EXPECT_TRUE(cluster.node(node).repairer->progress().complete());
  }
}

TEST(Repair, KeepsUnownedEncodingUntilOwnersHaveIt) {
  EngineCluster cluster(3);
  std::vector<Synthetic> strays;
  for (uint64_t i = 1; strays.size() < 20; ++i) {
    Synthetic s = MakeSynthetic(i);
    if (cluster.Owns(0, s)) continue;
    cluster.PutAt(0, s);
    if (strays.size() % 2 == 0) cluster.PutAt(1, s);  // of the two owners only one has it
    strays.push_back(std::move(s));
  }
  const auto quick = [](RepairOptions* options) { options->keep_unowned = absl::ZeroDuration(); };
  cluster.StartRepair(0, quick);
  cluster.WaitComplete(0, 3);
  EXPECT_EQ(cluster.node(0).repairer->statistics().removed, 0);
  // The owners get what only one of them, or only a former owner, has; then node 0 removes it.
  cluster.StartRepair(1, quick);
  cluster.StartRepair(2, quick);
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().removed == 20; }));
  for (const Synthetic& s : strays) EXPECT_TRUE(!cluster.Has(0, s) && cluster.Has(1, s) && cluster.Has(2, s));
}

// A member that has nothing to do with the slots comes and goes all the time.
TEST(Repair, RemovesUnownedEncodingsWhileMemberFlaps) {
  EngineCluster cluster(3, /*copies=*/1);
  std::vector<Synthetic> strays;
  for (uint64_t i = 1; strays.size() < 10; ++i) {
    Synthetic s = MakeSynthetic(i);
    if (!cluster.Owns(1, s)) continue;
    for (const int node : {0, 1}) cluster.PutAt(node, s);
    strays.push_back(std::move(s));
  }
  cluster.StartRepair(0, [](RepairOptions* options) {
    options->keep_unowned = absl::Seconds(3);
    options->retry = absl::Milliseconds(100);
  });
  absl::Time next = SteadyNow();
  EXPECT_TRUE(Eventually([&] {
    if (SteadyNow() >= next) {
      ++cluster.node(2).incarnation;
      cluster.Publish(/*moves=*/false);
      next = SteadyNow() + absl::Seconds(1);  // time for what a change costs, also under a sanitizer
    }
    return cluster.node(0).repairer->statistics().removed == 10;
  }));
  for (const Synthetic& s : strays) EXPECT_FALSE(cluster.Has(0, s));
}

// What a node removes passes the rate limit, which takes hours on a large node. What a member that comes back alone has
// must not wait for that.
TEST(Repair, CopiesWhileItRemoves) {
  EngineCluster cluster(3);
  constexpr int kStrays = 20;
  int64_t bytes = 0;
  uint64_t number = 1;
  for (int strays = 0; strays < kStrays; ++number) {
    const Synthetic s = MakeSynthetic(number);
    if (cluster.Owns(0, s)) continue;
    for (int node = 0; node < 3; ++node) cluster.PutAt(node, s);
    bytes += s.bytes();
    ++strays;
  }
  cluster.StartRepair(0, [&](RepairOptions* options) {
    options->keep_unowned = absl::ZeroDuration();
    options->interval = absl::Hours(1);
    options->bytes_per_second = bytes / 4;
  });
  const auto removed = [&] { return cluster.node(0).repairer->statistics().removed; };
  ASSERT_TRUE(Eventually([&] { return removed() > 0; }));
  while (!cluster.Owns(0, MakeSynthetic(number)) || !cluster.Owns(1, MakeSynthetic(number))) ++number;
  const Synthetic s = MakeSynthetic(number);
  cluster.PutAt(1, s);
  ++cluster.node(1).incarnation;
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(0, s); }));
  EXPECT_LT(removed(), kStrays);
  EXPECT_TRUE(Eventually([&] { return removed() == kStrays; })) << "it goes on";
}

// The interval is an hour, and the view does not change.
TEST(Repair, RefillsEmptiedNodeAtOnce) {
  EngineCluster cluster(2);
  const std::vector<Synthetic> all = Many(40);
  for (const Synthetic& s : all) cluster.Put(s);
  cluster.StartRepair(0, [](RepairOptions* options) { options->interval = absl::Hours(1); });
  cluster.WaitComplete(0, 0);
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().passes == 1; }));
  cluster.node(1).faults.down = true;
  ASSERT_TRUE(cluster.node(0).engine->DropAll({}).ok());
  cluster.node(0).repairer->Restart();
  EXPECT_EQ(cluster.node(0).repairer->progress().slots_done, 0);
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().peer_errors > 0; }));
  EXPECT_FALSE(cluster.node(0).repairer->progress().complete());
  cluster.node(1).faults.down = false;
  cluster.WaitComplete(0, 0);
  for (const Synthetic& s : all) EXPECT_TRUE(cluster.Has(0, s));
}

TEST(Repair, DistinguishesRepeatedEpochByMembers) {
  EngineCluster cluster(3);
  for (const Synthetic& s : Many(40)) cluster.Put(s);
  cluster.StartRepair(0, [](RepairOptions* options) { options->interval = absl::Hours(1); });
  cluster.WaitComplete(0, 0);
  for (const int node : {1, 2}) cluster.node(node).faults.down = true;
  cluster.Add(MemberState::kActive);
  cluster.node(1).state = MemberState::kDraining;
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return !cluster.node(0).repairer->progress().complete(); }));
  for (const int node : {1, 2}) cluster.node(node).faults.down = false;
  cluster.WaitComplete(0, 0);
}

// Claims to have one encoding in slot 7, but its listing never ends.
class EndlessPeer : public RepairPeer {
 public:
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override {
    std::vector<SlotDigest> digests(slots.size());
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] == 7) digests[i] = {.low = 1, .high = 1, .bytes = 4096, .encodings = 1};
    }
    return digests;
  }
  absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>&) override {
    SlotListing listing{.more = true};
    for (int i = 0; i < 2048; ++i) {
      SlotEntry entry{.ns = "ns", .bytes = 4096};
      entry.identity.bytes[1] = static_cast<uint8_t>(slot);
      ++number_;
      for (int byte = 0; byte < 4; ++byte) entry.identity.bytes[2 + byte] = static_cast<uint8_t>(number_ >> 8 * byte);
      listing.encodings.push_back(std::move(entry));
    }
    return listing;
  }
  absl::StatusOr<std::unique_ptr<client::PartLease>> ReadPart(const SlotEntry&, const client::EncodingPart&,
                                                              absl::Time) override {
    return absl::NotFoundError("there is no such thing");
  }

 private:
  uint32_t number_ = 0;
};

TEST(Repair, AbandonsEndlessListing) {
  if (testing::kSanitized) GTEST_SKIP() << "a quarter of a million entries take long here";
  EngineCluster cluster(2);
  cluster.StartRepair(0, [](RepairOptions* options) {
    options->open_peer = [](const NodeId&, const std::string&) { return std::make_shared<EndlessPeer>(); };
    options->retry = absl::Hours(1);
  });
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().peer_errors > 0; }));
}

// Claims to have one encoding, of which nothing ever arrives.
class StuckPeer : public RepairPeer {
 public:
  StuckPeer(const Manifest* manifest, std::atomic<bool>* waits) : manifest_(manifest), waits_(waits) {}
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override {
    std::vector<SlotDigest> digests(slots.size());
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] == SlotOf(manifest_->identity)) digests[i] = {.low = 1, .high = 1, .bytes = 4096, .encodings = 1};
    }
    return digests;
  }
  absl::StatusOr<SlotListing> ListSlot(int, const std::optional<SlotEntry>&) override {
    SlotListing listing;
    listing.encodings.push_back({.ns = "ns",
                                 .identity = manifest_->identity,
                                 .codec = manifest_->codec,
                                 .etag = manifest_->etag,
                                 .bytes = manifest_->bytes()});
    return listing;
  }
  absl::StatusOr<std::unique_ptr<client::PartLease>> ReadPart(const SlotEntry&, const client::EncodingPart&,
                                                              absl::Time) override {
    return std::make_unique<Part>(manifest_, waits_);
  }

 private:
  class Part : public client::PartLease {
   public:
    Part(const Manifest* manifest, std::atomic<bool>* waits) : manifest_(manifest), waits_(waits) {}
    const Manifest& manifest() const override { return *manifest_; }
    Tier source() const override { return Tier::kDisk; }
    absl::Status WaitLayer(int64_t, absl::Time deadline) override {
      *waits_ = true;
      absl::SleepFor(deadline - SteadyNow());
      return absl::DeadlineExceededError("it is stuck");
    }
    absl::Span<const std::byte> head(int64_t, int64_t) const override { return {}; }

   private:
    const Manifest* const manifest_;
    std::atomic<bool>* const waits_;
  };
  const Manifest* const manifest_;
  std::atomic<bool>* const waits_;
};

TEST(Repair, StopsInMiddleOfPart) {
  EngineCluster cluster(2);
  const Synthetic s = MakeSynthetic(1);
  std::atomic<bool> waits{false};
  cluster.StartRepair(0, [&](RepairOptions* options) {
    options->open_peer = [&](const NodeId&, const std::string&) {
      return std::make_shared<StuckPeer>(&s.manifest, &waits);
    };
    options->copy_timeout = absl::Hours(1);
  });
  EXPECT_TRUE(Eventually([&] { return waits.load(); }));
  cluster.StopRepair(0);
}

// Closing a peer takes as long as the network does.
TEST(Repair, ClosesReplacedPeerWithoutLock) {
  class ClosingPeer : public EndlessPeer {
   public:
    explicit ClosingPeer(std::function<void()> closes) : closes_(std::move(closes)) {}
    ~ClosingPeer() override { closes_(); }

   private:
    const std::function<void()> closes_;
  };
  Thread other;
  std::atomic<bool> went_on{false}, waited{false};
  Peers* all = nullptr;
  const auto closes = [&] {
    if (waited.exchange(true)) return;
    other = Thread("other", [&] { went_on = all->failing() == 0; });
    EXPECT_TRUE(Eventually([&] { return went_on.load(); }));
  };
  Peers peers([&](const NodeId&, const std::string&) { return std::make_shared<ClosingPeer>(closes); },
              absl::Seconds(1), nullptr);
  all = &peers;
  ASSERT_TRUE(peers.Get({}, "10.0.0.1:7400").ok());
  ASSERT_TRUE(peers.Get({}, "10.0.0.2:7400").ok());
  EXPECT_TRUE(waited);
  other.Join();
}

// One report for each kind of error, and one for its end.
TEST(Repair, ReportsFailingPeer) {
  Mutex mutex;
  std::vector<std::string> events;
  EngineCluster cluster(2);
  cluster.node(1).faults.down = true;
  cluster.StartRepair(0, [&](RepairOptions* options) {
    options->report = [&](absl::string_view event, absl::string_view) {
      MutexLock lock(&mutex);
      events.emplace_back(event);
    };
  });
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().peer_errors > 3; }));
  cluster.node(1).faults.down = false;
  cluster.WaitComplete(0);
  cluster.StopRepair(0);
  MutexLock lock(&mutex);
  EXPECT_THAT(events, ::testing::ElementsAre("repair_peer_failed", "repair_peer_back"));
}

TEST(Repair, DyingPeerOnlyDelays) {
  EngineCluster cluster(3, /*copies=*/3);
  for (const Synthetic& s : Many(60)) cluster.Put(s);
  const auto before = AllDigests(cluster.node(0).engine.get());
  cluster.Replace(0);
  cluster.node(1).faults.down_after = 7;
  cluster.node(2).faults.down_after = 11;
  cluster.StartRepair(0);
  EXPECT_TRUE(Eventually([&] { return cluster.node(1).faults.down && cluster.node(2).faults.down; }));
  const RepairProgress progress = cluster.node(0).repairer->progress();
  EXPECT_FALSE(progress.complete());
  for (const int node : {1, 2}) cluster.node(node).faults.down_after = -1;
  cluster.node(2).faults.down = false;
  // The other peer has lost its lease, and is not awaited.
  cluster.node(1).alive = false;
  cluster.Publish(/*moves=*/false);
  cluster.WaitComplete(0, 0);
  EXPECT_EQ(AllDigests(cluster.node(0).engine.get()), before);
}

TEST(Repair, WaitsForDeadOwnerOnlyIfNoOtherHasSlot) {
  EngineCluster cluster(3);
  for (const Synthetic& s : Many(60)) cluster.Put(s);
  cluster.node(1).alive = false;
  cluster.node(1).faults.down = true;
  const int joining = cluster.Add(MemberState::kJoining);
  cluster.Publish();
  cluster.StartRepair(joining);
  cluster.WaitComplete(joining);  // each slot has another current owner
  cluster.StopRepair(joining);

  EngineCluster single(2, /*copies=*/1);
  for (const Synthetic& s : Many(60)) single.Put(s);
  single.node(1).alive = false;
  single.node(1).faults.down = true;
  const int third = single.Add(MemberState::kJoining);
  single.Publish();
  single.StartRepair(third);
  EXPECT_TRUE(Eventually([&] { return single.node(third).repairer->statistics().passes > 0; }));
  const RepairProgress half = single.node(third).repairer->progress();
  EXPECT_FALSE(half.complete());
  EXPECT_GT(half.slots_done, 0);
  single.node(1).alive = true;
  single.node(1).faults.down = false;
  single.Publish(/*moves=*/false);
  single.WaitComplete(third);
}

TEST(Repair, CopiesDespiteFrozenAndDamagedPeers) {
  for (const bool frozen : {true, false}) {
    EngineCluster cluster(3, /*copies=*/3);
    for (const Synthetic& s : Many(30)) cluster.Put(s);
    const auto before = AllDigests(cluster.node(0).engine.get());
    cluster.Replace(0);
    (frozen ? cluster.node(1).faults.frozen : cluster.node(1).faults.damaged) = true;
    cluster.StartRepair(0, [](RepairOptions* options) { options->copy_timeout = absl::Milliseconds(50); });
    cluster.WaitComplete(0);
    EXPECT_EQ(AllDigests(cluster.node(0).engine.get()), before);
    EXPECT_GT(cluster.node(0).repairer->statistics().peer_errors, 0);
  }
}

// Members may have different amounts of memory, and one must not wait for ever for what it cannot take.
TEST(Repair, SkipsEncodingBeyondMemory) {
  EngineCluster cluster(2);
  EngineCluster::Node& large = cluster.node(1);
  large.engine = nullptr;
  engine::EngineOptions options;
  options.dram_bytes = 64 << 20;
  options.capacity_bytes = 256 << 20;
  options.segment_bytes = 1 << 20;
  auto opened = engine::Engine::Open(large.directory->path() + "/store", options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  large.engine = *std::move(opened);
  const Synthetic beyond = MakeSynthetic(1, /*layers=*/2, /*tokens=*/40960), other = MakeSynthetic(2);
  ASSERT_GT(beyond.bytes(), cluster.node(0).engine->Stats().dram_bytes);
  cluster.PutAt(1, beyond);
  cluster.PutAt(1, other);
  cluster.StartRepair(0);
  cluster.WaitComplete(0);
  EXPECT_TRUE(cluster.Has(0, other));
  EXPECT_FALSE(cluster.Has(0, beyond));
  EXPECT_GT(cluster.node(0).repairer->statistics().left_for_room, 0);
}

TEST(Repair, EvictsNothingForColderEncodings) {
  EngineCluster cluster(2, /*copies=*/2, /*capacity=*/8 << 20);
  const std::vector<Synthetic> here = Many(110), there = Many(100, 1000);
  for (const Synthetic& s : here) cluster.PutAt(0, s);
  for (const Synthetic& s : there) cluster.PutAt(1, s);
  std::vector<const Synthetic*> hot;
  for (size_t i = 0; i < 4; ++i) {
    hot.push_back(&there[i * 7]);
    for (int use = 0; use < 2; ++use) {
      ASSERT_TRUE(cluster.node(1).engine->Touch({"ns", hot[i]->manifest.identity, hot[i]->manifest.codec}).ok());
    }
  }
  const int64_t evictions = cluster.node(0).engine->Stats().evictions;
  cluster.StartRepair(0);
  cluster.WaitComplete(0);
  const RepairStatistics statistics = cluster.node(0).repairer->statistics();
  EXPECT_GT(statistics.left_for_room, 0);
  for (const Synthetic* s : hot) EXPECT_TRUE(cluster.Has(0, *s));
  int cold = 0;
  for (const Synthetic& s : there) cold += cluster.Has(0, s);
  EXPECT_LE(cold, 20) << "no more than there was room for, and the hot ones";
  EXPECT_LE(cluster.node(0).engine->Stats().evictions - evictions, 8);
}

// Even if the slots were done before.
TEST(Repair, RetriesUnfinishedWorkSoon) {
  EngineCluster cluster(2);
  cluster.StartRepair(0, [](RepairOptions* options) { options->interval = absl::Hours(1); });
  cluster.WaitComplete(0, 0);
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().passes == 1; }));
  const Synthetic s = MakeSynthetic(1);
  cluster.PutAt(1, s);
  cluster.node(1).faults.damaged = true;
  ++cluster.node(1).incarnation;
  cluster.Publish(/*moves=*/false);
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).repairer->statistics().failed > 0; }));
  cluster.node(1).faults.damaged = false;
  EXPECT_TRUE(Eventually([&] { return cluster.Has(0, s); }));
}

// When a lease ends and begins again, only the node itself compares with all others, since clients did not write to it.
TEST(Repair, ReturningNodeComparesAlone) {
  EngineCluster cluster(3, /*copies=*/3);
  cluster.StartRepair(0, [](RepairOptions* options) { options->interval = absl::Hours(1); });
  cluster.WaitComplete(0, 0);
  const auto statistics = [&] { return cluster.node(0).repairer->statistics(); };
  EXPECT_TRUE(Eventually([&] { return statistics().passes == 1; }));
  EXPECT_EQ(statistics().slots_compared, 2 * kSlots);
  const auto comes_back = [&](int node, const Synthetic& brings) {
    cluster.node(node).alive = false;
    cluster.Publish(/*moves=*/false);
    cluster.PutAt(node, brings);
    cluster.node(node).alive = true;
    ++cluster.node(node).incarnation;
    cluster.Publish(/*moves=*/false);
    EXPECT_TRUE(Eventually([&] { return cluster.Has(0, brings); }));
  };
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2), c = MakeSynthetic(3);
  comes_back(1, a);
  EXPECT_TRUE(Eventually([&] { return statistics().slots_compared == 3 * kSlots; }));
  comes_back(2, b);
  EXPECT_TRUE(Eventually([&] { return statistics().slots_compared == 4 * kSlots; }));
  EXPECT_EQ(statistics().slots_listed, 2);
  EXPECT_EQ(statistics().passes, 1);
  cluster.PutAt(2, c);
  comes_back(0, MakeSynthetic(4));
  EXPECT_TRUE(Eventually([&] { return statistics().passes == 2 && cluster.Has(0, c); }));
  EXPECT_EQ(statistics().slots_compared, 6 * kSlots);
}

TEST(RateLimit, LimitsBytesToRateBurstAndOneRequest) {
  std::mt19937_64 random(TestSeed());
  constexpr int64_t kRate = 1000;
  const absl::Duration burst = absl::Seconds(2);
  RateLimit limit(kRate, burst);
  const absl::Time start = absl::UnixEpoch();
  absl::Time now = start;
  int64_t gone = 0;
  absl::Duration idle;
  for (int i = 0; i < 2000; ++i) {
    if (i % 500 == 499) {
      now += absl::Seconds(100);
      idle += absl::Seconds(100);
    }
    const int64_t bytes = 1 + static_cast<int64_t>(random() % 700);
    const absl::Time from = limit.Take(bytes, now);
    now = std::max(now, from);
    gone += bytes;
    const double allowed = absl::ToDoubleSeconds(now - start) * kRate + 2 * kRate + 700;
    ASSERT_LE(static_cast<double>(gone), allowed);
  }
  // A caller that always has bytes to send gets the full rate.
  EXPECT_GE(static_cast<double>(gone), 0.99 * kRate * absl::ToDoubleSeconds(now - start - idle));
}

// Copies pass the rate limit, so their bytes take a minimum time on any machine.
TEST(Repair, CopiesPassRateLimit) {
  EngineCluster cluster(2);
  const std::vector<Synthetic> all = Many(40);
  int64_t bytes = 0;
  for (const Synthetic& s : all) {
    cluster.PutAt(1, s);
    bytes += s.bytes();
  }
  const absl::Time begun = SteadyNow();
  cluster.StartRepair(0, [&](RepairOptions* options) { options->bytes_per_second = 2 * bytes; });
  cluster.WaitComplete(0);
  const int64_t last = all[0].bytes();
  EXPECT_GE(SteadyNow() - begun, absl::Seconds(0.5 * static_cast<double>(bytes - last) / static_cast<double>(bytes)) -
                                     absl::Milliseconds(100));
  EXPECT_EQ(cluster.node(0).repairer->statistics().copied_bytes, bytes);
}

}  // namespace
}  // namespace kvlink::store::cluster
