// The pieces of memory that namespaces reserve: how they grow, when they go, and how many there may be.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "store/engine/memory/arena.h"
#include "store/engine/memory/dram_tier.h"
#include "tests/store/tier.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::ManifestOf;

constexpr int64_t kPage = ArenaPool::kPageBytes;
constexpr int64_t kChunk = 64 << 10;

// What a pool told of its pieces.
struct ToldPieces {
  std::map<uint32_t, TierMemory> there;
  std::map<uint32_t, int> chunks;  // of each
  std::set<int> numbers;           // of those
  std::set<uint32_t> gone;
  void Listen(ArenaPoolOptions* options) {
    options->memory_added = [this](const TierMemory& memory) {
      EXPECT_FALSE(gone.contains(memory.number)) << "a number came twice";
      EXPECT_TRUE(there.emplace(memory.number, memory).second);
    };
    options->memory_gone = [this](const TierMemory& memory) {
      EXPECT_EQ(chunks[memory.number], 0) << "chunks are there still";
      EXPECT_EQ(there.erase(memory.number), 1u);
      gone.insert(memory.number);
    };
    options->chunk_ready = [this](const TierChunk& chunk) {
      EXPECT_TRUE(numbers.insert(chunk.number).second) << "two chunks share " << chunk.number;
      ++chunks[chunk.memory];
    };
    options->chunk_leaves = [this](const TierChunk& chunk) {
      EXPECT_EQ(numbers.erase(chunk.number), 1u) << chunk.number << " is not there";
      --chunks[chunk.memory];
    };
  }
};

TEST(ArenaPoolTest, PiecesGrowWithWhatANamespaceHolds) {
  ToldPieces told;
  ArenaPoolOptions options{.limit = 16 << 20, .first_piece_bytes = 256 << 10, .chunk_bytes = 64 << 10};
  told.Listen(&options);
  std::vector<Pages> held;
  ArenaPool pool(options);
  Arena* const arena = pool.Add("ns");
  EXPECT_TRUE(told.there.empty()) << "nothing lies in it yet";
  for (int i = 0; i < 256; ++i) {
    held.push_back(pool.Allocate(arena, 64 << 10));
    ASSERT_NE(held.back().data(), nullptr) << i;
  }
  EXPECT_EQ(pool.Allocate(arena, kPage).data(), nullptr) << "that was the budget";
  std::vector<int64_t> sizes;
  for (const auto& [number, memory] : told.there) sizes.push_back(memory.bytes >> 10);
  std::vector<int64_t> expected = {256, 256, 512};
  expected.resize(3 + 15, 1024);
  EXPECT_EQ(sizes, expected);
  held.clear();
  // What is longer than a piece has one of its own.
  const Pages large = pool.Allocate(arena, 5 << 20);
  ASSERT_NE(large.data(), nullptr);
  const uint32_t memory = large.piece()->place(large.data()).memory;
  EXPECT_EQ(told.there.at(memory).bytes, 5 << 20);
  std::memset(large.data(), 1, large.size());
}

TEST(ArenaPoolTest, UnusedPiecesGoWithTheirMemory) {
  ToldPieces told;
  ArenaPoolOptions options{.limit = 8 << 20, .shared = true, .keep_unused = absl::Milliseconds(10)};
  told.Listen(&options);
  Mutex mutex;  // the pool tells of what goes on its own thread
  int gone = 0;
  options.memory_gone = [&, inner = options.memory_gone](const TierMemory& memory) {
    MutexLock lock(&mutex);
    inner(memory);
    ++gone;
  };
  const auto await = [&](int count) {
    for (const absl::Time until = SteadyNow() + absl::Seconds(60); SteadyNow() < until;) {
      {
        MutexLock lock(&mutex);
        if (gone >= count) return;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    FAIL() << "nothing went";
  };
  ArenaPool pool(options);
  Arena* const arena = pool.Add("ns");
  Pages stays = pool.Allocate(pool.Add("other"), kPage);
  std::memset(stays.data(), 7, kPage);
  Pages pages = pool.Allocate(arena, 1 << 20);
  std::memset(pages.data(), 5, 1 << 20);
  const Place place = pages.piece()->place(pages.data());
  const TierMemory memory = told.there.at(place.memory);
  const int readers = dup(memory.descriptor);
  void* const map = mmap(nullptr, memory.bytes, PROT_READ, MAP_SHARED, readers, 0);
  ASSERT_NE(map, MAP_FAILED);
  const auto* const mapped = static_cast<const uint64_t*>(map);
  EXPECT_EQ(mapped[place.offset / 8], 0x0505050505050505u);
  pages = Pages();
  await(1);
  EXPECT_EQ(pool.present(arena), 0);
  // Its descriptor is closed after that was told.
  const absl::Time until = SteadyNow() + absl::Seconds(60);
  while (fcntl(memory.descriptor, F_GETFD) != -1 && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(fcntl(memory.descriptor, F_GETFD), -1);
  // A reader that keeps the mapping finds zeros, and goes on finding them.
  Pages next = pool.Allocate(arena, 1 << 20);
  ASSERT_NE(next.data(), nullptr);
  std::memset(next.data(), 9, 1 << 20);
  for (int64_t i = 0; i < memory.bytes / 8; ++i) ASSERT_EQ(mapped[i], 0u);
  EXPECT_NE(next.piece()->place(next.data()).memory, place.memory);
  EXPECT_EQ(stays.data()[0], std::byte{7}) << "what is in use stays";
  munmap(map, memory.bytes);
  close(readers);
}

TEST(ArenaPoolTest, TheNumberOfPiecesIsBounded) {
  ArenaPool pool({.limit = 8 << 20, .max_pieces = 3});
  std::vector<Pages> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(pool.Allocate(pool.Add(std::string(1, static_cast<char>('a' + i))), kPage));
    ASSERT_NE(held.back().data(), nullptr);
  }
  Arena* const more = pool.Add("more");
  EXPECT_EQ(pool.Allocate(more, kPage).data(), nullptr);
  const absl::Status refused = pool.refused(more);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find("namespace 'more'"), std::string::npos) << refused;
  EXPECT_FALSE(pool.MakeSpace(more, kPage)) << "nobody is to give a chunk for it";
  held.pop_back();  // what nothing lies in goes at once for it
  EXPECT_NE(pool.Allocate(more, kPage).data(), nullptr);
  EXPECT_TRUE(pool.refused(more).ok());
}

// Between an arena's asking for a piece and its having one, others free memory and allocate.
TEST(ArenaPoolTest, AChunkThatIsInUseAgainIsNotTaken) {
  ToldPieces told;
  ArenaPoolOptions options{.limit = 1 << 20, .chunk_bytes = kChunk, .max_pieces = 3};
  told.Listen(&options);
  std::function<void()> meanwhile;
  options.memory_added = [&, inner = options.memory_added](const TierMemory& memory) {
    inner(memory);
    if (meanwhile) std::thread(meanwhile).join();
  };
  ArenaPool pool(options);
  std::vector<Pages> held;
  pool.StopGrowing();
  Arena* const most = pool.Add("most");
  const auto allocate = [&](Arena* arena, uint8_t byte) {
    held.push_back(pool.Allocate(arena, kChunk));
    ASSERT_NE(held.back().data(), nullptr);
    std::memset(held.back().data(), byte, kChunk);
  };
  for (int i = 0; i < 10; ++i) allocate(most, 7);
  Arena* const other = pool.Add("other");
  for (int i = 0; i < 5; ++i) allocate(other, 7);
  // All of the budget, of which two chunks are empty: one in a piece that stays, one in a piece that goes.
  pool.Allocate(pool.Add("goes"), kChunk);
  ASSERT_EQ(pool.present(), pool.limit());
  held.erase(held.begin() + 9);
  meanwhile = [&] { allocate(most, 7); };
  Arena* const asks = pool.Add("asks");
  const Pages pages = pool.Allocate(asks, kChunk);
  ASSERT_NE(pages.data(), nullptr);
  ASSERT_EQ(held.size(), 15u);
  EXPECT_EQ(told.gone.size(), 1u);
  for (const Pages& those : held) {
    for (int64_t i = 0; i < kChunk; ++i) ASSERT_EQ(those.data()[i], std::byte{7}) << "taken while in use";
  }
  EXPECT_EQ(pool.present(), pool.limit());
  EXPECT_EQ(pool.present(most), 10 * kChunk);
  EXPECT_EQ(pool.present(other), 5 * kChunk);
  EXPECT_EQ(pool.present(asks), kChunk);
}

TEST(ArenaPoolTest, WhatIsFreedMeanwhileIsAllocated) {
  for (const bool budget_left : {true, false}) {
    std::function<void()> meanwhile;
    ArenaPoolOptions options{.limit = 1 << 20, .first_piece_bytes = 4 * kChunk, .chunk_bytes = kChunk};
    options.memory_added = [&](const TierMemory&) {
      if (meanwhile) std::thread(meanwhile).join();
    };
    ArenaPool pool(options);
    std::vector<Pages> held;
    pool.StopGrowing();
    Arena* const arena = pool.Add("ns");
    for (int i = 0; i < 4; ++i) held.push_back(pool.Allocate(arena, kChunk));
    const std::byte* const last = held.back().data();
    Arena* const other = pool.Add("other");
    Pages rest = pool.Allocate(other, 11 * kChunk), taken;
    if (!budget_left) pool.Allocate(other, kChunk);
    meanwhile = [&] {
      held.pop_back();
      if (!budget_left) taken = pool.Allocate(other, kChunk);
    };
    const Pages pages = pool.Allocate(arena, kChunk);
    EXPECT_EQ(held.size(), 3u);
    EXPECT_EQ(pages.data(), last) << "budget left: " << budget_left;
  }
}

// A namespace takes address space, and a descriptor, as it takes memory: with a terabyte for each, 47 bits of addresses
// are 127 of these.
TEST(LargeTierTest, ThousandsOfNamespacesShareATerabyte) {
  constexpr int kNamespaces = 2200;
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max / 4 < kNamespaces) GTEST_SKIP() << "too few descriptors: " << limit.rlim_max;
  auto tier = DramTier::Create(
      {.memory = {.limit = int64_t{1} << 40, .shared = true, .chunk_bytes = 512 << 10}, .max_residencies = 10000});
  ASSERT_TRUE(tier.ok()) << tier.status();
  std::vector<ResidentLease> leases;
  for (uint64_t i = 0; i < kNamespaces; ++i) {
    auto residency = (*tier)->MakeRoom(absl::StrCat("ns", i), ManifestOf({40 * kPage, 30 * kPage}), Eviction::kAnything,
                                       absl::InfinitePast());
    ASSERT_TRUE(residency.ok()) << residency.status() << " after " << i;
    bool added = false;
    leases.push_back((*tier)->Add(i, *std::move(residency), /*pinned=*/false, &added));
    for (const int64_t layer : {0, 1}) *reinterpret_cast<uint64_t*>(leases.back()->slab(layer).data()) = i;
  }
  for (uint64_t i = 0; i < kNamespaces; ++i) {
    for (const int64_t layer : {0, 1}) ASSERT_EQ(*reinterpret_cast<uint64_t*>(leases[i]->slab(layer).data()), i);
  }
  EXPECT_EQ((*tier)->evictions(), 0);
}

}  // namespace
}  // namespace kvlink::engine
