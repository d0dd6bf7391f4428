// Checks of all that is stored, while it is used and changed; what they find is named; and what a store refuses to be
// opened with.
#include <atomic>
#include <chrono>
#include <future>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/failing_io.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::CopyInSegments;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FailingIo;
using ::kvlink::testing::FlipManifestOnDisk;
using ::kvlink::testing::FlipOnDisk;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Soak;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using kvlink::testing::Patience;

// Counts reads of segments.
class CountingIo : public FailingIo {
 public:
  absl::Status ReadStarted(const std::string& path, int64_t, int64_t) override {
    if (path.find("segments") == std::string::npos) return absl::OkStatus();
    ++reads;
    return fails_ ? absl::UnavailableError("read: Cannot allocate memory (injected)") : absl::OkStatus();
  }
  void FailReads(bool fails) { fails_ = fails; }
  // Flushes of the index wait while it is held.
  absl::StatusOr<uint64_t> SyncStarted(const std::string& path) override {
    if (path.find("/index/") == std::string::npos) return 0;
    MutexLock lock(&mutex_);
    waiting_ += held_;
    changed_.SignalAll();
    while (held_) changed_.Wait(&mutex_);
    return 0;
  }
  void HoldSyncs(bool held) {
    MutexLock lock(&mutex_);
    held_ = held;
    changed_.SignalAll();
  }
  bool AwaitHeldSync(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (waiting_ == 0 && changed_.WaitUntil(&mutex_, deadline)) {
    }
    return waiting_ > 0;
  }
  std::atomic<int64_t> reads{0};

 private:
  std::atomic<bool> fails_{false};
  Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

class VerifyTest : public ::testing::Test {
 protected:
  VerifyTest() { Open(); }
  void Open() {
    engine_.reset();
    EngineOptions options;
    options.dram_bytes = 4 << 20;
    options.segment_bytes = 1 << 20;
    options.capacity_bytes = 32 << 20;
    options.observer = &io_;
    auto opened = Engine::Open(scratch_.path(), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }
  static EncodingKey KeyOf(const Synthetic& s) { return {"ns", s.manifest.identity, s.manifest.codec}; }
  void Store(int number, uint64_t generation = 1) {
    const Synthetic s = MakeSynthetic(number);
    EXPECT_TRUE(engine_->Put("ns", s.manifest, s.spans(), Patience()).ok());
    EXPECT_TRUE(engine_->PutEntry("ns", absl::StrCat("document ", number), EntryOf({&s}, generation)).ok());
  }

  ScratchDirectory scratch_{/*in_memory=*/true};
  CountingIo io_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(VerifyTest, WhatChangesMeanwhileIsNoProblem) {
  for (int i = 0; i < 40; ++i) Store(i);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(TestSeed() + t);
      for (uint64_t i = 2; !stop; ++i) {
        const int number = static_cast<int>(2 * (random() % 30)) + t;
        if (random() % 2 == 0) {
          Store(number, i);
        } else {
          CatalogEntry tombstone;
          tombstone.generation = i;
          tombstone.tombstone = true;
          EXPECT_TRUE(engine_->PutEntry("ns", absl::StrCat("document ", number), tombstone).ok());
        }
      }
    });
  }
  for (int i = 0; i < (Soak() ? 200 : 10); ++i) {
    const auto outcome = engine_->Verify({});
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_THAT(outcome->index_problems, IsEmpty());
    EXPECT_TRUE(outcome->damaged.empty());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(VerifyTest, NeitherStatisticsNorAVerificationWaitForAWriter) {
  for (int i = 0; i < 10; ++i) Store(i);
  io_.HoldSyncs(true);
  std::thread writer([&] { Store(3, /*generation=*/2); });
  EXPECT_TRUE(io_.AwaitHeldSync(Patience()));
  const auto looked = std::async(std::launch::async, [&] {
    EXPECT_EQ(engine_->Stats().documents.at("ns"), 10);
    EXPECT_TRUE(engine_->Verify({}).ok());
  });
  EXPECT_EQ(looked.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  io_.HoldSyncs(false);
  writer.join();
}

TEST_F(VerifyTest, AWriterDoesNotWaitForAVerification) {
  for (int i = 0; i < 3; ++i) Store(i);
  std::vector<std::future<void>> writers;  // ended after the verification, which a failure would leave waiting
  const auto outcome = engine_->Verify([&](int64_t, int64_t) {
    const int number = 10 + static_cast<int>(writers.size());
    if (number == 13) return false;
    writers.push_back(std::async(std::launch::async, [this, number] { Store(number); }));
    EXPECT_EQ(writers.back().wait_for(std::chrono::seconds(60)), std::future_status::ready);
    return !HasFailure();
  });
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_GE(writers.size(), 3u);
}

TEST_F(VerifyTest, DamageIsNamedByDocuments) {
  for (int i = 0; i < 6; ++i) Store(i);
  const Synthetic s = MakeSynthetic(3);
  ASSERT_TRUE(engine_->PutEntry("ns", "another", EntryOf({&s}, 1)).ok());
  ASSERT_EQ(FlipOnDisk(scratch_.path(), s), 1);
  const auto outcome = engine_->Verify({});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->damaged.size(), 1u);
  EXPECT_THAT(outcome->damaged[0].documents, ElementsAre("another", "document 3"));
  // Whoever asks later finds it among what was dropped lately.
  const Engine::Statistics stats = engine_->Stats();
  ASSERT_EQ(stats.recent_damage.size(), 1u);
  EXPECT_THAT(stats.recent_damage[0].documents, ElementsAre("another", "document 3"));
  EXPECT_EQ(stats.dropped_damaged, 1);
}

TEST_F(VerifyTest, ManifestsAreReadFromTheSegmentsAndChecked) {
  for (int i = 0; i < 6; ++i) Store(i);
  const auto manifests = engine_->ListManifests("ns", Identity(), 100);
  ASSERT_TRUE(manifests.ok()) << manifests.status();
  std::set<std::string> listed, stored;
  for (const Manifest& manifest : *manifests) listed.insert(SerializeManifest(manifest));
  for (int i = 0; i < 6; ++i) stored.insert(SerializeManifest(MakeSynthetic(i).manifest));
  EXPECT_EQ(listed, stored);
  ASSERT_EQ(FlipManifestOnDisk(scratch_.path(), MakeSynthetic(3)), 1);
  const auto outcome = engine_->Verify({});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->damaged.size(), 1u);
  EXPECT_THAT(outcome->damaged[0].what, HasSubstr("manifest: checksum does not match"));
  EXPECT_THAT(outcome->damaged[0].documents, ElementsAre("document 3"));
  EXPECT_EQ(engine_->Stats().integrity_failures, 1);
  // The manifest of another encoding, whole, is not this one's.
  const Synthetic one = MakeSynthetic(1), two = MakeSynthetic(2);
  ASSERT_EQ(CopyInSegments(scratch_.path(), SerializeManifest(two.manifest), SerializeManifest(one.manifest)), 1);
  const auto again = engine_->Verify({});
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->damaged.size(), 1u);
  EXPECT_THAT(again->damaged[0].what, HasSubstr("manifest and location record do not agree"));
}

TEST_F(VerifyTest, SuspicionReadsAnEncodingOnceInAWhile) {
  Store(1);
  const Synthetic s = MakeSynthetic(1);
  EXPECT_EQ(engine_->Suspect(KeyOf(s)), absl::OkStatus());
  int64_t reads = io_.reads;
  EXPECT_GT(reads, 0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(engine_->Suspect(KeyOf(s)), absl::OkStatus());
  EXPECT_EQ(io_.reads, reads);
  // A failed check is not remembered as an answer, however often it is asked for.
  Store(2);
  io_.FailReads(true);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(absl::IsUnavailable(engine_->Suspect(KeyOf(MakeSynthetic(2))))) << i;
  }
  io_.FailReads(false);
  EXPECT_EQ(engine_->Suspect(KeyOf(MakeSynthetic(2))), absl::OkStatus());
  reads = io_.reads;
  EXPECT_EQ(engine_->Suspect(KeyOf(MakeSynthetic(2))), absl::OkStatus());
  EXPECT_EQ(io_.reads, reads) << "and now it is";
  // Another encoding under the same name is another matter.
  ASSERT_TRUE(engine_->Remove("ns", s.manifest.identity).ok());
  Store(1);
  EXPECT_EQ(engine_->Suspect(KeyOf(s)), absl::OkStatus());
  EXPECT_GT(io_.reads, reads);
}

TEST_F(VerifyTest, PrefetchTakesNothingFromWhatIsThere) {
  // 16 KiB each, 256 in the tier.
  for (int i = 0; i < 300; ++i) Store(i);
  engine_->DropDramTier();
  for (int i = 0; i < 256; ++i) EXPECT_EQ(engine_->Prefetch(KeyOf(MakeSynthetic(i)), Patience()), absl::OkStatus());
  const int64_t evicted = engine_->Stats().dram_evictions;
  EXPECT_TRUE(absl::IsResourceExhausted(engine_->Prefetch(KeyOf(MakeSynthetic(299)), Patience())));
  EXPECT_EQ(engine_->Stats().dram_evictions, evicted);
}

TEST(MemoryTest, TooLittleAndTooMuchAreRefused) {
  ScratchDirectory scratch(/*in_memory=*/true);
  EngineOptions options;
  for (const int64_t bytes : {int64_t{0}, int64_t{-1}, int64_t{100} << 40}) {
    options.dram_bytes = bytes;
    const auto opened = Engine::Open(scratch.path(), options);
    EXPECT_TRUE(absl::IsInvalidArgument(opened.status())) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(absl::StrCat("a DRAM tier of ", bytes, " bytes")));
  }
}

}  // namespace
}  // namespace kvlink::engine
