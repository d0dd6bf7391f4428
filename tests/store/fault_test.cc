// A store whose device, file system or kernel fails while it is written: by seed, one kind of failure each. Nothing
// that was acknowledged is lost, nothing healthy is evicted, dropped or called damaged, and service goes on.
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "tests/store/push.h"
#include "tests/store/synthetic.h"
#include "tests/support/faulty_io.h"
#include "tests/support/recording_io.h"
#include "tests/support/seed.h"

namespace kvlink::store {
namespace {

using ::kvlink::testing::CommitFilledPush;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::FaultyIo;
using ::kvlink::testing::FillPush;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::RecordingIo;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kNamespace[] = "ns";
constexpr int kThreads = 3, kPuts = 30;  // each

absl::Time Soon() { return SteadyNow() + absl::Seconds(120); }

// Most fit a block; some need several.
Synthetic Encoding(int number) { return MakeSynthetic(number, 2, number % 5 == 0 ? 700 : 40); }

engine::EngineOptions Options(engine::IoObserver* observer) {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 128 << 20;  // nothing is ever evicted for lack of room
  options.max_open_segments = 2;
  options.observer = observer;
  return options;
}

struct Opened {
  std::unique_ptr<Store> store;
  engine::Engine* engine = nullptr;
};
Opened MustOpen(const std::string& path, engine::IoObserver* observer) {
  auto opened = engine::Engine::Open(path, Options(observer));
  EXPECT_TRUE(opened.ok()) << opened.status();
  if (!opened.ok()) return {};
  engine::Engine* const engine = opened->get();
  return {StoreOver(*std::move(opened)), engine};
}

absl::Status Put(Store* store, int number) {
  const Synthetic s = Encoding(number);
  return store->Put(kNamespace, s.manifest, s.spans(), Soon()).status();
}

// How many are not there any more, or wrong.
int64_t ExpectIntact(Store* store, const std::vector<int>& numbers, bool or_missed = false) {
  int64_t lost = 0;
  store->DropDramTier();
  for (const int number : numbers) {
    const absl::Status read = ReadAndCompare(store, kNamespace, Encoding(number));
    if (or_missed && absl::IsNotFound(read)) continue;
    EXPECT_TRUE(read.ok()) << "encoding " << number << ": " << read;
    lost += read.ok() ? 0 : 1;
  }
  return lost;
}

// Puts from several threads, and reads between them. What was acknowledged, and when.
struct Acknowledged {
  std::vector<int> numbers;
  std::vector<int64_t> moments;
  int64_t refused = 0;
};
Acknowledged Work(Store* store, uint64_t seed, const RecordingIo* recording, int first, bool evicts = false) {
  Mutex mutex;
  Acknowledged all;
  {
    std::vector<Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back("worker", [&, t] {
        std::mt19937_64 random(seed * 17 + t);
        std::vector<int> mine;
        for (int i = 0; i < kPuts; ++i) {
          const int number = first + t * 1000 + i;
          const absl::Status status = Put(store, number);
          {
            MutexLock lock(&mutex);
            if (status.ok()) {
              all.numbers.push_back(number);
              all.moments.push_back(recording != nullptr ? recording->Now() : 0);
            } else {
              ++all.refused;
            }
          }
          if (status.ok()) mine.push_back(number);
          if (random() % 4 == 0) store->DropDramTier();
          if (mine.empty() || random() % 2 == 0) continue;
          // Readers may be told that there are no descriptors; nobody is told of damage, or of a miss.
          const absl::Status read = ReadAndCompare(store, kNamespace, Encoding(mine[random() % mine.size()]));
          const bool fair = read.ok() || absl::IsUnavailable(read) || absl::IsFailedPrecondition(read) ||
                            absl::IsResourceExhausted(read) || (evicts && absl::IsNotFound(read));
          EXPECT_TRUE(fair) << read;
        }
      });
    }
  }
  return all;
}

struct Kind {
  const char* name;
  std::function<void(FaultyIo*, std::mt19937_64*)> arm;
  // How many puts of `Work` may be refused at most.
  int64_t refusals = 0;
  // Whether room may truly be lacking, so that what is used least makes way.
  bool evicts = false;
};

// Of all seeds of a kind.
struct Figures {
  int64_t seeds = 0, puts = 0, refused = 0, lost = 0, evicted = 0, strikes = 0;
};

void RunKind(const Kind& kind, uint64_t seed, Figures* figures) {
  SCOPED_TRACE(absl::StrCat(kind.name, ", KVLINK_SEED=", seed));
  std::mt19937_64 random(seed);
  ScratchDirectory scratch(/*in_memory=*/true);
  FaultyIo io(seed);
  Acknowledged before, during, after;
  {
    const Opened opened = MustOpen(scratch.path() + "/store", &io);
    ASSERT_NE(opened.store, nullptr);
    before = Work(opened.store.get(), seed, nullptr, 0);
    EXPECT_EQ(before.refused, 0);
    kind.arm(&io, &random);
    during = Work(opened.store.get(), seed + 1, nullptr, 10000, kind.evicts);
    EXPECT_LE(during.refused, kind.refusals);
    figures->strikes += io.strikes();
    io.Heal();
    after = Work(opened.store.get(), seed + 2, nullptr, 20000, kind.evicts);
    EXPECT_EQ(after.refused, 0);
    for (const Acknowledged* phase : {&before, &during, &after}) {
      figures->lost += ExpectIntact(opened.store.get(), phase->numbers, kind.evicts);
      figures->puts += static_cast<int64_t>(phase->numbers.size()) + phase->refused;
      figures->refused += phase->refused;
    }
    const engine::Engine::Statistics stats = opened.engine->Stats();
    EXPECT_TRUE(kind.evicts || stats.evictions == 0) << stats.evictions;
    figures->evicted += stats.evictions;
    EXPECT_EQ(stats.dropped_damaged, 0);
    EXPECT_EQ(stats.integrity_failures, 0);
  }
  const Opened again = MustOpen(scratch.path() + "/store", nullptr);
  ASSERT_NE(again.store, nullptr);
  for (const Acknowledged* phase : {&before, &during, &after})
    figures->lost += ExpectIntact(again.store.get(), phase->numbers, kind.evicts);
  const auto report = again.store->Verify({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->damaged, IsEmpty());
  EXPECT_THAT(report->index_problems, IsEmpty());
  EXPECT_EQ(Put(again.store.get(), 30000), absl::OkStatus());
  EXPECT_EQ(again.store->Stats()->evictions, 0);
}

void RunSeeds(const Kind& kind) {
  Figures figures;
  for (; figures.seeds < FaultSeeds() && !::testing::Test::HasFailure(); ++figures.seeds) {
    RunKind(kind, TestSeed() + figures.seeds, &figures);
  }
  EXPECT_GT(figures.strikes, 0);
  absl::PrintF("%s: %d seeds, %d faults, %d puts, %d refused, %d lost, %d evicted\n", kind.name, figures.seeds,
               figures.strikes, figures.puts, figures.refused, figures.lost, figures.evicted);
}

using Action = FaultyIo::Action;

TEST(FaultTest, OneWriteFails) {
  RunSeeds({"EIO once",
            [](FaultyIo* io, std::mt19937_64*) {
              io->Add({.action = Action::kWrite, .path = ".seg", .error = EIO, .chance = 0.1, .times = 1});
            },
            0});
}

TEST(FaultTest, OneBlockIsBad) {
  RunSeeds({"EIO always on one block of each segment",
            [](FaultyIo* io, std::mt19937_64* random) {
              const int64_t block = 1 + static_cast<int64_t>((*random)() % 15);
              io->Add({.action = Action::kWrite,
                       .path = ".seg",  // in its making, too
                       .error = EIO,
                       .offset = block * engine::kSegmentBlockBytes + 4096,
                       .end = block * engine::kSegmentBlockBytes + 8192});
            },
            0});
}

TEST(FaultTest, TheDiskIsFull) {
  RunSeeds(
      {"ENOSPC",
       [](FaultyIo* io, std::mt19937_64*) { io->Add({.action = Action::kWrite, .path = ".seg.tmp", .error = ENOSPC}); },
       kThreads * kPuts,
       /*evicts=*/true});
}

TEST(FaultTest, NoDescriptors) {
  RunSeeds({"EMFILE",
            [](FaultyIo* io, std::mt19937_64*) {
              io->Add({.action = Action::kOpen, .path = "segments", .error = EMFILE, .chance = 0.5});
            },
            kThreads * kPuts});
}

TEST(FaultTest, NoMemoryInTheKernel) {
  RunSeeds({"ENOMEM",
            [](FaultyIo* io, std::mt19937_64*) {
              io->Add({.action = Action::kWrite, .path = "segments", .error = ENOMEM, .chance = 0.3});
              io->Add({.action = Action::kRead, .path = "segments", .error = ENOMEM, .chance = 0.1});
            },
            kThreads * kPuts});
}

TEST(FaultTest, NoPermission) {
  RunSeeds({"EACCES",
            [](FaultyIo* io, std::mt19937_64*) {
              io->Add({.action = Action::kOpen, .path = "segments", .error = EACCES, .chance = 0.5});
            },
            kThreads * kPuts});
}

TEST(FaultTest, AFlushFails) {
  RunSeeds({"fdatasync once",
            [](FaultyIo* io, std::mt19937_64*) {
              io->Add({.action = Action::kSync, .path = ".seg", .error = EIO, .chance = 0.2, .times = 2});
            },
            2 * kThreads});
}

// The same with what the device had not flushed dropped, and a loss of power at any moment.
TEST(FaultTest, AFlushThatFailsDropsWhatItWasFor) {
  for (int i = 0; i < FaultSeeds() && !::testing::Test::HasFailure(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
    ScratchDirectory scratch(/*in_memory=*/true);
    RecordingIo recording(scratch.path());
    FaultyIo io(seed, &recording);
    io.Add({.action = Action::kSync, .path = ".seg", .error = EIO, .chance = 0.1, .times = 4});
    Acknowledged done;
    {
      const Opened opened = MustOpen(scratch.path() + "/store", &io);
      ASSERT_NE(opened.store, nullptr);
      done = Work(opened.store.get(), seed, &recording, 0);
    }
    std::mt19937_64 random(seed);
    for (int state = 0; state < 4; ++state) {
      const int64_t moment =
          state == 0 ? recording.Now() : static_cast<int64_t>(random() % static_cast<uint64_t>(recording.Now() + 1));
      ScratchDirectory rebuilt(/*in_memory=*/true);
      recording.Rebuild(moment, seed * 1000 + state, rebuilt.path());
      const Opened opened = MustOpen(rebuilt.path() + "/store", nullptr);
      ASSERT_NE(opened.store, nullptr) << "moment " << moment;
      std::vector<int> promised;
      for (size_t n = 0; n < done.numbers.size(); ++n) {
        if (done.moments[n] <= moment) promised.push_back(done.numbers[n]);
      }
      ExpectIntact(opened.store.get(), promised);
      EXPECT_THAT(opened.store->Verify({})->damaged, IsEmpty()) << "moment " << moment;
    }
  }
}

TEST(FaultTest, BadBlocksAreRememberedAndWornSegmentsRest) {
  ScratchDirectory scratch(/*in_memory=*/true);
  FaultyIo io(TestSeed());
  int64_t bad = 0;
  {
    const Opened opened = MustOpen(scratch.path() + "/store", &io);
    ASSERT_NE(opened.store, nullptr);
    ASSERT_EQ(Put(opened.store.get(), 1), absl::OkStatus());
    io.Add({.action = Action::kWrite,
            .path = "000000.seg",
            .error = EIO,
            .offset = 3 * engine::kSegmentBlockBytes,
            .end = 4 * engine::kSegmentBlockBytes});
    for (int i = 2; i < 60; ++i) EXPECT_EQ(Put(opened.store.get(), i), absl::OkStatus()) << i;
    const engine::Engine::Statistics stats = opened.engine->Stats();
    bad = stats.bad_blocks;
    EXPECT_GE(bad, 1);
    EXPECT_GE(stats.puts_written_again, 1);
  }
  const int64_t strikes = io.strikes();
  {
    // In the next life nobody writes there again.
    const Opened opened = MustOpen(scratch.path() + "/store", &io);
    ASSERT_NE(opened.store, nullptr);
    EXPECT_EQ(opened.engine->Stats().bad_blocks, bad);
    for (int i = 100; i < 160; ++i) EXPECT_EQ(Put(opened.store.get(), i), absl::OkStatus()) << i;
    EXPECT_EQ(io.strikes(), strikes);
    // A segment that fails everywhere is given up as a whole; what lies there is read as before.
    io.Add({.action = Action::kWrite, .path = "000000.seg", .error = EIO});
    for (int i = 2; i < 12; ++i) {
      ASSERT_TRUE(opened.store->Remove(kNamespace, Encoding(i).manifest.identity).ok());
    }
    for (int i = 200; i < 260; ++i) EXPECT_EQ(Put(opened.store.get(), i), absl::OkStatus()) << i;
    EXPECT_GT(opened.engine->Stats().sealed_blocks, 0);
    EXPECT_EQ(opened.engine->Stats().evictions, 0);
    ExpectIntact(opened.store.get(), {1, 100, 159, 200, 259});
  }
}

// Growing has parts that cannot be written elsewhere in the same file: the header, the flush, the file itself.
TEST(FaultTest, ASegmentThatCannotBeMadeIsMadeOnceMore) {
  const FaultyIo::Rule faults[] = {
      {.action = Action::kWrite, .path = ".seg", .error = EIO, .times = 1, .end = engine::kSegmentBlockBytes},
      {.action = Action::kWrite, .path = ".seg", .error = ENOMEM, .times = 1},
      {.action = Action::kSync, .path = ".tmp", .error = EIO, .times = 1},
      {.action = Action::kOpen, .path = ".tmp", .error = EMFILE, .times = 1},
      {.action = Action::kOpen, .path = ".tmp", .error = EACCES, .times = 1},
  };
  for (const FaultyIo::Rule& fault : faults) {
    SCOPED_TRACE(fault.error);
    ScratchDirectory scratch(/*in_memory=*/true);
    FaultyIo io(TestSeed());
    const Opened opened = MustOpen(scratch.path() + "/store", &io);
    ASSERT_NE(opened.store, nullptr);
    io.Add(fault);
    for (int i = 1; i < 40; ++i) EXPECT_EQ(Put(opened.store.get(), i), absl::OkStatus()) << i;
    EXPECT_EQ(io.strikes(), 1);
    EXPECT_EQ(opened.engine->Stats().evictions, 0);
    ExpectIntact(opened.store.get(), {1, 2, 20, 39});
  }
}

// A store that cannot grow for long, whatever the reason, evicts as on a full disk; a few failures do not suffice.
TEST(FaultTest, AStoreThatCannotGrowForLongMakesDo) {
  for (const FaultyIo::Rule& fault : {FaultyIo::Rule{.action = Action::kOpen, .path = ".tmp", .error = EACCES},
                                      FaultyIo::Rule{.action = Action::kWrite, .path = ".tmp", .error = EIO}}) {
    SCOPED_TRACE(fault.error);
    ScratchDirectory scratch(/*in_memory=*/true);
    FaultyIo io(TestSeed());
    const Opened opened = MustOpen(scratch.path() + "/store", &io);
    ASSERT_NE(opened.store, nullptr);
    ASSERT_EQ(Put(opened.store.get(), 1), absl::OkStatus());
    io.Add(fault);
    int number = 2;
    absl::Status refused;
    while (refused.ok() && number < 200) refused = Put(opened.store.get(), ++number);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("cannot add a segment"));
    EXPECT_EQ(opened.engine->Stats().evictions, 0);
    const absl::Time until = SteadyNow() + absl::Seconds(60);
    while (!Put(opened.store.get(), ++number).ok() && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(10));
    EXPECT_GT(opened.engine->Stats().evictions, 0);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(Put(opened.store.get(), ++number), absl::OkStatus()) << number;
    // And grows again when it can.
    io.Heal();
    const int64_t bytes = opened.engine->Stats().segment_bytes;
    while (opened.engine->Stats().segment_bytes == bytes && SteadyNow() < until) {
      EXPECT_EQ(Put(opened.store.get(), ++number), absl::OkStatus()) << number;
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_GT(opened.engine->Stats().segment_bytes, bytes);
  }
}

// Evicting brings no descriptors.
TEST(FaultTest, AStoreWithoutDescriptorsSaysSoAndEvictsNothing) {
  ScratchDirectory scratch(/*in_memory=*/true);
  FaultyIo io(TestSeed());
  const Opened opened = MustOpen(scratch.path() + "/store", &io);
  ASSERT_NE(opened.store, nullptr);
  ASSERT_EQ(Put(opened.store.get(), 1), absl::OkStatus());
  io.Add({.action = Action::kOpen, .path = ".tmp", .error = EMFILE});
  int number = 2;
  absl::Status refused;
  while (refused.ok() && number < 200) refused = Put(opened.store.get(), ++number);
  const absl::Time until = SteadyNow() + absl::Milliseconds(1500);
  while (SteadyNow() < until) {
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("ulimit -n"));
    absl::SleepFor(absl::Milliseconds(50));
    refused = Put(opened.store.get(), number);
  }
  EXPECT_EQ(opened.engine->Stats().evictions, 0);
  io.Heal();
  EXPECT_EQ(Put(opened.store.get(), number), absl::OkStatus());
}

// A write of many blocks fails as a whole: each is tried alone, and only the bad one is lost.
TEST(FaultTest, OfAWriteThatFailsOnlyTheBadBlockIsLost) {
  for (const bool for_good : {false, true}) {
    ScratchDirectory scratch(/*in_memory=*/true);
    FaultyIo io(TestSeed());
    engine::EngineOptions options = Options(&io);
    options.segment_bytes = 8 << 20;
    auto engine = engine::Engine::Open(scratch.path() + "/store", options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    const auto put = [&](int number) {
      const Synthetic s = MakeSynthetic(number, 2, 5000);
      return (*engine)->Put(kNamespace, s.manifest, s.spans(), Soon()).status();
    };
    ASSERT_GE(MakeSynthetic(1, 2, 5000).manifest.bytes(), 1 << 20);
    ASSERT_EQ(put(1), absl::OkStatus());
    const int64_t block = engine::BlocksFor(MakeSynthetic(1, 2, 5000).manifest.bytes()) + 4;  // of the next one
    io.Add({.action = Action::kWrite,
            .path = "000000.seg",
            .error = EIO,
            .times = for_good ? INT64_MAX : 1,
            .offset = block * engine::kSegmentBlockBytes + 4096,
            .end = block * engine::kSegmentBlockBytes + 8192});
    ASSERT_EQ(put(2), absl::OkStatus());
    const engine::Engine::Statistics stats = (*engine)->Stats();
    EXPECT_EQ(stats.puts_written_again, 1);
    EXPECT_EQ(stats.bad_blocks, for_good ? 1 : 0);
    EXPECT_EQ(stats.sealed_blocks, 0);
    EXPECT_EQ(stats.evictions, 0);
    for (int number = 3; number < 9; ++number) EXPECT_EQ(put(number), absl::OkStatus()) << number;
    EXPECT_EQ((*engine)->Stats().bad_blocks, for_good ? 1 : 0);
    EXPECT_EQ((*engine)->Stats().puts_written_again, 1);
  }
}

// Pushes to a node take another path to the disk.
TEST(FaultTest, PushesAreWrittenElsewhereToo) {
  ScratchDirectory scratch(/*in_memory=*/true);
  FaultyIo io(TestSeed());
  const Opened opened = MustOpen(scratch.path() + "/store", &io);
  ASSERT_NE(opened.store, nullptr);
  const auto push = [&](int number) {
    const Synthetic s = Encoding(number);
    auto filled = FillPush(opened.engine, {kNamespace, s.manifest.identity, s.manifest.codec}, s);
    if (!filled.ok()) return filled.status();
    return CommitFilledPush(opened.engine, *std::move(filled), s.manifest).status();
  };
  ASSERT_EQ(push(1), absl::OkStatus());
  io.Add({.action = Action::kWrite,
          .path = "000000.seg",
          .error = EIO,
          .offset = 3 * engine::kSegmentBlockBytes,
          .end = 4 * engine::kSegmentBlockBytes});
  for (int i = 2; i < 60; ++i) EXPECT_EQ(push(i), absl::OkStatus()) << i;
  const int64_t strikes = io.strikes();
  EXPECT_GE(strikes, 1);
  EXPECT_GE(opened.engine->Stats().bad_blocks, 1);
  io.Add({.action = Action::kSync, .path = ".seg", .error = EIO, .times = 1});
  for (int i = 60; i < 80; ++i) EXPECT_EQ(push(i), absl::OkStatus()) << i;
  EXPECT_EQ(opened.engine->Stats().failed_flushes, 1);
  EXPECT_EQ(io.strikes(), strikes + 1) << "the bad block is not tried again";
  ExpectIntact(opened.store.get(), {1, 2, 3, 40, 59, 60, 79});
}

TEST(FaultTest, ASegmentWhoseFlushFailedIsNotWrittenAgain) {
  ScratchDirectory scratch(/*in_memory=*/true);
  FaultyIo io(TestSeed());
  const Opened opened = MustOpen(scratch.path() + "/store", &io);
  ASSERT_NE(opened.store, nullptr);
  ASSERT_EQ(Put(opened.store.get(), 1), absl::OkStatus());
  io.Add({.action = Action::kSync, .path = "000000.seg", .error = EIO, .times = 1});
  EXPECT_EQ(Put(opened.store.get(), 2), absl::OkStatus()) << "it is written again, elsewhere";
  EXPECT_EQ(opened.engine->Stats().failed_flushes, 1);
  io.Add({.action = Action::kWrite, .path = "000000.seg", .error = EIO});
  for (int i = 3; i < 40; ++i) EXPECT_EQ(Put(opened.store.get(), i), absl::OkStatus()) << i;
  EXPECT_EQ(io.strikes(), 1) << "nobody writes to it";
  ExpectIntact(opened.store.get(), {1, 2, 3, 39});
}

}  // namespace
}  // namespace kvlink::store
