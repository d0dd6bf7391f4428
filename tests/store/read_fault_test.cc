// Reads that fail, by seed: once, for good on one block, for want of memory. What fails once is healed where it fails;
// what is gone is dropped, and nothing else is; a read never keeps an encoding from the next one.
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "store/engine/disk/io_observer.h"
#include "store/engine/engine.h"
#include "tests/store/push.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;

constexpr int kEncodings = 24;
using kvlink::testing::Patience;

// Fails reads of segments.
class FailingReads : public IoObserver {
 public:
  absl::StatusOr<uint64_t> WriteStarted(const std::string&, int64_t, absl::Span<const std::byte>) override { return 0; }
  absl::StatusOr<uint64_t> SyncStarted(const std::string&) override { return 0; }
  absl::Status ReadStarted(const std::string& path, int64_t offset, int64_t length) override {
    if (path.find("segments") == std::string::npos) return absl::OkStatus();
    MutexLock lock(&mutex_);
    if (bad_block_ >= 0 && path == bad_file_ && offset <= bad_block_ && bad_block_ < offset + length) return error_;
    if (one_block_ && bad_block_ < 0) {
      bad_file_ = path;
      bad_block_ = offset;
      return error_;
    }
    if (share_ > 0 && random_() % 100 < share_ && failed_.insert({path, offset}).second) {
      ++failures_;
      return error_;
    }
    return always_ ? error_ : absl::OkStatus();
  }
  void WriteEnded(uint64_t) override {}
  void SyncEnded(uint64_t) override {}
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string&) override {}
  void DirectoryCreated(const std::string&) override {}

  // `share` percent of the places fail, each once.
  void FailOnce(absl::Status error, uint64_t share, uint64_t seed) {
    MutexLock lock(&mutex_);
    error_ = std::move(error);
    share_ = share;
    random_.seed(seed);
  }
  // The place that is read next fails from then on.
  void FailOneBlock(absl::Status error) {
    MutexLock lock(&mutex_);
    error_ = std::move(error);
    one_block_ = true;
  }
  void FailAlways(absl::Status error) {
    MutexLock lock(&mutex_);
    always_ = !error.ok();
    error_ = std::move(error);
  }
  void Forgive() {
    MutexLock lock(&mutex_);
    one_block_ = false;
    bad_block_ = -1;
  }
  int failures() const {
    MutexLock lock(&mutex_);
    return failures_;
  }

 private:
  mutable Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  bool always_ ABSL_GUARDED_BY(mutex_) = false, one_block_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t share_ ABSL_GUARDED_BY(mutex_) = 0;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<std::string, int64_t>> failed_ ABSL_GUARDED_BY(mutex_);
  std::string bad_file_ ABSL_GUARDED_BY(mutex_);
  int64_t bad_block_ ABSL_GUARDED_BY(mutex_) = -1;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::Status Eio() { return absl::DataLossError("read: Input/output error (injected)"); }
absl::Status Enomem() { return absl::ResourceExhaustedError("read: Cannot allocate memory (injected)"); }
absl::Status Ecanceled() { return absl::CancelledError("read: Operation canceled (injected)"); }

Synthetic Encoding(int number) { return MakeSynthetic(number, 1 + number % 5, 40 + number * 53 % 900); }

class ReadFaultTest : public ::testing::Test {
 protected:
  void Open(bool uring, int64_t scrub = 0, absl::Duration wait_for_room = EngineOptions().wait_for_room) {
    engine_.reset();
    EngineOptions options;
    options.wait_for_room = wait_for_room;
    options.dram_bytes = 2 << 20;
    options.segment_bytes = 1 << 20;
    options.capacity_bytes = 16 << 20;
    options.allow_uring = uring;
    options.observer = &reads_;
    options.scrub_bytes_per_second = scrub;
    options.scrub_round = absl::Milliseconds(1);
    options.damage_found = [this](const DamagedEncoding& damage) {
      MutexLock lock(&mutex_);
      told_.push_back(damage);
    };
    auto opened = Engine::Open(scratch_->path(), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }
  void Fill() {
    for (int i = 0; i < kEncodings; ++i) {
      const Synthetic s = Encoding(i);
      ASSERT_TRUE(engine_->Put("ns", s.manifest, s.spans(), Patience()).ok());
      ASSERT_TRUE(engine_->PutEntry("ns", absl::StrCat("document ", i), EntryOf({&s}, 1)).ok());
    }
    engine_->DropDramTier();
  }
  static EncodingKey KeyOf(const Synthetic& s) { return {"ns", s.manifest.identity, s.manifest.codec}; }
  absl::Status Compare(const Synthetic& s) {
    auto lease = engine_->Read(KeyOf(s), s.manifest.etag, Patience());
    if (!lease.ok()) return lease.status();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      const absl::Status arrived = (*lease)->WaitLayer(static_cast<int64_t>(layer), Patience());
      if (!arrived.ok()) return arrived;
      if ((*lease)->layer(layer) != absl::MakeConstSpan(s.slabs[layer])) return absl::InternalError("WRONG BYTES");
    }
    return absl::OkStatus();
  }
  // Reads all at random in several threads. How often each failed.
  std::map<int, int> ReadAtRandom(uint64_t seed) {
    std::map<int, int> failed;
    Mutex mutex;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(seed * 7 + t);
        for (int i = 0; i < 60; ++i) {
          const int number = static_cast<int>(random() % kEncodings);
          absl::Status status = Compare(Encoding(number));
          // On a machine that is busy the bound of the wait for room may pass.
          for (const absl::Time limit = Patience(); absl::IsResourceExhausted(status) && SteadyNow() < limit;) {
            status = Compare(Encoding(number));
          }
          EXPECT_FALSE(absl::IsInternal(status)) << status;
          if (random() % 16 == 0) engine_->DropDramTier();
          MutexLock lock(&mutex);
          if (!status.ok()) ++failed[number];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return failed;
  }

  std::unique_ptr<ScratchDirectory> scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
  FailingReads reads_;
  Mutex mutex_;
  std::vector<DamagedEncoding> told_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Engine> engine_;
};

TEST_F(ReadFaultTest, WhatFailsOnceIsHealed) {
  for (int i = 0; i < FaultSeeds(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(seed);
    for (const absl::Status& error : {Eio(), Enomem(), Ecanceled()}) {
      reads_.FailOnce(absl::OkStatus(), 0, 0);
      scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
      Open(seed % 2 == 0);
      Fill();
      const int before = reads_.failures();
      reads_.FailOnce(error, 40, seed);
      EXPECT_TRUE(ReadAtRandom(seed).empty());
      for (int number = 0; number < kEncodings; ++number) {
        // Also for those who read past the tier.
        EXPECT_EQ(engine_->Suspect(KeyOf(Encoding(number))), absl::OkStatus());
      }
      EXPECT_GT(reads_.failures(), before);
      const Engine::Statistics stats = engine_->Stats();
      EXPECT_GT(stats.reads_repeated, 0);
      EXPECT_EQ(stats.dropped_damaged, 0);
      EXPECT_EQ(stats.integrity_failures, 0);
      engine_.reset();
    }
  }
}

TEST_F(ReadFaultTest, OfABlockThatCannotBeReadOneEncodingIsDropped) {
  for (int i = 0; i < FaultSeeds(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(seed);
    scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
    Open(seed % 2 == 0);
    Fill();
    const int lost = static_cast<int>(seed % kEncodings);
    const Synthetic s = Encoding(lost);
    reads_.FailOneBlock(Eio());
    const absl::Status status = Compare(s);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    // Whoever was told of damage finds it gone.
    EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
    for (const auto& [number, times] : ReadAtRandom(seed)) EXPECT_EQ(number, lost);
    for (int number = 0; number < kEncodings; ++number) {
      EXPECT_EQ(engine_->Find(KeyOf(Encoding(number))).has_value(), number != lost) << number;
    }
    const Engine::Statistics stats = engine_->Stats();
    EXPECT_EQ(stats.dropped_damaged, 1);
    EXPECT_EQ(stats.integrity_failures, 1);
    ASSERT_EQ(stats.recent_damage.size(), 1u);
    EXPECT_EQ(stats.recent_damage[0].key.identity, s.manifest.identity);
    EXPECT_EQ(stats.recent_damage[0].documents, std::vector<std::string>{absl::StrCat("document ", lost)});
    {
      MutexLock lock(&mutex_);
      EXPECT_EQ(told_.size(), static_cast<size_t>(i + 1));
    }
    // It can come again, by a push as by a put.
    auto push = kvlink::testing::FillPush(engine_.get(), KeyOf(s), s);
    ASSERT_TRUE(push.ok()) << push.status();
    const auto stored = kvlink::testing::CommitFilledPush(engine_.get(), *std::move(push), s.manifest);
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_TRUE(stored->written);
    EXPECT_EQ(Compare(s), absl::OkStatus());
    engine_.reset();
    reads_.Forgive();
  }
}

// A manifest lies before its slabs, and is checked as they are.
TEST_F(ReadFaultTest, ADamagedManifestIsDamageOfItsEncoding) {
  for (const bool uring : {true, false}) {
    scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
    Open(uring);
    Fill();
    {
      MutexLock lock(&mutex_);
      told_.clear();
    }
    const Synthetic s = Encoding(7);
    ASSERT_EQ(kvlink::testing::FlipManifestOnDisk(scratch_->path(), s), 1);
    // All who want it at once are told.
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        const absl::Status status = Compare(s);
        EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsNotFound(status)) << status;
        EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
      });
    }
    for (std::thread& thread : threads) thread.join();
    const Engine::Statistics stats = engine_->Stats();
    EXPECT_EQ(stats.dropped_damaged, 1);
    EXPECT_GE(stats.integrity_failures, 1);
    {
      MutexLock lock(&mutex_);
      ASSERT_EQ(told_.size(), 1u);
      EXPECT_EQ(told_[0].documents, std::vector<std::string>{"document 7"});
      EXPECT_NE(told_[0].what.find("manifest"), std::string::npos) << told_[0].what;
    }
    for (int number = 0; number < kEncodings; ++number) {
      if (number == 7) continue;
      EXPECT_EQ(Compare(Encoding(number)), absl::OkStatus()) << number;
    }
    ASSERT_TRUE(engine_->Put("ns", s.manifest, s.spans(), Patience()).ok());
    engine_->DropDramTier();
    EXPECT_EQ(Compare(s), absl::OkStatus());
    // One that only Suspect, or a list, comes upon.
    const Synthetic suspected = Encoding(8), listed = Encoding(9);
    ASSERT_EQ(kvlink::testing::FlipManifestOnDisk(scratch_->path(), suspected), 1);
    EXPECT_TRUE(absl::IsDataLoss(engine_->Suspect(KeyOf(suspected))));
    EXPECT_FALSE(engine_->Find(KeyOf(suspected)).has_value());
    ASSERT_EQ(kvlink::testing::FlipManifestOnDisk(scratch_->path(), listed), 1);
    const auto manifests = engine_->ListManifests("ns", Identity(), 100);
    ASSERT_TRUE(manifests.ok()) << manifests.status();
    EXPECT_EQ(manifests->size(), static_cast<size_t>(kEncodings - 2));
    for (const absl::Time limit = Patience(); engine_->Find(KeyOf(listed)).has_value() && SteadyNow() < limit;) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(engine_->Stats().dropped_damaged, 3);
    engine_.reset();
  }
}

TEST_F(ReadFaultTest, WhatIsResidentNeedsNoDisk) {
  Open(/*uring=*/true);
  Fill();
  const Synthetic s = Encoding(7);
  EXPECT_EQ(Compare(s), absl::OkStatus());
  reads_.FailAlways(Eio());
  EXPECT_EQ(Compare(s), absl::OkStatus());
  reads_.FailAlways(absl::OkStatus());
}

TEST_F(ReadFaultTest, WantOfMemoryIsNotDamageAndPasses) {
  for (const bool uring : {true, false}) {
    scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
    Open(uring);
    Fill();
    const Synthetic s = Encoding(7);
    for (const absl::Status& error : {Enomem(), Ecanceled()}) {
      reads_.FailAlways(error);
      EXPECT_TRUE(absl::IsUnavailable(Compare(s)));
      EXPECT_TRUE(absl::IsUnavailable(engine_->Suspect(KeyOf(s)))) << "read back";
      EXPECT_TRUE(absl::IsUnavailable(engine_->Verify({}).status()));
      reads_.FailAlways(absl::OkStatus());
      EXPECT_EQ(Compare(s), absl::OkStatus()) << "the stay that failed is kept";
      engine_->DropDramTier();
    }
    EXPECT_EQ(engine_->Stats().dropped_damaged, 0);
    EXPECT_EQ(engine_->Stats().integrity_failures, 0);
    engine_.reset();
  }
}

TEST_F(ReadFaultTest, TheScrubberTakesNoFailedReadForDamage) {
  Open(/*uring=*/true, int64_t{1} << 30);
  Fill();
  for (const absl::Status& error : {Eio(), Ecanceled()}) {
    const int before = reads_.failures();
    reads_.FailOnce(error, 50, TestSeed());
    const int64_t rounds = engine_->Stats().scrub_rounds;
    const absl::Time deadline = Patience();
    while (engine_->Stats().scrub_rounds < rounds + 3 && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_GE(engine_->Stats().scrub_rounds, rounds + 3) << "it goes on";
    EXPECT_GT(reads_.failures() + before, 0);
    EXPECT_EQ(engine_->Stats().dropped_damaged, 0);
  }
}

// The checker and the scrubber are one thread: whoever waits for a check does not wait for the round.
TEST_F(ReadFaultTest, WhoWaitsForACheckDoesNotWaitForTheScrubber) {
  Open(/*uring=*/true, int64_t{1} << 40);  // round after round, faster than any disk
  Fill();
  const absl::Time began = SteadyNow();
  for (int number = 0; number < 8; ++number) {
    const Synthetic s = Encoding(number);
    ASSERT_EQ(kvlink::testing::FlipOnDisk(scratch_->path(), s), 1);
    // The scrubber may have been there before.
    const absl::Status read = Compare(s);
    EXPECT_TRUE(absl::IsDataLoss(read) || absl::IsNotFound(read)) << read;
    EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
  }
  EXPECT_LT(SteadyNow() - began, absl::Seconds(40)) << "one wait for a check that never came took 60";
  EXPECT_EQ(engine_->Stats().dropped_damaged, 8);
}

// A prefetch takes nothing from others; a read that finds it looking for room may.
TEST_F(ReadFaultTest, AReadDoesNotInheritAPrefetchsRefusal) {
  Open(/*uring=*/true);
  Fill();
  for (int i = 0; i < 10; ++i) {
    engine_->DropDramTier();
    // The tier is full, and a push that is open keeps the prefetch waiting: its memory may come back.
    for (int number = 0; number < kEncodings; ++number) EXPECT_EQ(Compare(Encoding(number)), absl::OkStatus());
    const EncodingKey key{"ns", Encoding(100).manifest.identity, Codec::kRawBf16};
    const auto push = engine_->BeginPush(key, {256 << 10});
    ASSERT_TRUE(push.ok()) << push.status();
    int absent = -1;
    for (int number = 0; number < kEncodings; ++number) {
      if (!engine_->Find(KeyOf(Encoding(number)))->resident) absent = number;
    }
    ASSERT_GE(absent, 0) << "all fit";
    std::thread prefetch([&] { engine_->Prefetch(KeyOf(Encoding(absent)), Patience()).IgnoreError(); });
    const absl::Time limit = SteadyNow() + absl::Milliseconds(100);
    while (engine_->Stats().loads_in_flight == 0 && SteadyNow() < limit) absl::SleepFor(absl::Microseconds(100));
    EXPECT_EQ(Compare(Encoding(absent)), absl::OkStatus());
    prefetch.join();
  }
}

// Two that want the same encoding load it once, and no lock of one is in the way of another's.
TEST_F(ReadFaultTest, AReadThatWaitsForRoomHoldsUpNobodyAndNotForLong) {
  Open(/*uring=*/true);
  Fill();
  // All of the tier is a push's, which may end at any time: memory that may come back.
  const auto push = engine_->BeginPush({"ns", Encoding(100).manifest.identity, Codec::kRawBf16}, {2 << 20});
  ASSERT_TRUE(push.ok()) << push.status();
  const absl::Time began = SteadyNow();
  std::vector<std::thread> threads;
  for (int i = 0; i < 32; ++i) {
    threads.emplace_back([&, i] { EXPECT_TRUE(absl::IsResourceExhausted(Compare(Encoding(i % kEncodings)))); });
  }
  for (std::thread& thread : threads) thread.join();
  // Of those that share a stripe of locks each used to wait for the one before, until its deadline of a minute.
  EXPECT_LT(SteadyNow() - began, absl::Seconds(20));
}

// With nothing but the reader's patience to end the wait, the memory does.
TEST_F(ReadFaultTest, MemoryThatComesBackEndsTheWait) {
  Open(/*uring=*/true, /*scrub=*/0, absl::InfiniteDuration());
  Fill();
  for (int i = 0; i < 20; ++i) {
    // The last read's requests may hold its memory for a moment longer than its lease does.
    const EncodingKey key{"ns", Encoding(100).manifest.identity, Codec::kRawBf16};
    auto push = engine_->BeginPush(key, {2 << 20});
    for (const absl::Time limit = Patience(); !push.ok() && SteadyNow() < limit;)
      push = engine_->BeginPush(key, {2 << 20});
    ASSERT_TRUE(push.ok()) << push.status();
    absl::Status status;
    std::thread reader([&] { status = Compare(Encoding(i)); });
    absl::SleepFor(absl::Milliseconds(i));
    push->reset();
    reader.join();
    ASSERT_EQ(status, absl::OkStatus()) << "memory that came back after " << i << " ms";
    engine_->DropDramTier();
  }
}

}  // namespace
}  // namespace kvlink::engine
