// Limits of namespaces: who gives room to whom.
#include <bitset>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::HasSubstr;

constexpr int64_t kBlock = kSegmentBlockBytes;

using kvlink::testing::Eventually;
using kvlink::testing::Patience;

// 60 blocks in four segments; encodings of one block.
class QuotaTest : public ::testing::Test {
 protected:
  QuotaTest() : scratch_(/*in_memory=*/true) {
    options_.dram_bytes = 4 << 20;
    options_.segment_bytes = 1 << 20;
    options_.capacity_bytes = 4 << 20;
    Open();
  }
  void Open() {
    engine_.reset();
    auto opened = Engine::Open(scratch_.path(), options_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }
  void Limit(absl::string_view ns, int64_t blocks, int64_t pinned_blocks = 0) {
    ASSERT_EQ(engine_->PutNamespace(ns, {blocks * kBlock, pinned_blocks * kBlock, {}}).status(), absl::OkStatus());
  }
  static EncodingKey Key(absl::string_view ns, int number) {
    static std::map<int, Identity>& known = *new std::map<int, Identity>();
    static Mutex mutex;
    MutexLock lock(&mutex);
    const auto [it, is_new] = known.try_emplace(number);
    if (is_new) it->second = MakeSynthetic(number).manifest.identity;
    return {std::string(ns), it->second, Codec::kRawBf16};
  }
  absl::Status Put(absl::string_view ns, int number, int64_t tokens = 40) {
    const Synthetic s = MakeSynthetic(number, 2, tokens);
    return engine_->Put(ns, s.manifest, s.spans(), Patience()).status();
  }
  bool Present(absl::string_view ns, int number) { return engine_->Find(Key(ns, number)).has_value(); }
  int Count(absl::string_view ns, int first, int last) {
    int count = 0;
    for (int i = first; i < last; ++i) count += Present(ns, i);
    return count;
  }

  ScratchDirectory scratch_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(QuotaTest, AFullNamespaceEvictsItsOwnOnly) {
  Limit("a", 20);
  Limit("b", 40);
  // Both together stay below the watermark of the whole, 57 blocks.
  for (int i = 0; i < 36; ++i) ASSERT_EQ(Put("b", i), absl::OkStatus());
  for (int i = 1000; i < 1500; ++i) {
    ASSERT_EQ(Put("a", i), absl::OkStatus());
    ASSERT_LE(Count("a", 1000, i + 1), 20);
  }
  EXPECT_EQ(Count("b", 0, 36), 36) << "the other namespace's encodings are untouched";
  EXPECT_GE(Count("a", 1000, 1500), 16);
  const Engine::Statistics stats = engine_->Stats();
  EXPECT_GE(stats.evicted_quota, 480);
  EXPECT_EQ(stats.evicted_capacity, 0);
  EXPECT_EQ(stats.evictions, stats.evicted_quota);
}

TEST_F(QuotaTest, BothFullAtOnceAndPushedByManyThreads) {
  Limit("a", 30);
  Limit("b", 30);
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  std::atomic<bool> stop{false};
  // Encodings that b holds and uses must outlive anything that a does.
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(Put("b", i), absl::OkStatus());
    ASSERT_EQ(engine_->Touch(Key("b", i)), absl::OkStatus());
  }
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) failed += !Put("a", 1000 + t * 1000 + i).ok();
    });
  }
  std::thread watcher([&] {
    while (!stop) {
      for (int i = 0; i < 10; ++i) {
        if (!Present("b", i)) {
          ADD_FAILURE() << "b lost " << i << " to a";
          return;
        }
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  watcher.join();
  EXPECT_EQ(failed, 0);
}

TEST_F(QuotaTest, NothingOfItsOwnToEvictIsSaid) {
  Limit("a", 10, 10);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Put("b", i), absl::OkStatus());
  int pinned = 0;
  absl::Status status;
  for (int tries = 0; tries < 10000 && pinned < 20; ++tries) {
    status = Put("a", 100 + pinned);
    if (!status.ok()) break;
    pinned += engine_->Pin(Key("a", 100 + pinned)).ok();
  }
  EXPECT_EQ(pinned, 10);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("capacity of namespace 'a'"));
  EXPECT_EQ(Count("a", 100, 110), 10);
  EXPECT_EQ(Count("b", 0, 5), 5);
  EXPECT_EQ(Put("b", 5), absl::OkStatus()) << "the store has room for others";
  ASSERT_EQ(engine_->Unpin(Key("a", 103)), absl::OkStatus());
  EXPECT_EQ(Put("a", 200), absl::OkStatus());
  EXPECT_FALSE(Present("a", 103));
}

TEST_F(QuotaTest, WhatCannotFitEvictsNothing) {
  Limit("a", 2);
  ASSERT_EQ(Put("a", 1), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(Put("a", 2, 2000)));
  EXPECT_TRUE(Present("a", 1));
  ASSERT_EQ(Put("b", 1), absl::OkStatus());
  EXPECT_TRUE(absl::IsInvalidArgument(Put("b", 2, 20000)));
  EXPECT_TRUE(Present("b", 1));
}

TEST_F(QuotaTest, LimitsAreKeptAndApplyAtOnce) {
  for (int i = 0; i < 30; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_TRUE(engine_->NamespaceSettingsAll().empty());
  Limit("a", 10, 3);
  EXPECT_TRUE(Eventually([&] { return Count("a", 0, 30) <= 10; }));
  EXPECT_TRUE(absl::IsInvalidArgument(engine_->PutNamespace("a", {-1, 0, {}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(engine_->PutNamespace("", {1, 0, {}}).status()));
  Limit("c", 7);
  const std::map<std::string, NamespaceSettings> all = engine_->NamespaceSettingsAll();
  Open();
  EXPECT_EQ(engine_->NamespaceSettingsAll(), all);
  EXPECT_EQ(all.at("a"), (NamespaceSettings{10 * kBlock, 3 * kBlock, 1}));
  EXPECT_EQ(all.size(), 2u);
  for (int i = 100; i < 130; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_LE(Count("a", 0, 130), 10);
  int pinned = 0;
  for (int i = 0; i < 130; ++i) pinned += engine_->Pin(Key("a", i)).ok();
  EXPECT_EQ(pinned, 3);
  Limit("a", 0);
  for (int i = 200; i < 220; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_EQ(Count("a", 200, 220), 20);
}

TEST_F(QuotaTest, WhatIsRemovedUnderALeaseStillCounts) {
  Limit("a", 4, 4);
  std::vector<std::unique_ptr<EncodingLease>> leases;
  for (int tries = 0; tries < 10000 && leases.size() < 4; ++tries) {
    ASSERT_EQ(Put("a", 1), absl::OkStatus());
    auto lease = engine_->Read(Key("a", 1), MakeSynthetic(1).manifest.etag, Patience());
    if (!lease.ok()) continue;  // over the watermark it may be gone already
    leases.push_back(*std::move(lease));
    ASSERT_EQ(engine_->Remove("a", Key("a", 1).identity), absl::OkStatus());
  }
  ASSERT_EQ(leases.size(), 4u);
  EXPECT_TRUE(absl::IsResourceExhausted(Put("a", 9)));
  leases.pop_back();
  EXPECT_EQ(Put("a", 9), absl::OkStatus());
}

TEST_F(QuotaTest, TheWholeIsFullOfWhatIsOverItsShare) {
  // Limits may promise more than there is. `a` is over its share, `b` and what has no limit are not.
  Limit("a", 60);
  Limit("b", 30);
  for (int i = 0; i < 57; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  for (int i = 0; i < 15; ++i) ASSERT_EQ(Put("b", i), absl::OkStatus());
  EXPECT_EQ(Count("b", 0, 15), 15);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Put("free", i), absl::OkStatus());
  EXPECT_EQ(Count("b", 0, 15), 15);
  EXPECT_EQ(Count("free", 0, 3), 3);
  EXPECT_LE(Count("a", 0, 57), 42);
  EXPECT_GT(engine_->Stats().evicted_capacity, 0);
}

TEST_F(QuotaTest, ThoseWithoutALimitShareWhatIsLeft) {
  Limit("a", 40);
  for (int i = 0; i < 38; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  for (int i = 100; i < 300; ++i) ASSERT_EQ(Put("large", i), absl::OkStatus());
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Put("small", i), absl::OkStatus());
  for (int i = 300; i < 400; ++i) ASSERT_EQ(Put("large", i), absl::OkStatus());
  EXPECT_GE(Count("a", 0, 38), 36) << "the whole's low watermark is what it may lose to them";
  EXPECT_EQ(Count("small", 0, 5), 5) << "the larger of them gives";
  EXPECT_LE(Count("large", 100, 400), 20);
  EXPECT_GE(Count("large", 100, 400), 8);
}

// The table's charges must equal the blocks in use, whatever happened.
TEST_F(QuotaTest, TheBooksBalance) {
  std::mt19937_64 random(TestSeed());
  Limit("a", 25);
  Limit("b", 25);
  std::vector<std::unique_ptr<EncodingLease>> leases;
  for (int i = 0; i < 600; ++i) {
    const std::string ns = random() % 2 == 0 ? "a" : "b";
    const int number = static_cast<int>(random() % 60);
    switch (random() % 6) {
      case 0:
        ASSERT_EQ(engine_->Remove(ns, Key(ns, number).identity), absl::OkStatus());
        break;
      case 1: {
        auto lease = engine_->Read(Key(ns, number), MakeSynthetic(number).manifest.etag, Patience());
        if (lease.ok()) leases.push_back(*std::move(lease));
        if (leases.size() > 10) leases.erase(leases.begin());
        break;
      }
      case 2:
        engine_->Pin(Key(ns, number)).status().IgnoreError();
        break;
      case 3:
        engine_->Unpin(Key(ns, number)).IgnoreError();
        break;
      default: {
        const absl::Status status = Put(ns, number);
        ASSERT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
      }
    }
    if (i % 200 == 199) {
      leases.clear();
      Open();
    }
  }
  for (int number = 0; number < 60; ++number) {
    for (const char* ns : {"a", "b"}) ASSERT_EQ(engine_->Remove(ns, Key(ns, number).identity), absl::OkStatus());
  }
  // All blocks are free again.
  for (const char* ns : {"a", "b"}) {
    Limit(ns, 30, 30);
    for (int number = 0; number < 24; ++number) {
      ASSERT_EQ(Put(ns, number), absl::OkStatus());
      ASSERT_EQ(engine_->Pin(Key(ns, number)).status(), absl::OkStatus());
    }
  }
}

TEST_F(QuotaTest, OldSettingsDoNotReplaceNewerOnes) {
  const auto put = [&](std::optional<int64_t> blocks, std::optional<uint64_t> revision) {
    NamespaceChange change;
    if (blocks.has_value()) change.capacity_bytes = *blocks * kBlock;
    change.revision = revision;
    return engine_->PutNamespace("a", change);
  };
  EXPECT_EQ(put(10, std::nullopt)->revision, 1u);
  EXPECT_EQ(put(11, std::nullopt)->revision, 2u);
  EXPECT_EQ(*put(12, 7), (NamespaceSettings{12 * kBlock, 0, 7}));
  for (const uint64_t old : {6, 7}) {
    const absl::Status refused = put(20, old).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr(absl::StrCat("revision ", old, " does not replace the current revision 7")));
  }
  for (const uint64_t bad : {uint64_t{0}, uint64_t{1} << 63})
    EXPECT_TRUE(absl::IsInvalidArgument(put(20, bad).status()));
  Open();
  EXPECT_EQ(engine_->NamespaceSettingsAll().at("a"), (NamespaceSettings{12 * kBlock, 0, 7}));
  // The revision alone.
  EXPECT_EQ(*put(std::nullopt, 9), (NamespaceSettings{12 * kBlock, 0, 9}));
  EXPECT_EQ(put(std::nullopt, std::nullopt)->revision, 10u);
  ASSERT_TRUE(put(1, INT64_MAX).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(put(2, std::nullopt).status()));
}

// What a node of a cluster keeps of limits that are the cluster's.
TEST_F(QuotaTest, AShareOfTheLimits) {
  Limit("a", 40, 20);
  Limit("c", 60);
  for (int i = 0; i < 10; ++i) ASSERT_EQ(Put("b", i), absl::OkStatus());
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Put("c", i), absl::OkStatus());
  for (int i = 0; i < 30; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_EQ(Count("a", 0, 30), 30);
  const std::map<std::string, NamespaceSettings> all = engine_->NamespaceSettingsAll();

  engine_->SetShareOfLimits(0.25);
  EXPECT_TRUE(Eventually([&] { return Count("a", 0, 30) <= 10; })) << "a smaller share evicts in the background";
  for (int i = 100; i < 130; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_LE(Count("a", 0, 130), 10);
  EXPECT_EQ(Count("b", 0, 10), 10);
  EXPECT_EQ(Count("c", 0, 5), 5);
  EXPECT_EQ(engine_->Stats().evicted_capacity, 0);
  EXPECT_FALSE(engine_->HasRoom("a", 3 * kBlock)) << "repair brings nothing that would be evicted";
  const auto pin_all = [&] {
    int pinned = 0;
    for (int i = 0; i < 200; ++i) pinned += engine_->Pin(Key("a", i)).ok();
    return pinned;
  };
  EXPECT_EQ(pin_all(), 5);

  // A larger one allows more at once; the limits themselves are as they were.
  engine_->SetShareOfLimits(0.5);
  EXPECT_EQ(engine_->share_of_limits(), 0.5);
  EXPECT_TRUE(engine_->HasRoom("a", 3 * kBlock));
  for (int i = 130; i < 138; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_EQ(Count("a", 130, 138), 8);
  EXPECT_EQ(engine_->NamespaceSettingsAll(), all);

  // A share too small for one encoding is a limit all the same.
  engine_->SetShareOfLimits(0.0001);
  const absl::Status refused = Put("c", 100);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("this node's share of the capacity of namespace 'c'"));
  EXPECT_TRUE(Eventually([&] { return Count("c", 0, 5) == 0; }));
  EXPECT_EQ(Put("b", 10), absl::OkStatus());
  Open();
  EXPECT_EQ(engine_->share_of_limits(), 1);
  EXPECT_EQ(engine_->NamespaceSettingsAll(), all);
}

// As when a node has joined and has what it took over.
TEST_F(QuotaTest, WhatMovedToAnotherNodeGoesFirst) {
  Limit("a", 40);
  std::bitset<kSlots> owned;
  owned.set();
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(Put("a", i), absl::OkStatus());
    if (i < 15) continue;
    // Otherwise the last to be evicted.
    for (int use = 0; use < 3; ++use) ASSERT_EQ(engine_->Touch(Key("a", i)), absl::OkStatus());
    owned.reset(static_cast<size_t>(SlotOf(Key("a", i).identity)));
  }
  engine_->SetOwnedSlots(owned);
  // Read here since, as a further copy is.
  ASSERT_EQ(engine_->Touch(Key("a", 22)), absl::OkStatus());
  engine_->SetShareOfLimits(0.5);
  EXPECT_TRUE(Eventually([&] { return Count("a", 0, 30) <= 20; }));
  EXPECT_EQ(Count("a", 0, 15), 15);
  EXPECT_TRUE(Present("a", 22));
  // Once nothing of it is left, the order of eviction decides.
  engine_->SetShareOfLimits(0.25);
  EXPECT_TRUE(Eventually([&] { return Count("a", 0, 30) <= 10; }));
  EXPECT_GT(Count("a", 0, 15), 0);
}

TEST_F(QuotaTest, LimitsThatAreTakenFromElsewhere) {
  Limit("a", 10);
  Limit("b", 10);
  for (int i = 0; i < 8; ++i) ASSERT_EQ(Put("b", i), absl::OkStatus());
  // An older revision, too: whoever they come from knows.
  const std::map<std::string, NamespaceSettings> others = {{"b", {4 * kBlock, 0, 1}}, {"c", {0, 2 * kBlock, 7}}};
  ASSERT_EQ(engine_->ReplaceNamespaces(others), absl::OkStatus());
  EXPECT_EQ(engine_->NamespaceSettingsAll(), others);
  EXPECT_TRUE(Eventually([&] { return Count("b", 0, 8) <= 4; }));
  EXPECT_TRUE(absl::IsInvalidArgument(engine_->ReplaceNamespaces({{"a", {1, 0, 0}}})));
  EXPECT_TRUE(absl::IsInvalidArgument(engine_->ReplaceNamespaces({{"a", {-1, 0, 1}}, {"b", {1, 1, 1}}})));
  EXPECT_EQ(engine_->NamespaceSettingsAll(), others);
  Open();
  EXPECT_EQ(engine_->NamespaceSettingsAll(), others);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Put("a", i), absl::OkStatus());
  EXPECT_EQ(Count("a", 0, 20), 20) << "its limit is gone";
  ASSERT_EQ(engine_->ReplaceNamespaces({}), absl::OkStatus());
  Open();
  EXPECT_TRUE(engine_->NamespaceSettingsAll().empty());
}

TEST_F(QuotaTest, APinIsOfOneEncodingAndNotOfItsName) {
  Open();
  ASSERT_TRUE(Put("a", 1).ok());
  const EncodingKey key = Key("a", 1);
  const auto first = engine_->Pin(key);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(engine_->Remove("a", key.identity).ok());
  ASSERT_TRUE(Put("a", 1).ok());
  const auto second = engine_->Pin(key);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(*first, *second);
  // Whoever pinned what is gone takes nothing from whoever pinned what is there.
  EXPECT_TRUE(absl::IsNotFound(engine_->Unpin(key, *first)));
  EXPECT_EQ(engine_->Stats().pinned_encodings, 1);
  EXPECT_EQ(engine_->Unpin(key, *second), absl::OkStatus());
  EXPECT_EQ(engine_->Stats().pinned_encodings, 0);
}

}  // namespace
}  // namespace kvlink::engine
