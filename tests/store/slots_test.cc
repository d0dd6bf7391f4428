// What an engine says of its slots: digests and listings follow every way in which encodings come and go, and are the
// same after opening the store again. And what drops and admissions rely on: they are one with the commit.
#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/in_slot.h"
#include "tests/store/push.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::CommitFilledPush;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::FillPush;
using ::kvlink::testing::KeyOf;
using ::kvlink::testing::MakeInSlot;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;

using kvlink::testing::Patience;

std::vector<uint16_t> AllSlots() {
  std::vector<uint16_t> slots(kSlots);
  std::iota(slots.begin(), slots.end(), uint16_t{0});
  return slots;
}

// All of it, in pages.
std::vector<SlotEntry> List(Engine* engine, int slot, int64_t page) {
  std::vector<SlotEntry> all;
  std::optional<EncodingKey> after;
  for (;;) {
    const std::vector<SlotEntry> some = engine->ListSlot(slot, after, page);
    if (some.empty()) return all;
    EXPECT_LE(static_cast<int64_t>(some.size()), page);
    all.insert(all.end(), some.begin(), some.end());
    after = {all.back().ns, all.back().identity, all.back().codec};
  }
}

// The digest that the definition gives, entry by entry.
SlotDigest DigestOf(const std::vector<SlotEntry>& entries) {
  SlotDigest digest;
  for (const SlotEntry& entry : entries) {
    const EncodingHash hash = HashEncoding(NamespaceSeed(entry.ns), entry.identity, entry.codec, entry.etag);
    digest.low ^= hash.low;
    digest.high ^= hash.high;
    digest.bytes += static_cast<uint64_t>(entry.bytes);
    ++digest.encodings;
  }
  return digest;
}

class SlotsTest : public ::testing::Test {
 protected:
  void Open(int64_t capacity = 32 << 20) {
    engine_ = nullptr;
    EngineOptions options;
    options.dram_bytes = 8 << 20;
    options.segment_bytes = 1 << 20;
    options.capacity_bytes = capacity;
    auto opened = Engine::Open(directory_.path() + "/store", options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
  }
  absl::StatusOr<Engine::PutOutcome> Put(const Synthetic& s, const std::string& ns = "ns",
                                         const std::function<absl::Status()>& admit = nullptr) {
    return engine_->Put(ns, s.manifest, s.spans(), Patience(), PutMode::kReplaceSmallerEtag, admit);
  }
  // Digests, listings and lookups say the same, and there are as many encodings as the namespaces count.
  void Check() {
    // What is over the watermark leaves in the background; then nothing changes any more.
    std::vector<SlotDigest> before;
    do {
      before = engine_->SlotDigests(AllSlots());
      absl::SleepFor(absl::Milliseconds(20));
    } while (before != engine_->SlotDigests(AllSlots()));

    const std::vector<SlotDigest> digests = engine_->SlotDigests(AllSlots());
    int64_t encodings = 0, bytes = 0;
    for (int slot = 0; slot < kSlots; ++slot) {
      if (digests[slot].encodings == 0) {
        ASSERT_EQ(digests[slot], SlotDigest());
        continue;
      }
      const std::vector<SlotEntry> entries = List(engine_.get(), slot, 3);
      ASSERT_EQ(DigestOf(entries), digests[slot]) << slot;
      for (size_t i = 0; i < entries.size(); ++i) {
        const EncodingKey key{entries[i].ns, entries[i].identity, entries[i].codec};
        const auto found = engine_->Find(key);
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(found->location.etag, entries[i].etag);
        EXPECT_EQ(found->location.bytes, entries[i].bytes);
        if (i == 0) continue;
        EXPECT_LT((EncodingKey{entries[i - 1].ns, entries[i - 1].identity, entries[i - 1].codec}), key);
      }
      encodings += digests[slot].encodings;
      bytes += static_cast<int64_t>(digests[slot].bytes);
    }
    int64_t counted = 0;
    const Engine::Statistics stats = engine_->Stats();
    for (const NamespaceUse& ns : stats.namespaces) counted += ns.encodings;
    EXPECT_EQ(encodings, counted);
    EXPECT_EQ(bytes, stats.segment_bytes_used);
  }

  const ScratchDirectory directory_{/*in_memory=*/true};
  std::unique_ptr<Engine> engine_;
};

TEST_F(SlotsTest, DigestsFollowWhateverComesAndGoes) {
  for (int run = 0; run < FaultSeeds(); ++run) {
    const uint64_t seed = TestSeed() + static_cast<uint64_t>(run);
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    // Some 28 of 60 encodings fit: puts evict.
    Open(2 << 20);
    const auto some = [&] {
      const int number = static_cast<int>(random() % 60);
      return MakeInSlot(static_cast<uint64_t>(number), number % 5, static_cast<int>(random() % 3),
                        random() % 4 == 0 ? Codec::kQ8 : Codec::kRawBf16);
    };
    for (int step = 0; step < 400; ++step) {
      const Synthetic s = some();
      const std::string ns = random() % 3 == 0 ? "other" : "ns";
      switch (random() % 24) {
        case 0:
          EXPECT_TRUE(engine_->Remove(ns, s.manifest.identity).ok());
          break;
        case 1:
          engine_->RemoveEncoding(KeyOf(s, ns), s.manifest.etag).IgnoreError();
          break;
        case 2:
          EXPECT_TRUE(engine_->Drop({{ns, s.manifest.identity}, {ns, some().manifest.identity}}, {}).ok());
          break;
        case 3: {
          auto push = FillPush(engine_.get(), KeyOf(s, ns), s, PutMode::kReplaceSmallerEtag);
          ASSERT_TRUE(push.ok()) << push.status();
          EXPECT_TRUE(CommitFilledPush(engine_.get(), *std::move(push), s.manifest).ok());
          break;
        }
        case 4:
          engine_->Touch(KeyOf(s, ns)).IgnoreError();
          break;
        case 5:
          if (random() % 8 == 0) {
            EXPECT_TRUE(engine_->DeleteNamespace(ns).ok());
          }
          break;
        case 6:
          if (random() % 8 == 0) {
            EXPECT_TRUE(engine_->DropAll({}).ok());
          }
          break;
        default: {
          const auto put = Put(s, ns);
          ASSERT_TRUE(put.ok()) << put.status();
        }
      }
      if (step % 40 == 0) Check();
    }
    Check();
    EXPECT_GT(engine_->Stats().evicted_capacity, 0);
    EXPECT_GT(engine_->Stats().replaced, 0);
    const std::vector<SlotDigest> before = engine_->SlotDigests(AllSlots());
    engine_ = nullptr;
    Open(64 << 20);  // nothing more is evicted
    EXPECT_EQ(engine_->SlotDigests(AllSlots()), before);
    Check();
    ASSERT_TRUE(engine_->DropAll({}).ok());
  }
}

TEST_F(SlotsTest, EqualContentsHaveEqualDigestsWhateverTheOrder) {
  Open();
  std::vector<Synthetic> all;
  for (uint64_t i = 0; i < 12; ++i) all.push_back(MakeInSlot(i, 7));
  for (const Synthetic& s : all) ASSERT_TRUE(Put(s).ok());
  const SlotDigest forward = engine_->SlotDigests({7})[0];
  EXPECT_EQ(forward.encodings, 12u);
  ASSERT_TRUE(engine_->DropAll({}).ok());
  EXPECT_EQ(engine_->SlotDigests({7})[0], SlotDigest());
  for (size_t i = all.size(); i-- > 0;) ASSERT_TRUE(Put(all[i]).ok());
  EXPECT_EQ(engine_->SlotDigests({7})[0], forward);
  // Another namespace, codec or etag is another content.
  ASSERT_TRUE(engine_->Remove("ns", all[0].manifest.identity).ok());
  ASSERT_TRUE(Put(all[0], "other").ok());
  const SlotDigest moved = engine_->SlotDigests({7})[0];
  EXPECT_EQ(moved.encodings, forward.encodings);
  EXPECT_EQ(moved.bytes, forward.bytes);
  EXPECT_NE(moved, forward);
}

TEST_F(SlotsTest, HeatSaysWhatTheOrderOfEvictionThinks) {
  Open();
  const Synthetic cold = MakeInSlot(1, 7), hot = MakeInSlot(2, 7);
  ASSERT_TRUE(Put(cold).ok());
  ASSERT_TRUE(Put(hot).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(engine_->Touch(KeyOf(hot)).ok());
  for (const SlotEntry& entry : engine_->ListSlot(7, std::nullopt, 10)) {
    EXPECT_EQ(entry.heat, entry.identity == hot.manifest.identity ? 2 : 0);
  }
}

TEST_F(SlotsTest, WhatIsNotAdmittedLeavesNothing) {
  Open();
  const Synthetic s = MakeInSlot(1, 7);
  std::atomic<int> asked{0};
  for (const absl::StatusCode code : {absl::StatusCode::kAborted, absl::StatusCode::kUnavailable}) {
    const auto put = Put(s, "ns", [&] {
      ++asked;
      return absl::Status(code, "not now");
    });
    EXPECT_EQ(put.status().code(), code);
    EXPECT_FALSE(engine_->Find(KeyOf(s)).has_value());
    EXPECT_EQ(engine_->SlotDigests({7})[0], SlotDigest());
  }
  EXPECT_EQ(asked, 2);
  const auto put = Put(s, "ns", [] { return absl::OkStatus(); });
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(put->written);
  engine_ = nullptr;
  Open();
  EXPECT_TRUE(engine_->Find(KeyOf(s)).has_value());
  // The blocks of those that were refused are there for others.
  for (uint64_t i = 10; i < 300; ++i) ASSERT_TRUE(Put(MakeInSlot(i, 9)).ok());
}

TEST_F(SlotsTest, DropsAndTheirPositionAreOneCommit) {
  Open();
  const DropPosition first{{1, 2, 3}, 100, 7}, second{{1, 2, 3}, 200, -1};
  EXPECT_EQ(engine_->dropped(), DropPosition());
  const Synthetic a = MakeInSlot(1, 1), a_q8 = MakeInSlot(1, 1, 0, Codec::kQ8), b = MakeInSlot(2, 2),
                  c = MakeInSlot(3, 3);
  for (const Synthetic* s : {&a, &a_q8, &b, &c}) ASSERT_TRUE(Put(*s).ok());
  ASSERT_TRUE(engine_->Drop({{"ns", a.manifest.identity}, {"other", b.manifest.identity}}, first).ok());
  engine_ = nullptr;
  Open();
  EXPECT_EQ(engine_->dropped(), first);
  EXPECT_FALSE(engine_->Find(KeyOf(a)).has_value());
  EXPECT_FALSE(engine_->Find(KeyOf(a_q8)).has_value());
  EXPECT_TRUE(engine_->Find(KeyOf(b)).has_value());
  ASSERT_TRUE(engine_->DropAll(second).ok());
  EXPECT_EQ(engine_->Stats().segment_bytes_used, 0);
  ASSERT_TRUE(Put(c).ok());
  engine_ = nullptr;
  Open();
  EXPECT_EQ(engine_->dropped(), second);
  EXPECT_FALSE(engine_->Find(KeyOf(b)).has_value());
  EXPECT_TRUE(engine_->Find(KeyOf(c)).has_value()) << "what came after everything was removed stays";
  const auto verified = engine_->Verify({});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT(verified->index_problems, ::testing::IsEmpty());
}

TEST_F(SlotsTest, AnEncodingIsRemovedByItsEtagAndNotWhileItIsPinned) {
  Open();
  Synthetic s = MakeInSlot(1, 7), other = MakeInSlot(1, 7, 1);
  if (s.manifest.etag.bytes > other.manifest.etag.bytes) std::swap(s, other);
  ASSERT_TRUE(Put(other).ok());
  EXPECT_TRUE(absl::IsNotFound(engine_->RemoveEncoding(KeyOf(s), s.manifest.etag)));
  ASSERT_TRUE(engine_->Pin(KeyOf(other)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(engine_->RemoveEncoding(KeyOf(other), other.manifest.etag)));
  ASSERT_TRUE(engine_->Unpin(KeyOf(other)).ok());
  EXPECT_TRUE(engine_->RemoveEncoding(KeyOf(other), other.manifest.etag).ok());
  EXPECT_FALSE(engine_->Find(KeyOf(other)).has_value());
}

TEST_F(SlotsTest, ThereIsRoomUntilAPutWouldEvict) {
  Open(4 << 20);
  ASSERT_TRUE(engine_->PutNamespace("small", {.capacity_bytes = 1 << 20}).ok());
  uint64_t number = 0;
  for (const std::string ns : {"small", "ns"}) {
    int64_t puts = 0;
    for (; engine_->HasRoom(ns, 8192); ++puts) {
      ASSERT_LT(puts, 100);
      ASSERT_TRUE(Put(MakeInSlot(++number, 1), ns).ok());
    }
    EXPECT_GT(puts, ns == "small" ? 10 : 30);
  }
  EXPECT_EQ(engine_->Stats().evictions, 0);
  EXPECT_FALSE(engine_->HasRoom("new", 8192));
  EXPECT_FALSE(engine_->HasRoom("new", int64_t{1} << 40));
}

}  // namespace
}  // namespace kvlink::engine
