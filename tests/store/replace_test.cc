// Repair: of two encodings of one name the one with the greater etag stays, in whatever order, by whatever way and
// however often they come; a crash leaves one of them.
#include <algorithm>
#include <random>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/push.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/recording_io.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::CommitFilledPush;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::FillPush;
using ::kvlink::testing::KeyOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::RecordingIo;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::IsEmpty;

using kvlink::testing::Patience;

// `count` encodings of one name that differ in bits, in the order of their etags.
std::vector<Synthetic> Variants(int number, int count) {
  std::vector<Synthetic> variants;
  for (int i = 0; i < count; ++i) {
    Synthetic s = MakeSynthetic(number);
    s.slabs[0][5] ^= static_cast<std::byte>(i);
    EXPECT_TRUE(s.manifest.ChecksumLayer(0, s.slabs[0]).ok());
    s.manifest.Seal();
    variants.push_back(std::move(s));
  }
  std::sort(variants.begin(), variants.end(),
            [](const Synthetic& a, const Synthetic& b) { return a.manifest.etag.bytes < b.manifest.etag.bytes; });
  return variants;
}

std::unique_ptr<Engine> MustOpen(const std::string& path, IoObserver* observer = nullptr) {
  EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 4 << 20;
  options.observer = observer;
  auto opened = Engine::Open(path, options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

absl::StatusOr<Engine::PutOutcome> Put(Engine* engine, const Synthetic& s, PutMode mode) {
  return engine->Put("ns", s.manifest, s.spans(), Patience(), mode);
}

absl::StatusOr<Engine::PutOutcome> Push(Engine* engine, const Synthetic& s, PutMode mode) {
  auto push = FillPush(engine, KeyOf(s), s, mode);
  if (!push.ok()) return push.status();
  return CommitFilledPush(engine, *std::move(push), s.manifest);
}

absl::Status CompareLease(EncodingLease* lease, const Synthetic& s) {
  for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
    const absl::Status arrived = lease->WaitLayer(static_cast<int64_t>(layer), Patience());
    if (!arrived.ok()) return arrived;
    if (lease->layer(layer) != absl::MakeConstSpan(s.slabs[layer])) return absl::InternalError("WRONG BYTES");
  }
  return absl::OkStatus();
}

absl::Status Compare(Engine* engine, const Synthetic& s) {
  auto lease = engine->Read(KeyOf(s), s.manifest.etag, Patience());
  return lease.ok() ? CompareLease(lease->get(), s) : lease.status();
}

TEST(ReplaceTest, OnlyAGreaterEtagTakesThePlace) {
  ScratchDirectory scratch(/*in_memory=*/true);
  const std::vector<Synthetic> of = Variants(1, 3);
  const auto stored = [&](Engine* engine) { return engine->Find(KeyOf(of[0]))->location.etag; };
  for (const auto& way : {Put, Push}) {
    auto engine = MustOpen(scratch.path());
    ASSERT_TRUE(way(engine.get(), of[1], PutMode::kKeepExisting)->written);
    // An ordinary put changes nothing, whatever its etag.
    auto outcome = way(engine.get(), of[2], PutMode::kKeepExisting);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_FALSE(outcome->written);
    EXPECT_EQ(outcome->etag, of[1].manifest.etag);
    for (const int weaker : {0, 1}) {
      outcome = way(engine.get(), of[weaker], PutMode::kReplaceSmallerEtag);
      ASSERT_TRUE(outcome.ok()) << outcome.status();
      EXPECT_FALSE(outcome->written);
      EXPECT_EQ(outcome->etag, of[1].manifest.etag);
    }
    EXPECT_EQ(Compare(engine.get(), of[1]), absl::OkStatus());
    outcome = way(engine.get(), of[2], PutMode::kReplaceSmallerEtag);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_TRUE(outcome->written);
    EXPECT_EQ(outcome->etag, of[2].manifest.etag);
    EXPECT_EQ(stored(engine.get()), of[2].manifest.etag);
    EXPECT_EQ(Compare(engine.get(), of[2]), absl::OkStatus());
    EXPECT_TRUE(absl::IsNotFound(Compare(engine.get(), of[1]))) << "another etag is a miss";
    const Engine::Statistics stats = engine->Stats();
    EXPECT_EQ(stats.replaced, 1);
    EXPECT_EQ(stats.segment_bytes_used, of[2].bytes());
    EXPECT_EQ(stats.namespaces[0].encodings, 1);
    engine.reset();
    engine = MustOpen(scratch.path());
    EXPECT_EQ(Compare(engine.get(), of[2]), absl::OkStatus());
    EXPECT_THAT(engine->Verify({})->index_problems, IsEmpty());
    ASSERT_TRUE(engine->Remove("ns", of[2].manifest.identity).ok());
    // Where nothing is there, a repair is a put.
    ASSERT_TRUE(way(engine.get(), of[0], PutMode::kReplaceSmallerEtag)->written);
    ASSERT_TRUE(engine->Remove("ns", of[0].manifest.identity).ok());
  }
}

TEST(ReplaceTest, WhoReadsTheOneBeforeKeepsItAndItsBlocksComeFreeAfterwards) {
  ScratchDirectory scratch(/*in_memory=*/true);
  auto engine = MustOpen(scratch.path());
  const std::vector<Synthetic> of = Variants(1, 20);
  // More often than the store has blocks for, if one were lost each time.
  for (int round = 0; round < 8; ++round) {
    std::unique_ptr<EncodingLease> lease;
    for (size_t i = 0; i < of.size(); ++i) {
      ASSERT_TRUE(Put(engine.get(), of[i], PutMode::kReplaceSmallerEtag)->written);
      if (lease != nullptr) {
        EXPECT_EQ(CompareLease(lease.get(), of[i - 1]), absl::OkStatus());
      }
      if (i % 2 == 0) engine->DropDramTier();
      auto read = engine->Read(KeyOf(of[i]), of[i].manifest.etag, Patience());
      ASSERT_TRUE(read.ok()) << read.status();
      lease = *std::move(read);
    }
    lease = nullptr;
    ASSERT_TRUE(engine->Remove("ns", of[0].manifest.identity).ok());
  }
  EXPECT_EQ(engine->Stats().segment_bytes_used, 0);
  EXPECT_EQ(engine->Stats().evictions, 0);
  EXPECT_EQ(engine->Stats().dram_bytes_used, 0) << "nothing of those before stays";
  EXPECT_EQ(engine->Stats().segment_bytes, 1 << 20) << "one segment was enough";
}

TEST(ReplaceTest, APinEndsWithTheEncodingItIsOf) {
  ScratchDirectory scratch(/*in_memory=*/true);
  auto engine = MustOpen(scratch.path());
  const std::vector<Synthetic> of = Variants(1, 2);
  ASSERT_TRUE(Put(engine.get(), of[0], PutMode::kKeepExisting)->written);
  const auto pin = engine->Pin(KeyOf(of[0]));
  ASSERT_TRUE(pin.ok());
  ASSERT_TRUE(Put(engine.get(), of[1], PutMode::kReplaceSmallerEtag)->written);
  EXPECT_EQ(engine->Stats().pinned_encodings, 0);
  EXPECT_EQ(engine->Stats().pinned_bytes, 0);
  EXPECT_TRUE(absl::IsNotFound(engine->Unpin(KeyOf(of[0]), *pin)));
}

// Replicas that get the same encodings in any order end with the same.
TEST(ReplaceTest, RacingRepairsEndWithTheGreatest) {
  for (int i = 0; i < FaultSeeds(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
    ScratchDirectory scratch(/*in_memory=*/true);
    auto engine = MustOpen(scratch.path());
    constexpr int kNames = 5, kVariants = 6;
    std::vector<std::vector<Synthetic>> names;
    for (int name = 0; name < kNames; ++name) names.push_back(Variants(name, kVariants));
    std::vector<std::thread> threads;
    for (int t = 0; t < kVariants; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(seed * 100 + t);
        for (int n = 0; n < kNames; ++n) {
          // The threads meet at the same names with different variants.
          const Synthetic& s = names[n][(t + n) % kVariants];
          const auto outcome = (random() % 2 == 0 ? Put : Push)(engine.get(), s, PutMode::kReplaceSmallerEtag);
          EXPECT_TRUE(outcome.ok()) << outcome.status();
          if (outcome.ok()) {
            EXPECT_TRUE(outcome->etag.bytes >= s.manifest.etag.bytes);
          }
          // A reader gets one of them, whole, or misses.
          const auto found = engine->Find(KeyOf(s));
          ASSERT_TRUE(found.has_value()) << "there was a moment without any";
          for (const Synthetic& one : names[n]) {
            if (one.manifest.etag != found->location.etag) continue;
            const absl::Status read = Compare(engine.get(), one);
            EXPECT_TRUE(read.ok() || absl::IsNotFound(read)) << read;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int life = 0; life < 2; ++life) {
      for (int n = 0; n < kNames; ++n) EXPECT_EQ(Compare(engine.get(), names[n].back()), absl::OkStatus()) << n;
      EXPECT_EQ(engine->Stats().double_claims, 0);
      EXPECT_THAT(engine->Verify({})->index_problems, IsEmpty());
      engine.reset();
      engine = MustOpen(scratch.path());
    }
  }
}

TEST(ReplaceTest, ALossOfPowerLeavesOneOfTheTwo) {
  for (int i = 0; i < FaultSeeds(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
    ScratchDirectory scratch(/*in_memory=*/true);
    RecordingIo recording(scratch.path());
    const std::vector<Synthetic> of = Variants(1, 8);
    std::vector<int64_t> promised;  // moments
    {
      auto engine = MustOpen(scratch.path() + "/store", &recording);
      for (size_t v = 0; v < of.size(); ++v) {
        const auto way = (seed + v) % 2 == 0 ? Put : Push;
        ASSERT_TRUE(way(engine.get(), of[v], PutMode::kReplaceSmallerEtag)->written);
        promised.push_back(recording.Now());
      }
    }
    std::mt19937_64 random(seed);
    for (int state = 0; state < 12; ++state) {
      const auto moment = static_cast<int64_t>(random() % static_cast<uint64_t>(recording.Now() + 1));
      ScratchDirectory rebuilt(/*in_memory=*/true);
      recording.Rebuild(moment, seed * 1000 + state, rebuilt.path());
      auto engine = MustOpen(rebuilt.path() + "/store");
      ASSERT_NE(engine, nullptr) << "moment " << moment;
      const int64_t last = std::upper_bound(promised.begin(), promised.end(), moment) - promised.begin() - 1;
      const auto found = engine->Find(KeyOf(of[0]));
      ASSERT_EQ(found.has_value() || last < 0, true) << "moment " << moment;
      if (!found.has_value()) continue;
      int64_t which = -1;
      for (size_t v = 0; v < of.size(); ++v) {
        if (of[v].manifest.etag == found->location.etag) which = static_cast<int64_t>(v);
      }
      // What was promised last, or the one that was on its way.
      EXPECT_TRUE(which == last || which == last + 1) << which << " at moment " << moment << ", promised " << last;
      ASSERT_GE(which, 0);
      EXPECT_EQ(Compare(engine.get(), of[which]), absl::OkStatus()) << "moment " << moment;
      const auto verified = engine->Verify({});
      EXPECT_TRUE(verified->damaged.empty());
      EXPECT_THAT(verified->index_problems, IsEmpty());
      // And it goes on from there.
      ASSERT_TRUE(Put(engine.get(), of.back(), PutMode::kReplaceSmallerEtag).ok());
      EXPECT_EQ(Compare(engine.get(), of.back()), absl::OkStatus());
    }
  }
}

}  // namespace
}  // namespace kvlink::engine
