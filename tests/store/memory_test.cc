// The DRAM tier's memory: free pages against a plain model, chunks that move between namespaces, and what a process
// that maps the memory can do to it and see of it.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/engine/memory/arena.h"
#include "store/engine/memory/dram_tier.h"
#include "store/engine/memory/generations.h"
#include "tests/store/tier.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::ManifestOf;
using kvlink::testing::Soak;
using kvlink::testing::TestSeed;

constexpr int64_t kPage = ArenaPool::kPageBytes;

TEST(PageMapTest, AgreesWithASetOfPages) {
  std::mt19937_64 random(TestSeed());
  constexpr int kChunks = 12, kPages = 16;  // of a chunk
  PageMap map(kPages * kPage, kChunks);
  std::set<int64_t> free;           // page numbers
  std::map<int64_t, int64_t> held;  // first page -> pages
  std::set<int> withdrawn;
  const auto longest = [&free] {
    int64_t best = 0, run = 0, last = -2;
    for (const int64_t page : free) {
      run = page == last + 1 ? run + 1 : 1;
      last = page;
      best = std::max(best, run);
    }
    return best;
  };
  const auto used_in = [&held](int chunk) {
    int64_t used = 0;
    for (const auto& [first, pages] : held) {
      for (int64_t page = first; page < first + pages; ++page) used += page / kPages == chunk;
    }
    return used * kPage;
  };
  const auto vacate = [&](int chunk) {
    map.Withdraw(chunk);
    withdrawn.insert(chunk);
    for (int64_t page = chunk * kPages; page < (chunk + 1) * kPages; ++page) free.erase(page);
  };
  for (int i = 0; i < (Soak() ? 200000 : 20000); ++i) {
    const int chunk = static_cast<int>(random() % kChunks);
    switch (random() % 8) {
      case 0:
        if (map.present(chunk)) break;
        map.Add(chunk);
        for (int64_t page = chunk * kPages; page < (chunk + 1) * kPages; ++page) free.insert(page);
        break;
      case 1:
        if (map.present(chunk) && !map.withdrawn(chunk) && random() % 4 == 0) vacate(chunk);
        break;
      case 2:
      case 3:
      case 4: {
        const int64_t pages = 1 + static_cast<int64_t>(random() % (random() % 8 == 0 ? 40 : 6));
        const bool fits = longest() >= pages;
        ASSERT_EQ(map.Fits(pages * kPage), fits);
        if (!fits) {
          // Populating the window makes the allocation fit.
          const auto window = map.Window(pages * kPage);
          for (int c = 0; window.has_value() && c < kChunks; ++c) {
            if (c < window->first || c >= window->second || map.present(c)) continue;
            map.Add(c);
            for (int64_t page = c * kPages; page < (c + 1) * kPages; ++page) free.insert(page);
          }
          ASSERT_EQ(map.Fits(pages * kPage), window.has_value());
          break;
        }
        const auto offset = map.Allocate(pages * kPage);
        ASSERT_TRUE(offset.has_value());
        const int64_t first = *offset / kPage;
        for (int64_t page = first; page < first + pages; ++page) ASSERT_EQ(free.erase(page), 1u);
        held[first] = pages;
        break;
      }
      default: {
        if (held.empty()) break;
        auto it = std::next(held.begin(), static_cast<int64_t>(random() % held.size()));
        map.Free(it->first * kPage, it->second * kPage);
        for (int64_t page = it->first; page < it->first + it->second; ++page) {
          if (!withdrawn.contains(static_cast<int>(page / kPages))) free.insert(page);
        }
        held.erase(it);
      }
    }
    for (auto it = withdrawn.begin(); it != withdrawn.end();) {
      if (map.used(*it) > 0) {
        ++it;
        continue;
      }
      map.Remove(*it);
      it = withdrawn.erase(it);
    }
    for (int c = 0; c < kChunks; ++c) ASSERT_EQ(map.used(c), used_in(c));
  }
}

// Two that need memory do not take the same chunk.
TEST(ArenaPoolTest, AWithdrawnChunkIsNotOffered) {
  ArenaPool pool({.limit = 8 << 20});
  Arena* const from = pool.Add("from");
  Arena* const to = pool.Add("to");
  (void)pool.Allocate(from, kPage);  // and given back
  const std::vector<ChunkUse> chunks = pool.Used(from);
  ASSERT_FALSE(chunks.empty());
  for (const ChunkUse& chunk : chunks) ASSERT_TRUE(pool.Withdraw(chunk.piece.get(), chunk.chunk, 0));
  for (const ChunkUse& chunk : chunks) EXPECT_FALSE(pool.Withdraw(chunk.piece.get(), chunk.chunk, 0));
  for (const ChunkUse& offered : pool.Used(from)) {  // those that the thread made ready meanwhile
    for (const ChunkUse& chunk : chunks) EXPECT_FALSE(offered.piece == chunk.piece && offered.chunk == chunk.chunk);
  }
  for (const ChunkUse& chunk : chunks) pool.Move(chunk.piece.get(), chunk.chunk, to, kPage);
  EXPECT_NE(pool.Allocate(to, kPage).data(), nullptr);
  EXPECT_NE(pool.Allocate(from, kPage).data(), nullptr);
}

TEST(ArenaPoolTest, ChunksMoveOnlyWhereNothingIsInThem) {
  std::mt19937_64 random(TestSeed());
  std::map<int, std::byte*> announced;
  std::map<uint32_t, TierMemory> memories;
  std::vector<Arena*> arenas;
  ArenaPool pool({.limit = 8 << 20,  // 16 chunks of 512 KiB
                  .memory_added = [&](const TierMemory& memory) { memories[memory.number] = memory; },
                  .chunk_ready =
                      [&](const TierChunk& chunk) {
                        EXPECT_LT(chunk.number, 16);
                        EXPECT_TRUE(announced.emplace(chunk.number, chunk.data).second) << chunk.number;
                        EXPECT_EQ(chunk.bytes, 512 << 10);
                        EXPECT_LE(chunk.offset + chunk.bytes, memories.at(chunk.memory).bytes);
                      },
                  .chunk_leaves =
                      [&](const TierChunk& chunk) {
                        EXPECT_EQ(announced[chunk.number], chunk.data);
                        EXPECT_EQ(announced.erase(chunk.number), 1u) << chunk.number;
                      }});
  ASSERT_EQ(pool.chunks(), 16);
  for (int i = 0; i < 3; ++i) arenas.push_back(pool.Add(std::string(1, static_cast<char>('a' + i))));
  std::vector<std::pair<Pages, uint64_t>> held;
  const auto check = [](const std::pair<Pages, uint64_t>& piece) {
    for (int64_t i = 0; i < piece.first.size(); i += kPage) {
      ASSERT_EQ(*reinterpret_cast<uint64_t*>(piece.first.data() + i), piece.second) << "another's, or gone";
    }
  };
  int refused = 0;
  for (uint64_t i = 1; i <= 3000; ++i) {
    if (random() % 5 < 3) {
      const int64_t bytes = kPage * static_cast<int64_t>(1 + random() % (random() % 10 == 0 ? 400 : 40));
      Pages pages = pool.Allocate(arenas[random() % 3], bytes);
      refused += pages.data() == nullptr;
      if (pages.data() == nullptr) continue;
      for (int64_t at = 0; at < bytes; at += kPage) *reinterpret_cast<uint64_t*>(pages.data() + at) = i;
      held.emplace_back(std::move(pages), i);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      check(held.back());
      held.pop_back();
    }
    ASSERT_LE(pool.used(), pool.present());
    ASSERT_LE(pool.present(), 8 << 20);
  }
  EXPECT_GT(refused, 0);
  for (const auto& piece : held) check(piece);
  held.clear();
  EXPECT_EQ(pool.used(), 0);
  EXPECT_NE(pool.Allocate(arenas[0], 8 << 20).data(), nullptr) << "all of the budget in one piece";
  EXPECT_EQ(pool.Allocate(arenas[0], (8 << 20) + kPage).data(), nullptr);
  EXPECT_EQ(pool.Allocate(arenas[0], 0).data(), nullptr);
  EXPECT_EQ(pool.present(arenas[1]), 0) << "it was taken from the others";
}

const uint64_t* Map(int descriptor, int64_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  return data == MAP_FAILED ? nullptr : static_cast<const uint64_t*>(data);
}

TEST(GenerationsTest, SlotsAreRecycledAndLimited) {
  auto table = GenerationTable::Create(5, /*shared=*/false);
  ASSERT_TRUE(table.ok()) << table.status();
  std::mt19937_64 random(TestSeed());
  std::vector<GenerationSlot> held;
  std::set<std::pair<uint64_t, uint64_t>> ever;
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0) {
      auto slot = (*table)->Take();
      ASSERT_EQ(slot.has_value(), held.size() < 5);
      if (!slot.has_value()) continue;
      EXPECT_LT(slot->number(), 5u);
      EXPECT_TRUE(ever.emplace(slot->number(), slot->generation()).second) << "a generation came twice";
      EXPECT_NE(slot->generation(), 0u) << "what an untouched table says";
      held.push_back(*std::move(slot));
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      held.pop_back();
    }
    EXPECT_EQ((*table)->taken(), static_cast<int64_t>(held.size()));
  }
}

// Memory shared by the two processes of a test.
struct Board {
  std::atomic<uint64_t> turn{0};  // odd while the lease below is written
  std::atomic<uint64_t> offset{0}, words{0}, slot{0}, generation{0}, number{0};
  std::atomic<uint64_t> intact{0}, changed{0}, wrong{0}, ready{0}, refused{0};
  std::atomic<bool> stop{false};
};

class Reader {
 public:
  // Forks; the child runs body(board) and ends with its result. It may not allocate: threads held locks when it was
  // made.
  template <typename Body>
  explicit Reader(Body body) {
    board_ = new (mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Board();
    pid_ = fork();
    if (pid_ == 0) _exit(body(board_));
  }
  ~Reader() {
    kill(pid_, SIGKILL);
    if (!ended_) waitpid(pid_, nullptr, 0);
    munmap(board_, sizeof(Board));
  }
  Board* operator->() { return board_; }
  void Signal(int signal) { kill(pid_, signal); }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool WaitFor(const std::atomic<uint64_t>& value, uint64_t least) {
    for (const absl::Time until = SteadyNow() + absl::Seconds(60); value < least;) {
      if (SteadyNow() > until) return false;
      absl::SleepFor(absl::Microseconds(100));
    }
    return true;
  }

 private:
  Board* board_;
  pid_t pid_;
  bool ended_ = false;
};

// Tries everything with a descriptor that would change the memory. The number of the attempt that worked, or 0.
int TryToChange(int descriptor, int64_t bytes) {
  if (mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) != MAP_FAILED) return 1;
  void* const mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) return 2;
  if (mprotect(mapped, bytes, PROT_READ | PROT_WRITE) == 0) return 3;
  if (madvise(mapped, bytes, MADV_REMOVE) == 0) return 4;
  if (write(descriptor, "x", 1) >= 0 || pwrite(descriptor, "x", 1, 0) >= 0) return 5;
  if (ftruncate(descriptor, 2 * bytes) == 0 || ftruncate(descriptor, 0) == 0) return 6;
  if (fallocate(descriptor, 0, bytes, 4096) == 0) return 7;
  if (fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0) return 8;
  if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE) == 0) return 9;
  // Another user than the node's, who opens it anew.
  if (getuid() == 0 && setresuid(65534, 65534, 65534) != 0) return 10;
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
  if (getuid() == 65534 && open(path, O_RDWR) >= 0) return 11;
  return 0;
}

TEST(SharedMemoryTest, AReaderCanNeitherWriteNorGrow) {
  auto memory = Mapping::Create({.bytes = 4 << 20, .alignment = 2 << 20, .shared = true});
  auto table = GenerationTable::Create(1000, /*shared=*/true);
  ASSERT_TRUE(memory.ok() && table.ok()) << memory.status() << table.status();
  ASSERT_TRUE((*memory)->Populate(0, 4 << 20).ok());
  std::memset((*memory)->base(), 5, 4 << 20);
  for (const auto& [descriptor, bytes] : {std::pair<int, int64_t>{(*memory)->descriptor(), 4 << 20},
                                          std::pair<int, int64_t>{(*table)->descriptor(), (*table)->bytes()}}) {
    const int seals = fcntl(descriptor, F_GET_SEALS);
    EXPECT_EQ(seals & (F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK), F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK);
    EXPECT_EQ(lseek(descriptor, 0, SEEK_END), bytes);
    Reader reader([descriptor = descriptor, bytes = bytes](Board*) { return TryToChange(descriptor, bytes); });
    EXPECT_EQ(reader.Wait(), 0) << "attempt";
  }
  EXPECT_NE(fcntl((*table)->descriptor(), F_GET_SEALS) & 0x10, 0) << "the table is sealed against writing, too";
  for (int64_t i = 0; i < 4 << 20; ++i) ASSERT_EQ((*memory)->base()[i], std::byte{5});
  // The owner goes on writing, and gives memory back under the reader's eyes.
  EXPECT_TRUE((*memory)->Remove(0, 2 << 20).ok());
  EXPECT_EQ((*memory)->resident(), 2 << 20);
  EXPECT_EQ((*memory)->base()[0], std::byte{0});
}

TierMemory last_memory;

std::unique_ptr<DramTier> NewTier(int64_t limit) {
  auto tier = DramTier::Create({.memory = {
                                    .limit = limit,
                                    .shared = true,
                                    .memory_added = [](const TierMemory& memory) { last_memory = memory; },
                                }});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

// So that a reader has something to map.
void MakeMemory(DramTier* tier) {
  EXPECT_TRUE(tier->MakeRoom("ns", ManifestOf({kPage}), Eviction::kAnything, SteadyNow()).ok());
}

constexpr uint64_t kPattern = 0x9e3779b97f4a7c15;

// Fills the memory with what names the residency, and puts it on the board if it lies in the memory that the reader has
// mapped.
void Fill(const Residency& residency, uint32_t mapped, Board* board) {
  for (size_t layer = 0; layer < residency.manifest().layers.size(); ++layer) {
    const absl::Span<std::byte> slab = residency.slab(layer);
    for (size_t i = 0; i + 8 <= slab.size(); i += 8) {
      // As a disk would: without asking who reads.
      __atomic_store_n(reinterpret_cast<uint64_t*>(slab.data() + i), residency.number() * kPattern, __ATOMIC_RELAXED);
    }
  }
  if (residency.place(0).memory != mapped) return;
  ++board->turn;
  board->offset = residency.place(0).offset;
  board->words = residency.manifest().layers[0].length / 8;
  board->slot = residency.generation().number();
  board->generation = residency.generation().generation();
  board->number = residency.number();
  ++board->turn;
}

// Reads what the board names over and over, and judges by the generation whether it may be believed.
int ReadAndJudge(Board* board, int memory, int64_t bytes, int table, int64_t table_bytes, uint64_t seed) {
  const uint64_t* const data = Map(memory, bytes);
  const uint64_t* const generations = Map(table, table_bytes);
  if (data == nullptr || generations == nullptr) return 1;
  std::minstd_rand random(seed);
  board->ready = 1;
  while (!board->stop) {
    const uint64_t turn = board->turn;
    const uint64_t offset = board->offset, words = board->words, slot = board->slot, generation = board->generation,
                   number = board->number;
    if (turn == 0 || turn % 2 == 1 || board->turn != turn) continue;
    const auto current = [&] { return __atomic_load_n(generations + slot, __ATOMIC_ACQUIRE); };
    if (current() != generation) continue;
    // One forward pass.
    bool right = true;
    for (int i = 0; i < 200; ++i) {
      right &= __atomic_load_n(data + offset / 8 + random() % words, __ATOMIC_ACQUIRE) == number * kPattern;
    }
    if (current() != generation) {
      ++board->changed;
    } else if (right) {
      ++board->intact;
    } else {
      ++board->wrong;
    }
  }
  return 0;
}

TEST(SharedMemoryTest, TheGenerationChangesBeforeTheBytes) {
  std::mt19937_64 random(TestSeed());
  auto tier = NewTier(1 << 20);
  ASSERT_NE(tier, nullptr);
  MakeMemory(tier.get());
  const TierMemory memory = last_memory;
  const int table = tier->generations().descriptor();
  const int64_t table_bytes = tier->generations().bytes();
  Reader reader([&, seed = random()](Board* board) {
    return ReadAndJudge(board, memory.descriptor, memory.bytes, table, table_bytes, seed);
  });
  ASSERT_TRUE(reader.WaitFor(reader->ready, 1));
  const int rounds = Soak() ? 200000 : 5000;
  int round = 0;
  for (const absl::Time until = SteadyNow() + absl::Minutes(4);
       round < rounds || ((reader->changed < 100 || reader->intact < 100) && SteadyNow() < until); ++round) {
    // A few large ones fill the tier, so that pages come round at once.
    auto residency = tier->MakeRoom("ns", ManifestOf({kPage * static_cast<int64_t>(1 + random() % 60)}),
                                    Eviction::kAnything, SteadyNow());
    ASSERT_TRUE(residency.ok()) << residency.status();
    bool added = false;
    const uint64_t sequence = (*residency)->number();
    const ResidentLease lease = tier->Add(sequence, *std::move(residency), false, &added);
    Fill(*lease, memory.number, reader.operator->());
    if (random() % 2 == 0) tier->Forget(sequence);
  }
  reader->stop = true;
  EXPECT_EQ(reader.Wait(), 0);
  EXPECT_EQ(reader->wrong, 0u) << "of bytes that a reader believed, after " << round << " rounds";
  EXPECT_GE(reader->intact, 100u);
  EXPECT_GE(reader->changed, 100u);
}

TEST(SharedMemoryTest, AFrozenReaderKeepsNothing) {
  auto tier = NewTier(4 << 20);
  ASSERT_NE(tier, nullptr);
  MakeMemory(tier.get());
  const TierMemory memory = last_memory;
  const int table = tier->generations().descriptor();
  const int64_t table_bytes = tier->generations().bytes();
  Reader reader([&](Board* board) {
    return ReadAndJudge(board, memory.descriptor, memory.bytes, table, table_bytes, TestSeed());
  });
  auto lease = std::make_unique<ResidentLease>();
  {
    auto residency = tier->MakeRoom("ns", ManifestOf({1 << 20}), Eviction::kAnything, SteadyNow());
    ASSERT_TRUE(residency.ok()) << residency.status();
    bool added = false;
    *lease = tier->Add(1, *std::move(residency), false, &added);
    Fill(**lease, memory.number, reader.operator->());
  }
  ASSERT_TRUE(reader.WaitFor(reader->intact, 10));
  reader.Signal(SIGSTOP);
  const auto fill = [&](const char* ns, int count) {
    for (int i = 0; i < count; ++i) {
      auto residency = tier->MakeRoom(ns, ManifestOf({1 << 20}), Eviction::kAnything, SteadyNow());
      if (!residency.ok()) return i;
      for (std::byte& byte : (*residency)->slab(0)) byte = std::byte{0xff};
      bool added = false;
      const uint64_t sequence = (*residency)->number() + 1000;
      tier->Add(sequence, *std::move(residency), false, &added);
    }
    return count;
  };
  EXPECT_EQ(fill("ns", 12), 12);
  EXPECT_TRUE(tier->Resident(1)) << "leased still";
  lease.reset();
  EXPECT_EQ(fill("ns", 12), 12);
  EXPECT_FALSE(tier->Resident(1));
  // Nor does its mapping hold what goes to another namespace.
  EXPECT_EQ(fill("other", 12), 12);
  struct stat status;
  ASSERT_EQ(fstat(memory.descriptor, &status), 0);
  EXPECT_LE(status.st_blocks * 512, 2 << 20);
  EXPECT_LE(tier->present(), 4 << 20);
  const uint64_t intact = reader->intact;
  reader.Signal(SIGCONT);
  // At most the pass that it was frozen in comes to its end: its generation has changed.
  absl::SleepFor(absl::Milliseconds(50));
  reader->stop = true;
  EXPECT_EQ(reader.Wait(), 0);
  EXPECT_LE(reader->intact, intact + 1);
  EXPECT_EQ(reader->wrong, 0u);
}

TEST(SharedMemoryTest, WhatAReaderTouchesBeyondTheMemoryGoesAgain) {
  auto tier = NewTier(64 << 20);
  ASSERT_NE(tier, nullptr);
  MakeMemory(tier.get());
  const TierMemory memory = last_memory;
  struct stat status;
  Reader reader([&](Board* board) {
    const uint64_t* const data = Map(memory.descriptor, memory.bytes);
    uint64_t sum = 0;
    for (int64_t i = 0; i < memory.bytes; i += kPage) sum += data[i / 8];
    board->ready = 1;
    pause();
    return sum == 0 ? 0 : 1;
  });
  ASSERT_TRUE(reader.WaitFor(reader->ready, 1));
  for (const absl::Time until = SteadyNow() + absl::Seconds(60); SteadyNow() < until;) {
    ASSERT_EQ(fstat(memory.descriptor, &status), 0);
    if (status.st_blocks * 512 == tier->present()) break;
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(status.st_blocks * 512, tier->present());
}

}  // namespace
}  // namespace kvlink::engine
