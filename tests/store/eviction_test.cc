// Evictions for an allocation: few where free blocks are scattered, none for one that can never fit.
#include <algorithm>
#include <cstdio>
#include <map>
#include <random>
#include <set>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/disk/allocator.h"
#include "store/engine/engine.h"
#include "store/engine/index/table.h"
#include "store/engine/index/windows.h"
#include "tests/store/synthetic.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Soak;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::HasSubstr;

EncodingKey KeyNumber(uint64_t number) {
  EncodingKey key{"ns", {}, Codec::kRawBf16};
  std::mt19937_64 random(number);  // as a hash would
  for (size_t i = 0; i < key.identity.bytes.size(); ++i) key.identity.bytes[i] = static_cast<uint8_t>(random());
  return key;
}

// Puts into a table as the engine does: allocates, evicting what the table picks.
class Puts {
 public:
  Puts(int segments, uint32_t usable_blocks) : limit_(int64_t{segments} * usable_blocks) {
    for (int i = 0; i < segments; ++i)
      table_.AddFree({static_cast<uint32_t>(i) * (usable_blocks + 1) + 1, usable_blocks});
  }
  // Blocks evicted for it, or -1: there was no room.
  int64_t Put(int64_t blocks) {
    int64_t evicted = 0;
    std::optional<Runs> runs;
    while (!(runs = table_.Allocate("ns", blocks)).has_value()) {
      const std::vector<EncodingKey> victims = table_.PickFor("ns", blocks, limit_);
      if (victims.empty()) return -1;
      for (const EncodingKey& victim : victims) {
        evicted += table_.Find(victim)->blocks();
        table_.Remove(victim);
      }
    }
    Location location;
    location.tokens = 1;
    location.bytes = blocks * kSegmentBlockBytes;
    location.sequence = ++sequence_;
    location.runs = *runs;
    table_.Insert(KeyNumber(sequence_), location);
    return evicted;
  }
  Table& table() { return table_; }

 private:
  Table table_;
  const int64_t limit_;
  uint64_t sequence_ = 0;
};

TEST(EvictionTest, ALargeEncodingAmongSmallOnesEvictsAboutItsSize) {
  // 128 GiB in segments of 256 MiB; encodings of 64 MiB and, one of eight, of 1 GiB.
  constexpr int64_t kSmall = 1024, kLarge = 16384;
  Puts puts(512, 4095);
  std::mt19937_64 random(TestSeed());
  double sum = 0, worst = 0;
  int large = 0;
  for (int i = 0; i < 6000; ++i) {
    const bool is_large = random() % 8 == 0;
    const int64_t evicted = puts.Put(is_large ? kLarge : kSmall);
    ASSERT_GE(evicted, 0) << "put " << i;
    if (!is_large || i < 1000) continue;  // full by then
    const double times = static_cast<double>(evicted) / kLarge;
    sum += times;
    worst = std::max(worst, times);
    ++large;
  }
  std::printf("1 GiB among 64 MiB: evicts %.2f times its size, at worst %.2f (%d puts)\n", sum / large, worst, large);
  EXPECT_LT(sum / large, 1.5);
  EXPECT_LE(worst, 4);
}

TEST(EvictionTest, SmallEncodingsOfManySizes) {
  // 4 GiB of encodings of 1 to 40 blocks, and now and then one of 400.
  Puts puts(16, 4095);
  std::mt19937_64 random(TestSeed());
  int64_t evicted = 0, put = 0;
  for (int i = 0; i < (Soak() ? 100000 : 10000); ++i) {
    const int64_t blocks = random() % 100 == 0 ? 400 : 1 + static_cast<int64_t>(random() % 40);
    const int64_t out = puts.Put(blocks);
    ASSERT_GE(out, 0) << "put " << i;
    if (i < 5000) continue;
    evicted += out;
    put += blocks;
  }
  std::printf("mixed sizes: evicts %.2f times what is put\n", static_cast<double>(evicted) / static_cast<double>(put));
  EXPECT_LT(evicted, 3 * put / 2);
}

TEST(EvictionTest, TheHotterNeighbourStays) {
  Puts puts(1, 160);
  for (int i = 0; i < 160; ++i) ASSERT_EQ(puts.Put(1), 0);
  // Seventy blocks need adjacent ones in at most 64 runs; the first half is in use all the time.
  for (uint64_t i = 1; i <= 80; ++i) {
    for (int use = 0; use < 3; ++use) puts.table().Use(KeyNumber(i), /*touch=*/true);
  }
  EXPECT_EQ(puts.Put(70), 70);
  for (uint64_t i = 1; i <= 80; ++i) EXPECT_TRUE(puts.table().Find(KeyNumber(i)).has_value()) << i;
}

// Evicting what the windows name always suffices; where evicting everything would do, they name something.
TEST(EvictionTest, WindowsSuffice) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < (Soak() ? 20000 : 2000); ++round) {
    std::vector<Piece> pieces;
    std::map<int32_t, std::vector<engine::Run>> owned;
    std::map<int32_t, int64_t> sizes;
    BlockAllocator now, empty;
    uint32_t at = 0;
    for (int i = 0; i < 40; ++i) {
      at += random() % 4 == 0;  // somebody else's block
      const engine::Run run{at, 1 + static_cast<uint32_t>(random() % 9)};
      at += run.count;
      if (random() % 4 == 0) {
        now.Free(run);
      } else {
        const auto owner = static_cast<int32_t>(random() % 25);
        if (owned[owner].size() == kMaxRuns) continue;
        owned[owner].push_back(run);
        sizes[owner] += run.count;
      }
      empty.Free(run);
    }
    now.ForEachFree(0, at, [&pieces](engine::Run run) { pieces.push_back({run, 0, Piece::kFree}); });
    for (const auto& [owner, runs] : owned) {
      for (const engine::Run& run : runs) pieces.push_back({run, sizes[owner], owner});
    }
    const int64_t blocks = 1 + static_cast<int64_t>(random() % 100);
    std::shuffle(pieces.begin(), pieces.end(), random);
    const std::vector<int32_t> chosen = CheapestWindows(&pieces, blocks);
    ASSERT_EQ(std::set<int32_t>(chosen.begin(), chosen.end()).size(), chosen.size());
    for (const int32_t owner : chosen) {
      for (const engine::Run& run : owned[owner]) now.Free(run);
    }
    ASSERT_EQ(now.Allocate(blocks).has_value(), empty.Allocate(blocks).has_value()) << "round " << round;
  }
}

TEST(EvictionTest, WhatCanNeverFitEvictsNothing) {
  ScratchDirectory scratch(/*in_memory=*/true);
  EngineOptions options;
  options.dram_bytes = 64 << 20;
  options.segment_bytes = 192 << 10;  // 2 blocks beside the header: 128 for one encoding
  options.capacity_bytes = 32 << 20;
  auto engine = Engine::Open(scratch.path(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  for (int i = 0; i < 100; ++i) {
    const Synthetic s = MakeSynthetic(i);
    ASSERT_TRUE((*engine)->Put("a", s.manifest, s.spans(), deadline).ok());
  }
  const Synthetic large = MakeSynthetic(1000, 100, 700);
  ASSERT_GT(large.manifest.bytes(), 128 * kSegmentBlockBytes);
  const absl::Status put = (*engine)->Put("b", large.manifest, large.spans(), deadline).status();
  EXPECT_TRUE(absl::IsInvalidArgument(put)) << put;
  EXPECT_THAT(std::string(put.message()), HasSubstr("at most 8388608 bytes of one encoding"));
  std::vector<int64_t> lengths;
  for (const auto& slab : large.slabs) lengths.push_back(static_cast<int64_t>(slab.size()));
  const absl::Status push = (*engine)->BeginPush({"b", large.manifest.identity, Codec::kRawBf16}, lengths).status();
  EXPECT_TRUE(absl::IsInvalidArgument(push)) << push;
  Engine::Statistics stats = (*engine)->Stats();
  EXPECT_EQ(stats.evictions, 0);
  EXPECT_EQ(stats.dram_evictions, 0);
  EXPECT_EQ(stats.namespaces[0].encodings, 100);

  // A put that just fits evicts about its size: the cheapest windows, and what maintenance evicts meanwhile.
  const Synthetic fits = MakeSynthetic(1001, 80, 700);
  ASSERT_LE(fits.manifest.bytes(), 120 * kSegmentBlockBytes);
  for (int i = 100; i < 330; ++i) {
    const Synthetic s = MakeSynthetic(i);
    ASSERT_TRUE((*engine)->Put("a", s.manifest, s.spans(), deadline).ok());
  }
  const auto before = (*engine)->Stats();
  EXPECT_EQ((*engine)->Put("b", fits.manifest, fits.spans(), deadline).status(), absl::OkStatus());
  stats = (*engine)->Stats();
  EXPECT_GT(before.namespaces[0].encodings, 2 * BlocksFor(fits.manifest.bytes()));
  EXPECT_LE(stats.evictions - before.evictions, 2 * BlocksFor(fits.manifest.bytes()));
}

TEST(EvictionTest, WhatExceedsTheCapacityIsNamed) {
  ScratchDirectory scratch(/*in_memory=*/true);
  EngineOptions options;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 2 << 20;
  auto engine = Engine::Open(scratch.path(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const Synthetic large = MakeSynthetic(1, 30, 700);
  const absl::Status put = (*engine)->Put("b", large.manifest, large.spans(), SteadyNow() + absl::Seconds(60)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(put)) << put;
  EXPECT_THAT(std::string(put.message()), HasSubstr("the capacity of this store holds 1966080 bytes"));
}

}  // namespace
}  // namespace kvlink::engine
