// Pushes straight into the tier, and what readers may do besides reading: OnLayerRead, Touch, Prefetch, Suspect.
#include "tests/store/push.h"

#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/failing_io.h"
#include "tests/store/synthetic.h"
#include "tests/store/told_memory.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::Broken;
using ::kvlink::testing::CommitFilledPush;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FailingIo;
using ::kvlink::testing::FillPush;
using ::kvlink::testing::FlipOnDisk;
using ::kvlink::testing::KeyOf;
using ::kvlink::testing::LengthsOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::kvlink::testing::ToldMemory;

constexpr char kNamespace[] = "ns";

using kvlink::testing::Patience;

class PushTest : public ::testing::Test {
 protected:
  PushTest() : scratch_(/*in_memory=*/true) {
    options_.dram_bytes = 4 << 20;
    options_.suspect_interval = absl::ZeroDuration();
    options_.segment_bytes = 1 << 20;
    options_.capacity_bytes = 8 << 20;
    options_.chunk_ready = [this](const TierChunk& chunk) { told_.Add(chunk); };
    Open();
  }
  void Open() {
    engine_.reset();
    told_.Clear();
    auto opened = Engine::Open(scratch_.path(), options_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }

  std::unique_ptr<StreamingPut> Fill(const Synthetic& s) {
    auto push = FillPush(engine_.get(), KeyOf(s), s);
    EXPECT_TRUE(push.ok()) << push.status();
    return push.ok() ? *std::move(push) : nullptr;
  }
  absl::StatusOr<Engine::PutOutcome> Commit(std::unique_ptr<StreamingPut> push, const Manifest& manifest) {
    return CommitFilledPush(engine_.get(), std::move(push), manifest);
  }
  absl::StatusOr<Engine::PutOutcome> Push(const Synthetic& s) { return Commit(Fill(s), s.manifest); }

  absl::StatusOr<std::unique_ptr<EncodingLease>> Read(const Synthetic& s) {
    return engine_->Read(KeyOf(s), s.manifest.etag, Patience());
  }
  absl::Status Compare(const Synthetic& s, bool* from_dram = nullptr) {
    auto lease = Read(s);
    if (!lease.ok()) return lease.status();
    if (from_dram != nullptr) *from_dram = (*lease)->from_dram();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      absl::Status status = (*lease)->WaitLayer(layer, Patience());
      if (!status.ok()) return status;
      if ((*lease)->layer(layer) != absl::MakeConstSpan(s.slabs[layer])) return absl::InternalError("WRONG BYTES");
    }
    return absl::OkStatus();
  }
  // Whether [data, data + length) is where `place` says.
  bool LiesAt(const Place& place, const std::byte* data, int64_t length) {
    const Place last{place.memory, place.offset + length - 1};
    return told_.At(place) == data && told_.At(last) == data + length - 1;
  }

  ScratchDirectory scratch_;
  EngineOptions options_;
  ToldMemory told_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(PushTest, LandsInTheTierAndIsThereAfterReopening) {
  const Synthetic s = MakeSynthetic(1, 3, 700, 2, 64);
  std::unique_ptr<StreamingPut> push = Fill(s);
  ASSERT_NE(push, nullptr);
  EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
  EXPECT_EQ(engine_->Stats().pushes_open, 1);
  std::vector<const std::byte*> slabs;
  for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
    slabs.push_back(push->slab(layer).data());
    EXPECT_TRUE(LiesAt(push->place(layer), slabs.back(), s.manifest.layers[layer].length));
  }
  const auto outcome = Commit(std::move(push), s.manifest);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->written);
  EXPECT_EQ(outcome->etag, s.manifest.etag);
  {
    auto lease = Read(s);
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_TRUE((*lease)->from_dram());
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      EXPECT_EQ((*lease)->layer(layer).data(), slabs[layer]) << "a copy was made";
      EXPECT_TRUE(LiesAt((*lease)->place(layer), slabs[layer], s.manifest.layers[layer].length));
    }
  }
  EXPECT_EQ(engine_->Stats().bytes_written_in_place, s.bytes());
  EXPECT_EQ(Compare(s), absl::OkStatus()) << "padding included";
  Open();
  bool from_dram = true;
  EXPECT_EQ(Compare(s, &from_dram), absl::OkStatus());
  EXPECT_FALSE(from_dram);
  {
    auto lease = Read(s);
    EXPECT_TRUE(LiesAt((*lease)->place(1), (*lease)->layer(1).data(), s.manifest.layers[1].length));
  }
  const auto again = Push(s);
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE(again->written);
}

TEST_F(PushTest, WhatDoesNotAgreeIsRefusedAndItsMemoryComesBack) {
  const Synthetic s = MakeSynthetic(1), other = MakeSynthetic(2), longer = MakeSynthetic(3, 2, 700);
  const auto refused = [&](std::unique_ptr<StreamingPut> push, const Manifest& manifest) {
    const auto outcome = Commit(std::move(push), manifest);
    EXPECT_TRUE(absl::IsInvalidArgument(outcome.status())) << outcome.status();
  };
  auto flipped = Fill(s);
  flipped->slab(1)[7] ^= std::byte{1};
  refused(std::move(flipped), s.manifest);
  refused(Fill(s), other.manifest);
  refused(Fill(s), longer.manifest);
  Manifest unsealed = s.manifest;
  unsealed.etag = Etag();
  refused(Fill(s), unsealed);
  Manifest elsewhere = s.manifest;
  elsewhere.codec = Codec::kQ8;
  refused(Fill(s), elsewhere);
  Fill(s).reset();
  EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
  EXPECT_FALSE(engine_->Find(KeyOf(other)).has_value());
  Engine::Statistics stats = engine_->Stats();
  EXPECT_EQ(stats.dram_bytes_used, 0);
  EXPECT_EQ(stats.segment_bytes_used, 0);
  EXPECT_EQ(stats.pushes_open, 0);
  EXPECT_EQ(stats.puts_in_flight, 0);
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{},
                                              {0, 0},
                                              {-4096},
                                              {100},
                                              {int64_t{1} << 62, int64_t{1} << 62},
                                              std::vector<int64_t>(2000, 4096)}) {
    EXPECT_TRUE(absl::IsInvalidArgument(engine_->BeginPush(KeyOf(s), lengths).status()));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(engine_->BeginPush(KeyOf(s), {5 << 20}).status()));
  EXPECT_TRUE(Push(s).ok());
}

TEST_F(PushTest, EachLayerIsWrittenWhenItIsThere) {
  class CountingIo : public FailingIo {
   public:
    absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                          absl::Span<const std::byte> bytes) override {
      if (path.find("segments") != std::string::npos) written += static_cast<int64_t>(bytes.size());
      return FailingIo::WriteStarted(path, offset, bytes);
    }
    std::atomic<int64_t> written{0};
  };
  CountingIo io;
  options_.observer = &io;
  Open();
  const Synthetic s = MakeSynthetic(1, 3, 700, 2, 64);
  const int64_t slab = s.manifest.layers[0].length;
  const auto fill = [&](StreamingPut* push, int64_t layer) {
    ASSERT_EQ(push->Reserve(layer), absl::OkStatus());
    std::memcpy(push->slab(layer).data(), s.slabs[layer].data(), s.slabs[layer].size());
  };
  std::unique_ptr<StreamingPut> push = *engine_->BeginPush(KeyOf(s), LengthsOf(s));
  EXPECT_TRUE(absl::IsInvalidArgument(push->WriteLayer(0))) << "without a manifest";
  EXPECT_EQ(push->Accept(s.manifest), absl::OkStatus());
  EXPECT_TRUE(absl::IsInvalidArgument(push->Accept(s.manifest))) << "a second one";
  const int64_t before = io.written;
  // Layers come in any order; a write may hold the end of one and the beginning of the next.
  fill(push.get(), 1);
  EXPECT_EQ(push->WriteLayer(1), absl::OkStatus());
  EXPECT_EQ(io.written, before);
  fill(push.get(), 0);
  EXPECT_EQ(push->WriteLayer(0), absl::OkStatus());
  EXPECT_GE(io.written - before, slab);
  EXPECT_TRUE(absl::IsInvalidArgument(push->WriteLayer(0))) << "twice";
  // One whose last layer does not come leaves nothing: more of them than the store has blocks for.
  const absl::Time deadline = Patience();
  for (int i = 0; i < 40; ++i) {
    push = nullptr;
    // A write in progress holds its memory for a moment longer than the put.
    const auto idle = [](const auto& now) { return now.puts_in_flight == 0 && now.dram_bytes_used == 0; };
    while (!idle(engine_->Stats()) && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_EQ(engine_->Stats().puts_in_flight, 0);
    ASSERT_EQ(engine_->Stats().dram_bytes_used, 0);
    push = *engine_->BeginPush(KeyOf(s), LengthsOf(s));
    ASSERT_EQ(push->Accept(s.manifest), absl::OkStatus());
    fill(push.get(), 0);
    ASSERT_EQ(push->WriteLayer(0), absl::OkStatus());
  }
  Mutex mutex;
  CondVar told;
  std::optional<absl::Status> outcome;
  engine_->CommitPush(std::move(push), [&](const absl::StatusOr<Engine::PutOutcome>& put) {
    MutexLock lock(&mutex);
    outcome = put.status();
    told.Signal();
  });
  {
    MutexLock lock(&mutex);
    while (!outcome.has_value() && SteadyNow() < deadline) told.WaitUntil(&mutex, deadline);
    ASSERT_TRUE(outcome.has_value());
    EXPECT_TRUE(absl::IsInvalidArgument(*outcome)) << *outcome;
  }
  EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
  EXPECT_TRUE(Push(s).ok());
  EXPECT_EQ(Compare(s), absl::OkStatus());
  engine_.reset();
}

TEST_F(PushTest, MakesRoomButNotFromLeasesAndOtherPushes) {
  // 16 KiB each, 256 in the tier.
  std::vector<std::unique_ptr<EncodingLease>> leases;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(Push(MakeSynthetic(i)).ok());
    leases.push_back(*Read(MakeSynthetic(i)));
  }
  std::vector<std::unique_ptr<StreamingPut>> pushes;
  for (;;) {
    const Synthetic s = MakeSynthetic(1000 + pushes.size());
    auto push = engine_->BeginPush(KeyOf(s), LengthsOf(s));
    const absl::Status reserved = push.ok() ? (*push)->Reserve(1) : push.status();
    if (!reserved.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(reserved)) << reserved;
      break;
    }
    pushes.push_back(*std::move(push));
    std::memset(pushes.back()->slab(0).data(), 0x55, pushes.back()->slab(0).size());
    ASSERT_LT(pushes.size(), 1000u);
  }
  EXPECT_EQ(pushes.size(), 156u);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(leases[i]->layer(0), absl::MakeConstSpan(MakeSynthetic(i).slabs[0]));
  }
  leases.pop_back();
  EXPECT_TRUE(engine_->BeginPush(KeyOf(MakeSynthetic(1)), {4096}).ok()) << "what is not leased makes room";
}

TEST_F(PushTest, OneThatSendsNothingEvictsAlmostNothing) {
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(Push(MakeSynthetic(i)).ok());
  const int64_t before = engine_->Stats().dram_evictions;
  // Three quarters of the tier are announced, in 48 slabs.
  const auto push = engine_->BeginPush(KeyOf(MakeSynthetic(1000)), std::vector<int64_t>(48, 64 << 10));
  ASSERT_TRUE(push.ok()) << push.status();
  const int64_t evicted = engine_->Stats().dram_evictions - before;
  EXPECT_LE(evicted, 8) << "a slab is as much as four encodings";
  // Each slab makes its own room when it is about to come.
  for (int layer = 0; layer < 48; ++layer) EXPECT_EQ((*push)->Reserve(layer), absl::OkStatus()) << layer;
  EXPECT_GT(engine_->Stats().dram_evictions - before, evicted);
}

TEST_F(PushTest, OfTwoPushesOfOneEncodingTheFirstStays) {
  const Synthetic first = MakeSynthetic(1);
  Synthetic second = first;
  second.slabs[0][5] ^= std::byte{1};
  ASSERT_TRUE(second.manifest.ChecksumLayer(0, second.slabs[0]).ok());
  second.manifest.Seal();
  auto push = Fill(second);
  ASSERT_TRUE(Push(first).ok());
  const auto outcome = Commit(std::move(push), second.manifest);
  ASSERT_TRUE(outcome.ok());
  EXPECT_FALSE(outcome->written);
  EXPECT_EQ(outcome->etag, first.manifest.etag);
  EXPECT_EQ(Compare(first), absl::OkStatus());
  EXPECT_EQ(engine_->Stats().dram_bytes_used, first.bytes());
  EXPECT_EQ(engine_->Stats().dram_bytes_by_namespace.at(kNamespace), first.bytes());
}

TEST_F(PushTest, AFailingDiskIsSaidAndNothingStays) {
  // Manifests, of a page, are read.
  class FailingSlabs : public FailingIo {
   public:
    absl::Status ReadStarted(const std::string& path, int64_t offset, int64_t length) override {
      return length == 4096 ? absl::OkStatus() : FailingIo::ReadStarted(path, offset, length);
    }
  };
  for (const bool uring : {true, false}) {
    FailingSlabs io;
    options_.observer = &io;
    options_.allow_uring = uring;
    Open();
    const Synthetic s = MakeSynthetic(uring ? 1 : 2, 4, 700);
    io.Fail("segments", Broken);
    EXPECT_TRUE(absl::IsDataLoss(Push(s).status()));
    io.Fail("segments", nullptr, Broken);
    EXPECT_TRUE(absl::IsDataLoss(Push(s).status()));
    io.Fail("", nullptr);
    EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
    EXPECT_EQ(engine_->Stats().dram_bytes_used, 0);
    EXPECT_EQ(engine_->Stats().puts_in_flight, 0);
    EXPECT_TRUE(Push(s).ok());
    // Layers that cannot be read say so too.
    engine_->DropDramTier();
    io.Fail("segments", nullptr, nullptr, Broken);
    auto lease = Read(s);
    ASSERT_TRUE(lease.ok());
    Mutex mutex;
    CondVar told;
    std::optional<absl::Status> arrived;
    (*lease)->OnLayerRead(3, [&](const absl::Status& status) {
      MutexLock lock(&mutex);
      arrived = status;
      told.Signal();
    });
    {
      MutexLock lock(&mutex);
      const absl::Time deadline = Patience();
      while (!arrived.has_value() && SteadyNow() < deadline) told.WaitUntil(&mutex, deadline);
      ASSERT_TRUE(arrived.has_value());
      EXPECT_TRUE(absl::IsDataLoss(*arrived)) << *arrived;
    }
    io.Fail("", nullptr);
    (*lease).reset();
    engine_.reset();
  }
}

TEST_F(PushTest, ManyAtOnceInManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(TestSeed() + t);
      for (int i = 0; i < 60; ++i) {
        const Synthetic s = MakeSynthetic(random() % 24, 3);
        auto push = kvlink::testing::FillPush(engine_.get(), KeyOf(s), s);
        if (!push.ok()) {
          EXPECT_TRUE(absl::IsResourceExhausted(push.status())) << push.status();
          continue;
        }
        if (random() % 4 == 0) continue;  // dropped half way
        const auto outcome = Commit(*std::move(push), s.manifest);
        EXPECT_TRUE(outcome.ok()) << outcome.status();
        const absl::Status status = Compare(s);
        EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
        if (random() % 3 == 0) engine_->Remove(kNamespace, s.manifest.identity).IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Engine::Statistics stats = engine_->Stats();
  EXPECT_EQ(stats.pushes_open, 0);
  EXPECT_EQ(stats.puts_in_flight, 0);
  EXPECT_EQ(stats.integrity_failures, 0);
  const auto verified = engine_->Verify({});
  ASSERT_TRUE(verified.ok());
  EXPECT_TRUE(verified->damaged.empty());
  EXPECT_TRUE(verified->index_problems.empty());
}

TEST_F(PushTest, WhyEncodingsLeftIsCounted) {
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2), c = MakeSynthetic(3);
  for (const Synthetic* s : {&a, &b, &c}) ASSERT_TRUE(Push(*s).ok());
  ASSERT_TRUE(engine_->Pin(KeyOf(c)).ok());
  EXPECT_EQ(engine_->Stats().pinned_encodings, 1);
  ASSERT_TRUE(engine_->PutEntry(kNamespace, "one", EntryOf({&a, &c}, 1)).ok());
  ASSERT_TRUE(engine_->PutEntry(kNamespace, "one", EntryOf({&c}, 2)).ok());
  ASSERT_TRUE(engine_->Remove(kNamespace, b.manifest.identity).ok());
  ASSERT_TRUE(engine_->Remove(kNamespace, b.manifest.identity).ok());
  const Engine::Statistics stats = engine_->Stats();
  EXPECT_EQ(stats.unreferenced, 1);
  EXPECT_EQ(stats.removed, 1);
  EXPECT_EQ(stats.evictions, 0);
  EXPECT_EQ(stats.dropped_damaged, 0);
}

TEST_F(PushTest, LayersTellWhenTheyHaveBeenRead) {
  const Synthetic s = MakeSynthetic(4, 8, 700);
  ASSERT_TRUE(Push(s).ok());
  for (int round = 0; round < 20; ++round) {
    engine_->DropDramTier();
    auto lease = Read(s);
    ASSERT_TRUE(lease.ok());
    Mutex mutex;
    CondVar changed;
    std::map<int64_t, int> calls;
    for (int64_t layer = 0; layer < 8; ++layer) {
      (*lease)->OnLayerRead(layer, [&, layer](const absl::Status& status) {
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_EQ(std::memcmp((*lease)->layer(layer).data(), s.slabs[layer].data(), 4096), 0);
        MutexLock lock(&mutex);
        ++calls[layer];
        changed.Signal();
      });
    }
    MutexLock lock(&mutex);
    const absl::Time deadline = Patience();
    while (calls.size() < 8 && SteadyNow() < deadline) changed.WaitUntil(&mutex, deadline);
    ASSERT_EQ(calls.size(), 8u);
    for (const auto& [layer, times] : calls) EXPECT_EQ(times, 1);
  }
  auto lease = Read(s);
  bool within = false;
  (*lease)->OnLayerRead(3, [&](const absl::Status& status) { within = status.ok(); });
  EXPECT_TRUE(within);
  absl::Status none;
  (*lease)->OnLayerRead(8, [&](const absl::Status& status) { none = status; });
  EXPECT_TRUE(absl::IsInvalidArgument(none));
}

TEST_F(PushTest, PrefetchLoadsAndTouchKeeps) {
  const Synthetic s = MakeSynthetic(4);
  EXPECT_TRUE(absl::IsNotFound(engine_->Prefetch(KeyOf(s), Patience())));
  EXPECT_TRUE(absl::IsNotFound(engine_->Touch(KeyOf(s))));
  EXPECT_TRUE(absl::IsNotFound(engine_->Suspect(KeyOf(s))));
  ASSERT_TRUE(Push(s).ok());
  engine_->DropDramTier();
  EXPECT_FALSE(engine_->Find(KeyOf(s))->resident);
  EXPECT_EQ(engine_->Prefetch(KeyOf(s), Patience()), absl::OkStatus());
  EXPECT_TRUE(engine_->Find(KeyOf(s))->resident);
  const absl::Time deadline = Patience();
  while (engine_->Stats().loads_in_flight > 0 && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(1));
  bool from_dram = false;
  EXPECT_EQ(Compare(s, &from_dram), absl::OkStatus());
  EXPECT_TRUE(from_dram);
  const Engine::Statistics stats = engine_->Stats();
  EXPECT_EQ(stats.hits_dram, 1) << "prefetching is no hit";
  EXPECT_EQ(stats.hits_segments, 0);
  EXPECT_EQ(stats.hit_tokens_dram, s.manifest.tokens);
  EXPECT_EQ(stats.hit_bytes_dram, s.bytes());
  EXPECT_EQ(stats.leases, 0);
  // A touched encoding outlives untouched ones.
  for (int i = 100; i < 700; ++i) {
    ASSERT_TRUE(Push(MakeSynthetic(i)).ok());
    ASSERT_EQ(engine_->Touch(KeyOf(s)), absl::OkStatus()) << i;
  }
  EXPECT_TRUE(engine_->Find(KeyOf(s))->resident);
}

TEST_F(PushTest, SuspicionFindsWhatIsWrong) {
  const Synthetic s = MakeSynthetic(4);
  ASSERT_TRUE(Push(s).ok());
  EXPECT_EQ(engine_->Suspect(KeyOf(s)), absl::OkStatus());
  EXPECT_TRUE(engine_->Find(KeyOf(s))->resident);
  EXPECT_EQ(engine_->Stats().integrity_failures, 0);
  {
    // Memory that went wrong behind the checksum.
    auto lease = Read(s);
    const_cast<std::byte&>((*lease)->layer(1)[9]) ^= std::byte{2};
  }
  EXPECT_EQ(engine_->Suspect(KeyOf(s)), absl::OkStatus());
  EXPECT_FALSE(engine_->Find(KeyOf(s))->resident);
  EXPECT_EQ(engine_->Stats().integrity_failures, 1);
  EXPECT_EQ(Compare(s), absl::OkStatus());
  ASSERT_EQ(FlipOnDisk(scratch_.path(), s), 1);
  EXPECT_TRUE(absl::IsDataLoss(engine_->Suspect(KeyOf(s))));
  EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
  EXPECT_TRUE(absl::IsNotFound(engine_->Suspect(KeyOf(s))));
  EXPECT_EQ(engine_->Stats().integrity_failures, 2);
  EXPECT_EQ(engine_->Stats().dropped_damaged, 1);
  EXPECT_TRUE(Push(s).ok());
}

}  // namespace
}  // namespace kvlink::engine
