// The scrubber in the background.
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::FlipManifestOnDisk;
using ::kvlink::testing::FlipOnDisk;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;

using kvlink::testing::Eventually;
using kvlink::testing::Patience;

std::unique_ptr<Engine> OpenScrubbed(const std::string& path, int64_t scrub_bytes_per_second, bool uring = true,
                                     absl::Duration round = absl::Milliseconds(1)) {
  EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 8 << 20;
  options.scrub_bytes_per_second = scrub_bytes_per_second;
  options.scrub_round = round;
  options.allow_uring = uring;
  auto opened = Engine::Open(path, options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

EncodingKey KeyIn(absl::string_view ns, const Synthetic& s) {
  return {std::string(ns), s.manifest.identity, s.manifest.codec};
}

// Layers of different lengths, so that buffers are reused by others.
Synthetic Encoding(int number) { return MakeSynthetic(number, 1 + number % 9, 30 + number * 37 % 700); }

TEST(ScrubTest, GoesRoundAndFindsDamageWhileNobodyReads) {
  for (const bool uring : {true, false}) {
    ScratchDirectory scratch(/*in_memory=*/true);
    auto engine = OpenScrubbed(scratch.path(), int64_t{1} << 30, uring);
    int64_t bytes = 0;
    for (int i = 0; i < 20; ++i) {
      const Synthetic s = Encoding(i);
      ASSERT_TRUE(engine->Put(i % 2 == 0 ? "even" : "odd", s.manifest, s.spans(), Patience()).ok());
      bytes += s.bytes();
    }
    // The first may have begun before all was there.
    const int64_t rounds = engine->Stats().scrub_rounds;
    ASSERT_TRUE(Eventually([&] { return engine->Stats().scrub_rounds >= rounds + 2; }));
    Engine::Statistics stats = engine->Stats();
    EXPECT_GE(stats.scrubbed_bytes, bytes);
    EXPECT_GE(stats.scrubbed_encodings, 20);
    EXPECT_EQ(stats.scrub_damaged, 0);
    EXPECT_EQ(stats.integrity_failures, 0);
    for (const int damaged : {3, 12}) ASSERT_EQ(FlipOnDisk(scratch.path(), Encoding(damaged)), 1);
    ASSERT_EQ(FlipManifestOnDisk(scratch.path(), Encoding(15)), 1);
    ASSERT_TRUE(Eventually([&] { return engine->Stats().scrub_damaged == 3; }));
    for (int i = 0; i < 20; ++i) {
      const bool there = engine->Find(KeyIn(i % 2 == 0 ? "even" : "odd", Encoding(i))).has_value();
      EXPECT_EQ(there, i != 3 && i != 12 && i != 15) << i;
    }
    stats = engine->Stats();
    EXPECT_EQ(stats.integrity_failures, 3);
    EXPECT_EQ(stats.dropped_damaged, 3);
    EXPECT_EQ(stats.hits_segments + stats.hits_dram, 0) << "scrubbing is no use";
  }
}

TEST(ScrubTest, KeepsToItsLimitAndClosesAtOnce) {
  ScratchDirectory scratch(/*in_memory=*/true);
  const int64_t encoding = MakeSynthetic(1, 8, 300).bytes();
  {
    auto engine = OpenScrubbed(scratch.path(), 0);
    for (int i = 0; i < 20; ++i) {
      const Synthetic s = MakeSynthetic(i, 8, 300);
      ASSERT_TRUE(engine->Put("ns", s.manifest, s.spans(), Patience()).ok());
    }
    EXPECT_EQ(engine->Stats().scrub_rounds, 0);
  }
  constexpr int64_t kLimit = 512 << 10;
  const absl::Time start = SteadyNow();
  auto engine = OpenScrubbed(scratch.path(), kLimit);
  ASSERT_TRUE(Eventually([&] { return engine->Stats().scrubbed_bytes > 3 * encoding; }));
  // The limit for this time, and the layers that may be ahead of it.
  const int64_t scrubbed = engine->Stats().scrubbed_bytes;
  EXPECT_LE(scrubbed, absl::ToDoubleSeconds(SteadyNow() - start) * kLimit + static_cast<double>(encoding));
  engine.reset();
  engine = OpenScrubbed(scratch.path(), 1);
  engine.reset();  // however far the next byte is away
}

TEST(ScrubTest, DoesNotBeginAgainBeforeItsTime) {
  ScratchDirectory scratch(/*in_memory=*/true);
  auto engine = OpenScrubbed(scratch.path(), 0);
  const Synthetic s = MakeSynthetic(1);
  ASSERT_TRUE(engine->Put("ns", s.manifest, s.spans(), Patience()).ok());
  engine.reset();
  engine = OpenScrubbed(scratch.path(), int64_t{1} << 30, /*uring=*/true, absl::Hours(24));
  ASSERT_TRUE(Eventually([&] { return engine->Stats().scrub_rounds == 1; }));
  absl::SleepFor(absl::Seconds(3));  // in which it used to go round three times more
  EXPECT_EQ(engine->Stats().scrub_rounds, 1);
  EXPECT_EQ(engine->Stats().scrubbed_encodings, 1);
}

TEST(ScrubTest, SurvivesWhatHappensMeanwhile) {
  ScratchDirectory scratch(/*in_memory=*/true);
  auto engine = OpenScrubbed(scratch.path(), int64_t{1} << 40);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(TestSeed() + t);
      for (int i = 0; i < 400; ++i) {
        const Synthetic s = Encoding(static_cast<int>(random() % 40));
        if (random() % 3 == 0) {
          EXPECT_TRUE(engine->Remove("ns", s.manifest.identity).ok());
        } else {
          EXPECT_TRUE(engine->Put("ns", s.manifest, s.spans(), Patience()).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int64_t rounds = engine->Stats().scrub_rounds;
  ASSERT_TRUE(Eventually([&] { return engine->Stats().scrub_rounds >= rounds + 2; }));
  EXPECT_EQ(engine->Stats().scrub_damaged, 0);
  EXPECT_EQ(engine->Stats().integrity_failures, 0);
}

}  // namespace
}  // namespace kvlink::engine
