// The DRAM tier: who is resident, whose memory it is, and how much of it there is, against plain models.
#include "tests/store/tier.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/engine/memory/dram_tier.h"
#include "tests/store/told_memory.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::ManifestOf;
using kvlink::testing::Soak;
using kvlink::testing::TestSeed;
using ::kvlink::testing::ToldMemory;

constexpr int64_t kPage = ArenaPool::kPageBytes;
constexpr int64_t kMiB = int64_t{1} << 20;

// A tier, and all memory it told of.
class TierTest : public ::testing::TestWithParam<bool> {
 protected:
  void Open(int64_t limit, int64_t max_residencies = 0, int64_t first_piece_bytes = 0) {
    tier_.reset();
    memories_.clear();
    told_.Clear();
    auto tier =
        DramTier::Create({.memory = {.limit = limit,
                                     .shared = GetParam(),
                                     .memory_added = [this](const TierMemory& memory) { memories_.push_back(memory); },
                                     .chunk_ready = [this](const TierChunk& chunk) { told_.Add(chunk); },
                                     .first_piece_bytes = first_piece_bytes},
                          .max_residencies = max_residencies});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  absl::StatusOr<ResidentLease> Add(absl::string_view ns, uint64_t sequence, absl::Span<const int64_t> lengths,
                                    bool pinned = false) {
    auto residency = tier_->MakeRoom(ns, ManifestOf(lengths), Eviction::kAnything, absl::InfinitePast());
    if (!residency.ok()) return residency.status();
    bool added = false;
    ResidentLease lease = tier_->Add(sequence, *std::move(residency), pinned, &added);
    EXPECT_TRUE(added);
    return lease;
  }
  int64_t Present(const std::string& ns) const {
    for (const auto& memory : tier_->Namespaces()) {
      if (memory.ns == ns) return memory.present;
    }
    return 0;
  }
  // The tier's resident memory, from the operating system.
  int64_t Resident() const {
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    int64_t kilobytes = 0;
    bool ours = false;
    while (std::getline(smaps, line)) {
      uintptr_t first = 0, last = 0;
      long rss = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) {
        ours = told_.AnyWithin(first, last);
      } else if (ours && std::sscanf(line.c_str(), "Rss: %ld kB", &rss) == 1) {
        kilobytes += rss;
      }
    }
    return kilobytes << 10;
  }
  void LeasesAndPlaces(int64_t first_piece_bytes);
  uint64_t Generation(uint64_t slot) const {
    uint64_t value = 0;
    EXPECT_EQ(pread(tier_->generations().descriptor(), &value, 8, static_cast<off_t>(slot * 8)), 8);
    return value;
  }

  // Where it lies, by what the tier told.
  const std::byte* At(const Place& place) const { return told_.At(place); }

  std::vector<TierMemory> memories_;
  ToldMemory told_;
  std::unique_ptr<DramTier> tier_;
};
INSTANTIATE_TEST_SUITE_P(Memory, TierTest, ::testing::Bool(), [](const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "Shared" : "Anonymous";
});

std::vector<int64_t> RandomLengths(std::mt19937_64* random, int64_t max_pages) {
  std::vector<int64_t> lengths(1 + (*random)() % 4);
  for (int64_t& length : lengths) length = kPage * static_cast<int64_t>((*random)() % (1 + max_pages / lengths.size()));
  lengths[(*random)() % lengths.size()] += kPage;
  return lengths;
}

// In one piece of memory for each namespace, and in pieces of two chunks, which the largest encodings do not fit into
// whole.
TEST_P(TierTest, LeasedBytesStayAndEverythingHasItsPlace) {
  LeasesAndPlaces(/*first_piece_bytes=*/0);
  EXPECT_EQ(memories_.size(), 4u);
  LeasesAndPlaces(kMiB / 2);
  EXPECT_GT(memories_.size(), 8u);
}

void TierTest::LeasesAndPlaces(int64_t first_piece_bytes) {
  std::mt19937_64 random(TestSeed());
  Open(4 * kMiB, 0, first_piece_bytes);
  struct Held {
    ResidentLease lease;
    uint64_t word;
  };
  std::map<uint64_t, uint64_t> words;  // of what was added, by sequence
  std::deque<Held> leases;
  std::set<uint64_t> numbers;
  uint64_t next = 1;
  int refused = 0, found = 0, gone = 0;
  const auto check = [&](const Held& held) {
    const Residency& residency = *held.lease;
    for (size_t layer = 0; layer < residency.manifest().layers.size(); ++layer) {
      const absl::Span<std::byte> slab = residency.slab(layer);
      const Place place = residency.place(layer);
      if (slab.empty()) continue;
      const TierMemory& memory = memories_.at(place.memory - 1);
      ASSERT_EQ(memory.number, place.memory);
      ASSERT_LE(place.offset + static_cast<int64_t>(slab.size()), memory.bytes);
      ASSERT_EQ(At(place), slab.data());
      for (int64_t i = 0; i < static_cast<int64_t>(slab.size()); i += kPage) {
        ASSERT_EQ(*reinterpret_cast<uint64_t*>(slab.data() + i), held.word) << "another's bytes under a lease";
      }
      if (GetParam() && random() % 16 == 0) {
        uint64_t seen = 0;
        ASSERT_EQ(pread(memory.descriptor, &seen, 8, place.offset), 8);
        ASSERT_EQ(seen, held.word) << "readers see something else";
      }
    }
    if (GetParam()) {
      ASSERT_EQ(Generation(residency.generation().number()), residency.generation().generation());
    }
  };
  for (int i = 0; i < (Soak() ? 100000 : 10000); ++i) {
    const std::string ns(1, static_cast<char>('a' + random() % 4));
    const uint64_t old = next - std::min<uint64_t>(next, random() % 80);
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const uint64_t sequence = next++;
        auto lease = Add(ns, sequence, RandomLengths(&random, random() % 20 == 0 ? 300 : 30), random() % 10 == 0);
        if (!lease.ok()) {
          ASSERT_TRUE(absl::IsResourceExhausted(lease.status())) << lease.status();
          ASSERT_FALSE(leases.empty());
          ++refused;
          break;
        }
        ASSERT_TRUE(numbers.insert((*lease)->number()).second) << "a number of a residency came twice";
        Held held{*std::move(lease), random()};
        for (size_t layer = 0; layer < held.lease->manifest().layers.size(); ++layer) {
          const absl::Span<std::byte> slab = held.lease->slab(layer);
          for (int64_t at = 0; at < static_cast<int64_t>(slab.size()); at += kPage)
            *reinterpret_cast<uint64_t*>(slab.data() + at) = held.word;
        }
        words[sequence] = held.word;
        leases.push_back(std::move(held));
        break;
      }
      case 3: {
        ResidentLease lease = tier_->Acquire(old);
        (lease ? found : gone) += 1;
        if (!lease) break;
        check(leases.emplace_back(Held{std::move(lease), words.at(old)}));
        break;
      }
      case 4:
        tier_->Forget(old);
        EXPECT_FALSE(tier_->Resident(old));
        break;
      case 5:
        tier_->SetPinned(old, random() % 2 == 0);
        break;
      default:
        break;
    }
    while (leases.size() > 1 + random() % 60) {
      check(leases.front());
      const uint64_t slot = leases.front().lease->generation().number(),
                     value = leases.front().lease->generation().generation();
      leases.pop_front();
      if (GetParam()) {
        ASSERT_GE(Generation(slot), value);
      }
    }
    ASSERT_EQ(tier_->leases(), static_cast<int64_t>(leases.size()));
    ASSERT_LE(tier_->used(), tier_->present());
    ASSERT_LE(tier_->present(), 4 * kMiB);
  }
  for (const Held& held : leases) check(held);
  EXPECT_GT(refused, 10);
  EXPECT_GT(found, 100);
  EXPECT_GT(gone, 100);
  leases.clear();
  tier_->Drop();
  EXPECT_EQ(tier_->used(), 0);
  EXPECT_EQ(tier_->generations().taken(), 0);
}

TEST_P(TierTest, RevocableLeasesGiveWayToThoseBelowTheirShare) {
  Open(4 * kMiB);
  std::vector<ResidentLease> leases;
  std::vector<std::pair<uint64_t, uint64_t>> generations;
  for (uint64_t sequence = 1;; ++sequence) {
    auto lease = Add("greedy", sequence, {64 * kPage});
    if (!lease.ok()) break;
    generations.emplace_back((*lease)->generation().number(), (*lease)->generation().generation());
    leases.push_back(*std::move(lease));
  }
  ASSERT_EQ(leases.size(), 16u);
  EXPECT_TRUE(absl::IsResourceExhausted(Add("modest", 100, {kPage}).status())) << "leases that are for good";
  // Forgotten ones count as well: what was removed and is still mapped.
  for (size_t i = 0; i < leases.size(); ++i) {
    leases[i].MakeRevocable();
    EXPECT_FALSE(leases[i]);
    if (i % 2 == 0) tier_->Forget(i + 1);
  }
  const auto changed = [&] {
    int count = 0;
    for (const auto& [slot, value] : generations) count += GetParam() && Generation(slot) != value;
    return count;
  };
  EXPECT_EQ(changed(), 0) << "nobody needed the memory yet";
  EXPECT_TRUE(absl::IsResourceExhausted(Add("greedy", 50, {kPage}).status())) << "its own are not revoked for it";
  std::vector<ResidentLease> modest;
  for (uint64_t sequence = 100; sequence < 108; ++sequence) {
    auto lease = Add("modest", sequence, {64 * kPage});
    ASSERT_TRUE(lease.ok()) << lease.status() << " at " << sequence;
    modest.push_back(*std::move(lease));
  }
  // Half of the tier is its share, and the other keeps the other half.
  EXPECT_TRUE(absl::IsResourceExhausted(Add("modest", 200, {64 * kPage}).status()));
  EXPECT_EQ(tier_->revoked(), 8);
  EXPECT_EQ(changed(), GetParam() ? 8 : 0);
  leases.clear();
  modest.clear();
  tier_->Drop();
  EXPECT_EQ(tier_->leases(), 0);
  EXPECT_EQ(tier_->used(), 0);
  EXPECT_EQ(tier_->generations().taken(), 0);
}

// Whoever waits for room learns of a lease that may be taken back now.
TEST_P(TierTest, ALeaseThatBecomesRevocableWakesWhoWaits) {
  Open(4 * kMiB);
  // Memory of a put under way is expected back, so its namespace waits for room instead of being refused.
  const std::vector<int64_t> lengths = {64 * kPage};
  auto under_way = tier_->MakeRoom("modest", ManifestOf(lengths), Eviction::kAnything, absl::InfinitePast());
  ASSERT_TRUE(under_way.ok()) << under_way.status();
  std::vector<ResidentLease> leases;
  for (uint64_t sequence = 1;; ++sequence) {
    auto lease = Add("greedy", sequence, {64 * kPage});
    if (!lease.ok()) break;
    leases.push_back(*std::move(lease));
  }
  std::atomic<bool> done{false};
  absl::Status outcome;
  std::thread waits([&] {
    outcome =
        tier_->MakeRoom("modest", ManifestOf(lengths), Eviction::kAnything, SteadyNow() + absl::Minutes(2)).status();
    done = true;
  });
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_FALSE(done);
  for (ResidentLease& lease : leases) lease.MakeRevocable();
  waits.join();
  EXPECT_TRUE(outcome.ok()) << outcome;
}

TEST_P(TierTest, WhoeverGetsNoPieceIsToldAndTakesNothingFromOthers) {
  std::set<int> there;  // numbers of chunks
  auto tier = DramTier::Create(
      {.memory = {.limit = 4 * kMiB,
                  .shared = GetParam(),
                  .chunk_ready = [&](const TierChunk& chunk) { EXPECT_TRUE(there.insert(chunk.number).second); },
                  .chunk_leaves = [&](const TierChunk& chunk) { EXPECT_EQ(there.erase(chunk.number), 1u); },
                  .max_pieces = 2}});
  ASSERT_TRUE(tier.ok()) << tier.status();
  tier_ = *std::move(tier);
  tier_->StopGrowing();
  for (uint64_t i = 0; i < 32; ++i) ASSERT_TRUE(Add(i % 2 == 0 ? "a" : "b", i, {kMiB / 8}).ok());
  const absl::Status refused = Add("c", 100, {kMiB / 8}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find("2 pieces"), std::string::npos) << refused;
  EXPECT_EQ(tier_->evictions(), 0);
  for (uint64_t i = 0; i < 32; i += 2) tier_->Forget(i);  // all of "a"
  EXPECT_TRUE(Add("c", 101, {kMiB / 8}).ok());
  // One chunk of 256 KiB, and the half of the tier that "b" has.
  EXPECT_EQ(there.size(), 9u);
  EXPECT_GE(*there.begin(), 0);
  EXPECT_EQ(tier_->present(), 9 * kMiB / 4);
  EXPECT_EQ(Present("a"), 0);
  EXPECT_EQ(Present("b"), 2 * kMiB);
  EXPECT_EQ(Present("c"), kMiB / 4);
}

TEST_P(TierTest, NobodyIsPushedBelowTheirShare) {
  std::mt19937_64 random(TestSeed());
  Open(16 * kMiB);  // 16 chunks
  const std::vector<std::string> names = {"a", "b", "c", "d", "e"};
  uint64_t sequence = 1;
  std::deque<ResidentLease> leases;
  int moved = 0;
  for (int i = 0; i < (Soak() ? 50000 : 5000); ++i) {
    // One namespace floods at a time, and they come one after the other.
    const size_t active = std::min<size_t>(names.size(), 1 + i / 300);
    const std::string& ns = names[i / 100 % active];
    std::map<std::string, int64_t> before;
    for (const std::string& name : names) before[name] = Present(name);
    auto lease = Add(ns, sequence++, RandomLengths(&random, 100));
    if (lease.ok()) leases.push_back(*std::move(lease));
    while (leases.size() > random() % 8) leases.pop_front();
    int64_t wanting = 0, all = 0;
    for (const std::string& name : names) wanting += before[name] > 0 || name == ns;
    const int64_t share = 16 * kMiB / wanting / kMiB * kMiB;  // whole chunks
    for (const std::string& name : names) {
      const int64_t now = Present(name);
      all += now;
      moved += now < before[name];
      // Memory that nothing is in may always be taken; here there is none but what a namespace lost by itself.
      if (name != ns) {
        ASSERT_GE(now, std::min(before[name], share)) << name << " was pushed below its share by " << ns;
      }
    }
    ASSERT_LE(all, 16 * kMiB);
  }
  EXPECT_GT(moved, 5);
  // Whoever wants it has reached its share.
  for (const std::string& name : names) EXPECT_GE(Present(name), 2 * kMiB) << name;
}

TEST_P(TierTest, WhatIsLeasedDoesNotMoveAndTheRestDoes) {
  Open(16 * kMiB);
  std::vector<ResidentLease> leases;
  uint64_t sequence = 1;
  for (int i = 0; i < 16; ++i) {
    auto lease = Add("a", sequence++, {kMiB});
    ASSERT_TRUE(lease.ok()) << lease.status();
    if (i % 4 != 0) leases.push_back(*std::move(lease));
  }
  // Four chunks of "a" are free to go; "b" may have eight.
  for (int i = 0; i < 4; ++i) {
    auto lease = Add("b", sequence++, {kMiB});
    ASSERT_TRUE(lease.ok()) << lease.status();
    leases.push_back(*std::move(lease));
  }
  auto refused = Add("b", sequence++, {kMiB});
  ASSERT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_NE(std::string(refused.status().message()).find("namespace 'b'"), std::string::npos) << refused.status();
  leases.erase(leases.begin());  // of "a"
  EXPECT_TRUE(Add("b", sequence++, {kMiB}).ok());
  EXPECT_EQ(Present("a"), 11 * kMiB);
  EXPECT_EQ(Present("b"), 5 * kMiB);
  // Without eviction nothing moves.
  EXPECT_TRUE(absl::IsResourceExhausted(
      tier_->MakeRoom("c", ManifestOf({kPage}), Eviction::kNothing, absl::InfinitePast()).status()));
}

TEST_P(TierTest, WhoIsAtTheirShareDoesNotPayForTheLeasesOfOthers) {
  Open(16 * kMiB);
  std::vector<ResidentLease> leases;
  uint64_t sequence = 1;
  const auto fill = [&](const char* ns, int count, bool leased) {
    for (int i = 0; i < count; ++i) {
      auto lease = Add(ns, sequence++, {kMiB});
      ASSERT_TRUE(lease.ok()) << lease.status();
      if (leased) leases.push_back(*std::move(lease));
    }
  };
  fill("b", 5, /*leased=*/false);
  fill("a", 8, /*leased=*/true);
  fill("c", 3, /*leased=*/true);
  // A third is five and a bit: "c" has less, "a" has more and holds it, and "b" has no more than its share.
  EXPECT_TRUE(absl::IsResourceExhausted(Add("c", sequence++, {kMiB}).status()));
  EXPECT_EQ(Present("b"), 5 * kMiB);
  leases.erase(leases.begin());  // of "a"
  EXPECT_TRUE(Add("c", sequence++, {kMiB}).ok());
  EXPECT_EQ(Present("b"), 5 * kMiB);
  EXPECT_EQ(Present("a"), 7 * kMiB);
}

TEST_P(TierTest, MoreNamespacesThanChunksTakeTurns) {
  Open(64 * kPage);  // 16 chunks of 4 pages
  std::mt19937_64 random(TestSeed());
  uint64_t sequence = 1;
  for (int i = 0; i < 1000; ++i) {
    const std::string ns = "ns" + std::to_string(random() % 50);
    auto lease = Add(ns, sequence++, {kPage * static_cast<int64_t>(1 + random() % 4)});
    ASSERT_TRUE(lease.ok()) << i << ": " << lease.status();
    ASSERT_LE(tier_->present(), 64 * kPage);
  }
}

TEST_P(TierTest, LargerThanAChunkFitsInOnePieceOrSeveral) {
  Open(16 * kMiB);
  uint64_t sequence = 1;
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(Add("a", sequence++, {kMiB - kPage}).ok());
  auto large = Add("a", sequence++, {5 * kMiB, 0, 3 * kMiB});
  ASSERT_TRUE(large.ok()) << large.status();
  std::memset((*large)->slab(0).data(), 1, 5 * kMiB);
  std::memset((*large)->slab(2).data(), 2, 3 * kMiB);
  // Another namespace gets no more than its share, though it asks for more.
  EXPECT_TRUE(Add("b", sequence++, {6 * kMiB}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Add("b", sequence++, {9 * kMiB}).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(Add("a", sequence++, {17 * kMiB}).status()));
  for (const std::byte byte : (*large)->slab(0)) ASSERT_EQ(byte, std::byte{1});
  for (const std::byte byte : (*large)->slab(2)) ASSERT_EQ(byte, std::byte{2});
}

TEST_P(TierTest, WhereGenerationsRunOutSomethingLeaves) {
  Open(16 * kMiB, /*max_residencies=*/4);
  uint64_t sequence = 1;
  std::vector<ResidentLease> leases;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Add("a", sequence++, {kPage}).ok());
  for (int i = 0; i < 4; ++i) {
    auto lease = Add("a", sequence++, {kPage});
    ASSERT_TRUE(lease.ok()) << lease.status();
    leases.push_back(*std::move(lease));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(Add("a", sequence++, {kPage}).status()));
  EXPECT_EQ(tier_->used(), 4 * kPage);
  leases.pop_back();
  EXPECT_TRUE(Add("a", sequence++, {kPage}).ok());
}

// Many namespaces, sizes from a page to several chunks, leases held all the while.
TEST_P(TierTest, ResidentMemoryStaysWithinTheLimit) {
  std::mt19937_64 random(TestSeed());
  const int64_t limit = 256 * kMiB;  // chunks of 16 MiB
  Open(limit);
  std::deque<ResidentLease> leases;
  uint64_t sequence = 1;
  int64_t most = 0, stored = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string ns = "ns" + std::to_string(random() % (1 + std::min(i / 100, 24)));
    auto lease = Add(ns, sequence++, RandomLengths(&random, random() % 40 == 0 ? 9000 : 400));
    if (lease.ok()) {
      for (size_t layer = 0; layer < (*lease)->manifest().layers.size(); ++layer) {
        const absl::Span<std::byte> slab = (*lease)->slab(layer);
        for (int64_t at = 0; at < static_cast<int64_t>(slab.size()); at += kPage) slab[at] = std::byte{1};
        stored += slab.size();
      }
      leases.push_back(*std::move(lease));
    }
    while (leases.size() > random() % 40) leases.pop_front();
    if (i % 100 == 99) most = std::max(most, Resident());
  }
  most = std::max(most, Resident());
  std::printf("stored %ld MiB in %zu namespaces, at most %ld MiB resident of a limit of %ld\n", stored >> 20,
              memories_.size(), most >> 20, limit >> 20);
  EXPECT_GT(stored, 10 * limit);
  EXPECT_GT(most, limit / 2) << "it was not put to the test";
  EXPECT_LE(most, limit);
  EXPECT_LE(tier_->present(), limit);
}

TEST_P(TierTest, ManyThreadsAgree) {
  Open(8 * kMiB);
  std::atomic<uint64_t> sequence{1};
  std::atomic<int> wrong{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, seed = TestSeed() + t] {
      std::mt19937_64 random(seed);
      std::deque<std::pair<ResidentLease, uint64_t>> leases;
      const auto right = [](const std::pair<ResidentLease, uint64_t>& held) {
        for (int64_t at = 0; at < held.first->bytes(); at += kPage)
          if (*reinterpret_cast<uint64_t*>(held.first->slab(0).data() + at) != held.second) return false;
        return true;
      };
      for (int i = 0; i < (Soak() ? 20000 : 2000); ++i) {
        const std::string ns(1, static_cast<char>('a' + random() % 3));
        auto residency = tier_->MakeRoom(ns, ManifestOf({kPage * static_cast<int64_t>(1 + random() % 50)}),
                                         Eviction::kAnything, SteadyNow() + absl::Milliseconds(1));
        if (!residency.ok()) {
          ++refused;
        } else {
          const uint64_t mine = sequence++;
          for (int64_t at = 0; at < (*residency)->bytes(); at += kPage)
            *reinterpret_cast<uint64_t*>((*residency)->slab(0).data() + at) = mine;
          bool added = false;
          leases.emplace_back(tier_->Add(mine, *std::move(residency), false, &added), mine);
        }
        const uint64_t other = 1 + random() % sequence;
        if (ResidentLease lease = tier_->Acquire(other)) leases.emplace_back(std::move(lease), other);
        if (random() % 20 == 0) tier_->Forget(other);
        while (leases.size() > random() % 12) {
          wrong += !right(leases.front());
          leases.pop_front();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(tier_->leases(), 0);
  tier_->Drop();
  EXPECT_EQ(tier_->used(), 0);
  EXPECT_LE(tier_->present(), 8 * kMiB);
}

}  // namespace
}  // namespace kvlink::engine
