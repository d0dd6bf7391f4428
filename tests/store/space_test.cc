// Eviction, pins, a full disk, and what serves where the kernel permits less.
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "tests/store/failing_io.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::store {
namespace {

using ::kvlink::testing::Broken;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FailingIo;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::NoSpace;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using kvlink::testing::Patience;

engine::EngineOptions Small() {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 4 << 20;
  return options;
}

std::unique_ptr<Store> MustOpen(const std::string& path, const engine::EngineOptions& options) {
  auto opened = engine::Engine::Open(path, options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? StoreOver(*std::move(opened)) : nullptr;
}

absl::Status PutOne(Store* store, absl::string_view ns, const Synthetic& s) {
  return store->Put(ns, s.manifest, s.spans(), Patience()).status();
}

bool Present(Store* store, absl::string_view ns, const Synthetic& s) {
  return (*store->Lookup(ns, {s.manifest.identity}, s.manifest.codec))[0].present;
}

TEST(SpaceTest, EvictsWhatIsNotUsedAndKeepsWhatIs) {
  ScratchDirectory scratch(true);
  auto store = MustOpen(scratch.path(), Small());  // 60 blocks, 1 encoding each
  const Synthetic hot = MakeSynthetic(1), pinned = MakeSynthetic(2), leased = MakeSynthetic(3);
  for (const Synthetic* s : {&hot, &pinned, &leased}) ASSERT_TRUE(PutOne(store.get(), "ns", *s).ok());
  ASSERT_TRUE(store->Pin("ns", pinned.manifest.identity, Codec::kRawBf16).ok());
  auto lease = store->Read("ns", leased.manifest.identity, Codec::kRawBf16, leased.manifest.etag, Patience());
  ASSERT_TRUE(lease.ok());
  int present = 0;
  for (int i = 100; i < 400; ++i) {
    ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(i)).ok());
    ASSERT_TRUE(ReadAndCompare(store.get(), "ns", hot).ok()) << "after " << i;
  }
  for (int i = 100; i < 400; ++i) {
    const absl::Status status = ReadAndCompare(store.get(), "ns", MakeSynthetic(i));
    ASSERT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
    present += status.ok();
  }
  EXPECT_TRUE(Present(store.get(), "ns", pinned));
  EXPECT_TRUE(Present(store.get(), "ns", leased));
  const auto stats = store->Stats();
  EXPECT_GT(stats->evictions, 200);
  EXPECT_GT(present, 40);
  EXPECT_LE(stats->segment_bytes, 4 << 20);
  EXPECT_THAT(store->Verify({})->index_problems, IsEmpty());
  EXPECT_TRUE(store->Unpin("ns", pinned.manifest.identity, Codec::kRawBf16).ok());
  EXPECT_TRUE(absl::IsNotFound(store->Unpin("ns", pinned.manifest.identity, Codec::kRawBf16)));
  EXPECT_TRUE(absl::IsNotFound(store->Pin("ns", MakeSynthetic(9999).manifest.identity, Codec::kRawBf16)));
}

TEST(SpaceTest, PinsOfANamespaceHaveALimit) {
  ScratchDirectory scratch(true);
  const auto pin = [](Store* store, absl::string_view ns, int i) {
    return store->Pin(ns, MakeSynthetic(i).manifest.identity, Codec::kRawBf16);
  };
  auto store = MustOpen(scratch.path(), Small());  // half of 4 MiB: 32 blocks, 1 encoding each
  for (int i = 0; i < 34; ++i) ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(i)).ok());
  ASSERT_TRUE(PutOne(store.get(), "other", MakeSynthetic(0)).ok());
  for (int i = 0; i < 32; ++i) ASSERT_EQ(pin(store.get(), "ns", i), absl::OkStatus());
  const absl::Status refused = pin(store.get(), "ns", 32);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("namespace 'ns' may pin 2097152 bytes"));
  EXPECT_EQ(pin(store.get(), "ns", 3), absl::OkStatus()) << "what is pinned already takes no more";
  EXPECT_EQ(pin(store.get(), "other", 0), absl::OkStatus()) << "each namespace has its own";
  auto stats = store->Stats();
  EXPECT_EQ(stats->pinned_bytes, 33 * 65536);
  ASSERT_EQ(stats->namespaces.size(), 2u);
  EXPECT_EQ(stats->namespaces[0].pinned_bytes, 32 * 65536);
  EXPECT_EQ(stats->namespaces[1].pinned_bytes, 65536);
  // Room comes with the last unpin, and with the end of a pinned encoding.
  const auto unpin3 = [&] { return store->Unpin("ns", MakeSynthetic(3).manifest.identity, Codec::kRawBf16); };
  EXPECT_EQ(unpin3(), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(pin(store.get(), "ns", 32)));
  EXPECT_EQ(unpin3(), absl::OkStatus());
  EXPECT_EQ(pin(store.get(), "ns", 32), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(pin(store.get(), "ns", 33)));
  EXPECT_TRUE(store->Remove("ns", MakeSynthetic(4).manifest.identity).ok());
  EXPECT_EQ(pin(store.get(), "ns", 33), absl::OkStatus());
  EXPECT_EQ(store->Stats()->pinned_bytes, 33 * 65536);
  store.reset();
  engine::EngineOptions none = Small();
  none.pinned_bytes = 0;
  store = MustOpen(scratch.path(), none);
  EXPECT_EQ(store->Stats()->pinned_bytes, 0);
  EXPECT_TRUE(absl::IsResourceExhausted(pin(store.get(), "ns", 0)));
}

TEST(SpaceTest, NothingEvictableIsSaid) {
  ScratchDirectory scratch(true);
  engine::EngineOptions options = Small();
  options.pinned_bytes = options.capacity_bytes;
  auto store = MustOpen(scratch.path(), options);
  absl::Status status;
  int stored = 0;
  for (int tries = 0; tries < 10000 && stored < 100; ++tries) {
    const Synthetic s = MakeSynthetic(stored);
    status = PutOne(store.get(), "ns", s);
    if (!status.ok()) break;
    // Over the watermark it may be gone already: what is there besides is pinned.
    stored += store->Pin("ns", s.manifest.identity, Codec::kRawBf16).ok();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(stored, 60);
  for (int i = 0; i < stored; ++i) EXPECT_TRUE(ReadAndCompare(store.get(), "ns", MakeSynthetic(i)).ok());
  ASSERT_TRUE(store->Unpin("ns", MakeSynthetic(7).manifest.identity, Codec::kRawBf16).ok());
  EXPECT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(1000)).ok());
  EXPECT_FALSE(Present(store.get(), "ns", MakeSynthetic(7)));
}

TEST(SpaceTest, TheLargestNamespaceGivesFirst) {
  ScratchDirectory scratch(true);
  auto store = MustOpen(scratch.path(), Small());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(PutOne(store.get(), "small", MakeSynthetic(i)).ok());
  for (int i = 100; i < 300; ++i) ASSERT_TRUE(PutOne(store.get(), "large", MakeSynthetic(i)).ok());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Present(store.get(), "small", MakeSynthetic(i)));
}

TEST(SpaceTest, EncodingsInManyRunsAreWhole) {
  ScratchDirectory scratch(true);
  auto store = MustOpen(scratch.path(), Small());
  // Every second block free, then encodings of three blocks and more.
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(i)).ok() || i > 55);
  for (int i = 0; i < 60; i += 2) ASSERT_TRUE(store->Remove("ns", MakeSynthetic(i).manifest.identity).ok());
  const Synthetic large = MakeSynthetic(500, 3, 700), larger = MakeSynthetic(501, 7, 700);
  // And one whose manifest alone takes more than a block.
  const Synthetic wide = MakeSynthetic(502, 40, 1, 256, 2);
  ASSERT_GT(SerializeManifest(wide.manifest).size(), size_t{64} << 10);
  for (const Synthetic* s : {&large, &larger, &wide}) ASSERT_TRUE(PutOne(store.get(), "ns", *s).ok());
  store->DropDramTier();
  for (const Synthetic* s : {&large, &larger, &wide})
    EXPECT_EQ(ReadAndCompare(store.get(), "ns", *s), absl::OkStatus());
  store.reset();
  store = MustOpen(scratch.path(), Small());
  for (const Synthetic* s : {&large, &larger, &wide})
    EXPECT_EQ(ReadAndCompare(store.get(), "ns", *s), absl::OkStatus());
  EXPECT_TRUE(store->Verify({})->damaged.empty());
}

TEST(SpaceTest, LeasesLimitTheDramTier) {
  ScratchDirectory scratch(true);
  engine::EngineOptions options = Small();
  options.dram_bytes = 64 << 10;  // four encodings of 16 KiB
  auto store = MustOpen(scratch.path(), options);
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(i)).ok());
  std::vector<std::unique_ptr<Lease>> leases;
  for (int i = 0; i < 6; ++i) {
    const Synthetic s = MakeSynthetic(i);
    auto lease = store->Read("ns", s.manifest.identity, Codec::kRawBf16, s.manifest.etag, Patience());
    if (i < 4) {
      ASSERT_TRUE(lease.ok()) << lease.status();
      leases.push_back(*std::move(lease));
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(lease.status())) << lease.status();
    }
  }
  // Writing needs no lease's place.
  EXPECT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(50)).ok());
  leases.pop_back();
  // The last request to the disk may hold its memory for longer than a read waits for room, on a machine that is busy.
  const auto read = [&](int number) {
    const absl::Time limit = Patience();
    absl::Status status;
    do {
      status = ReadAndCompare(store.get(), "ns", MakeSynthetic(number));
    } while (absl::IsResourceExhausted(status) && SteadyNow() < limit);
    return status;
  };
  EXPECT_EQ(read(5), absl::OkStatus());
  EXPECT_EQ(read(50), absl::OkStatus());
  const Synthetic huge = MakeSynthetic(60, 3, 700);
  ASSERT_TRUE(PutOne(store.get(), "ns", huge).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(ReadAndCompare(store.get(), "ns", huge)));
}

TEST(SpaceTest, AFullDiskIsSaidAndDeletingStillWorks) {
  ScratchDirectory scratch(true);
  FailingIo io;
  engine::EngineOptions options = Small();
  options.capacity_bytes = 64 << 20;
  options.observer = &io;
  auto store = MustOpen(scratch.path(), options);
  const Synthetic a = MakeSynthetic(1);
  ASSERT_TRUE(PutOne(store.get(), "ns", a).ok());
  ASSERT_TRUE(store->PutDocument("ns", "one", EntryOf({&a}, 1)).ok());
  // Segments cannot grow: what is there is evicted in turn.
  io.Fail("segments", NoSpace);
  EXPECT_TRUE(absl::IsResourceExhausted(PutOne(store.get(), "ns", MakeSynthetic(2))));
  io.Fail("", nullptr);
  ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(2)).ok());
  // The index cannot grow either: the reserve lets a deletion through.
  io.space_comes_back = true;
  io.Fail("index", NoSpace);
  EXPECT_EQ(store->DeleteDocument("ns", "one", 2), absl::OkStatus());
  EXPECT_FALSE(Present(store.get(), "ns", a));
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", MakeSynthetic(2)).ok());
  EXPECT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(3)).ok());
  store.reset();
  store = MustOpen(scratch.path(), Small());
  EXPECT_TRUE(absl::IsNotFound(store->GetDocument("ns", "one").status()));
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", MakeSynthetic(3)).ok());
  EXPECT_THAT(store->Verify({})->index_problems, IsEmpty());
}

TEST(SpaceTest, TheIndexKeepsNoDiary) {
  ScratchDirectory scratch(true);
  auto store = MustOpen(scratch.path(), Small());
  ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(1)).ok());
  store.reset();
  store = MustOpen(scratch.path(), Small());
  for (const auto& file : std::filesystem::directory_iterator(scratch.path() + "/index")) {
    EXPECT_NE(file.path().filename().string().substr(0, 3), "LOG");
  }
}

TEST(SpaceTest, AStoreWhoseFilesMayHardlyGrowIsNotDamaged) {
  ScratchDirectory scratch(true);
  const Synthetic s = MakeSynthetic(1);
  ASSERT_TRUE(PutOne(MustOpen(scratch.path(), Small()).get(), "ns", s).ok());
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit all;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &all), 0);
  int refused = 0;
  for (const rlim_t limit : {64, 256, 512, 1 << 10, 4 << 10}) {
    const rlimit low{limit, all.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &low), 0);
    const absl::Status status = engine::Engine::Open(scratch.path(), Small()).status();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &all), 0);
    if (status.ok()) continue;
    ++refused;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << limit << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("File too large")) << limit;
    EXPECT_THAT(std::string(status.message()), HasSubstr("ulimit -f")) << limit;
  }
  EXPECT_GE(refused, 2);
  std::signal(SIGXFSZ, before);
  auto store = MustOpen(scratch.path(), Small());
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", s).ok());
  EXPECT_THAT(store->Verify({})->index_problems, IsEmpty());
}

TEST(SpaceTest, FailingDevicesAreSaid) {
  for (bool uring : {true, false}) {
    ScratchDirectory scratch(true);
    FailingIo io;
    engine::EngineOptions options = Small();
    options.observer = &io;
    options.allow_uring = uring;
    auto store = MustOpen(scratch.path(), options);
    ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(1)).ok());
    store->DropDramTier();
    io.Fail("segments", nullptr, nullptr, Broken);
    EXPECT_TRUE(absl::IsDataLoss(ReadAndCompare(store.get(), "ns", MakeSynthetic(1))));
    EXPECT_FALSE(Present(store.get(), "ns", MakeSynthetic(1)));
    EXPECT_EQ(store->Stats()->integrity_failures, 1);
    io.Fail("segments", Broken);
    EXPECT_TRUE(absl::IsDataLoss(PutOne(store.get(), "ns", MakeSynthetic(2))));
    io.Fail("segments", nullptr, Broken);
    EXPECT_TRUE(absl::IsDataLoss(PutOne(store.get(), "ns", MakeSynthetic(3))));
    io.Fail("index", nullptr, Broken);
    EXPECT_FALSE(PutOne(store.get(), "ns", MakeSynthetic(4)).ok());
    EXPECT_FALSE(Present(store.get(), "ns", MakeSynthetic(4)));
    io.Fail("", nullptr);
    // RocksDB does not trust a log whose flush failed; reading goes on, and another life writes again.
    const absl::Status after = PutOne(store.get(), "ns", MakeSynthetic(5));
    if (!after.ok()) {
      EXPECT_THAT(std::string(after.message()), HasSubstr("opened again"));
    }
    ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(6)).ok() || !after.ok());
    store.reset();
    store = MustOpen(scratch.path(), Small());
    EXPECT_EQ(PutOne(store.get(), "ns", MakeSynthetic(7)), absl::OkStatus());
    EXPECT_TRUE(ReadAndCompare(store.get(), "ns", MakeSynthetic(7)).ok());
    EXPECT_EQ(store->Stats()->double_claims, 0);
  }
}

TEST(SpaceTest, ServesWithoutIoUringAndWithoutDirectIo) {
  for (const auto& [uring, direct] : {std::pair(true, true), {false, true}, {true, false}, {false, false}}) {
    ScratchDirectory scratch;
    engine::EngineOptions options = Small();
    options.allow_uring = uring;
    options.allow_direct = direct;
    const Synthetic s = MakeSynthetic(1, 4, 700, 2, 64);
    {
      auto store = MustOpen(scratch.path(), options);
      ASSERT_TRUE(PutOne(store.get(), "ns", s).ok());
      const std::string io = store->Stats()->io;
      EXPECT_EQ(io.find("io_uring is disabled") != std::string::npos, !uring) << io;
      EXPECT_EQ(io.find("O_DIRECT is disabled") != std::string::npos, !direct) << io;
      store->DropDramTier();
      EXPECT_TRUE(ReadAndCompare(store.get(), "ns", s).ok());
    }
    // Whoever wrote it, the other reads it.
    options.allow_uring = !uring;
    options.allow_direct = !direct;
    EXPECT_TRUE(ReadAndCompare(MustOpen(scratch.path(), options).get(), "ns", s).ok());
  }
}

TEST(SpaceTest, ConcurrentPutsShareFlushes) {
  class CountingIo : public FailingIo {
   public:
    absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override {
      if (path.find("segments") != std::string::npos) ++flushes;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return 0;
    }
    std::atomic<int> flushes{0};
  };
  ScratchDirectory scratch(true);
  CountingIo io;
  engine::EngineOptions options = Small();
  options.capacity_bytes = 16 << 20;
  options.observer = &io;
  auto store = MustOpen(scratch.path(), options);
  ASSERT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(0)).ok());
  io.flushes = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) EXPECT_TRUE(PutOne(store.get(), "ns", MakeSynthetic(1000 + t * 100 + i)).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(io.flushes, 160);
}

}  // namespace
}  // namespace kvlink::store
