// The engine's parts, against plain models of them.
#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/envelope.h"
#include "store/engine/disk/allocator.h"
#include "store/engine/disk/io_queue.h"
#include "store/engine/disk/location.h"
#include "store/engine/index/namespace_settings.h"
#include "store/engine/s3_fifo.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::TestSeed;

TEST(AllocatorTest, AgreesWithASetOfBlocks) {
  std::mt19937_64 random(TestSeed());
  BlockAllocator allocator;
  std::set<uint32_t> free;
  allocator.Free({1, 500});
  allocator.Free({1001, 500});
  for (uint32_t b = 1; b <= 500; ++b) free.insert(b), free.insert(b + 1000);
  std::vector<Runs> held;
  for (int i = 0; i < 3000; ++i) {
    if (random() % 2 == 0 || held.empty()) {
      const int64_t blocks = 1 + random() % 40;
      const auto runs = allocator.Allocate(blocks);
      if (!runs.has_value()) continue;
      ASSERT_LE(runs->size(), static_cast<size_t>(kMaxRuns));
      int64_t total = 0;
      for (const engine::Run& run : *runs) {
        total += run.count;
        for (uint32_t b = run.first; b < run.first + run.count; ++b) ASSERT_EQ(free.erase(b), 1u);
      }
      ASSERT_EQ(total, blocks);
      held.push_back(*runs);
    } else {
      const size_t which = random() % held.size();
      for (const engine::Run& run : held[which]) {
        allocator.Free(run);
        for (uint32_t b = run.first; b < run.first + run.count; ++b) free.insert(b);
      }
      held.erase(held.begin() + static_cast<int64_t>(which));
    }
    ASSERT_EQ(allocator.free_blocks(), static_cast<int64_t>(free.size()));
  }
  for (const Runs& runs : held) {
    EXPECT_FALSE(allocator.Claim(runs[0]));
    for (const engine::Run& run : runs) allocator.Free(run);
  }
  EXPECT_TRUE(allocator.Claim({1, 500}));  // everything merged again
  EXPECT_TRUE(allocator.Claim({1001, 500}));
  EXPECT_EQ(allocator.free_blocks(), 0);
}

TEST(S3FifoTest, OneTimersGoBeforeWhatIsUsed) {
  S3Fifo<int> order;
  for (int i = 0; i < 20; ++i) order.Insert(i, i, 1);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 5; ++i) order.Touch(i);
  }
  std::set<int> gone;
  for (int i = 0; i < 14; ++i) {
    const auto victim = order.Evict([](int key) { return key != 7; });
    ASSERT_TRUE(victim.has_value());
    gone.insert(*victim);
  }
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(gone.contains(i)) << i;
  EXPECT_FALSE(gone.contains(7));
  EXPECT_EQ(order.size(), 6u);
  EXPECT_EQ(order.weight(), 6);
  EXPECT_FALSE(order.Evict([](int) { return false; }).has_value());
  EXPECT_EQ(order.size(), 6u);
  while (order.Evict([](int) { return true; })) {
  }
  EXPECT_EQ(order.weight(), 0);
}

TEST(S3FifoTest, WhatMayGoIsFoundBehindWhatMayNot) {
  S3Fifo<int> order;
  for (int i = 0; i < 100; ++i) order.Insert(i, i, 1);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 95; ++i) order.Touch(i);
  }
  // The 95 move to the main queue and may not go; the 5 are less than a tenth.
  for (int i = 0; i < 5; ++i) {
    const auto victim = order.Evict([](int key) { return key >= 95; });
    ASSERT_TRUE(victim.has_value()) << i;
    EXPECT_GE(*victim, 95);
  }
  EXPECT_FALSE(order.Evict([](int key) { return key >= 95; }).has_value());
  EXPECT_EQ(order.size(), 95u);
}

TEST(S3FifoTest, PassesOverNoMoreThanItMayAndGoesOnFromThere) {
  S3Fifo<int> order;
  for (int i = 0; i < 10000; ++i) order.Insert(i, i, 1);
  int asked = 0;
  std::optional<int> victim;
  int calls = 0;
  while (!victim.has_value() && calls < 200) {
    size_t steps = 100;
    const int before = asked;
    ++calls;
    victim = order.Evict(
        [&](int key) {
          ++asked;
          return key == 9000;
        },
        &steps);
    ASSERT_LE(asked - before, 101);
    if (!victim.has_value()) {
      ASSERT_EQ(steps, 0u);
    }
  }
  EXPECT_EQ(victim, 9000);
  EXPECT_EQ(calls, 91);
  // Where nothing may go, what is left of the steps says that all were asked.
  size_t steps = 1000000;
  EXPECT_EQ(order.Evict([](int) { return false; }, &steps), std::nullopt);
  EXPECT_GT(steps, 0u);
}

TEST(S3FifoTest, APassInPiecesEndsWhereAPassInOneWould) {
  S3Fifo<int> order;
  order.Insert(0, 0, 1);
  order.Touch(0);
  order.Touch(0);
  order.Insert(1, 1, 1);
  ASSERT_EQ(order.Evict([](int) { return true; }), 1) << "and 0 is in the main queue";
  for (int i = 2; i < 302; ++i) order.Insert(i, i, 1);
  // The small queue's turn comes first, and nothing of it may go.
  S3Fifo<int>::Pass pass;
  std::optional<int> victim;
  for (int calls = 0; calls < 5 && !victim.has_value(); ++calls) {
    size_t steps = 100;
    victim = order.Evict([](int key) { return key == 0; }, &steps, &pass);
  }
  EXPECT_EQ(victim, 0);
  // And where nothing may go at all, it ends.
  pass = {};
  size_t steps = 0;
  int calls = 0;
  while (steps == 0 && calls < 10) {
    steps = 100;
    ++calls;
    EXPECT_EQ(order.Evict([](int) { return false; }, &steps, &pass), std::nullopt);
  }
  EXPECT_GT(steps, 0u) << calls << " calls";
}

TEST(S3FifoTest, AScanDoesNotDriveOutTheWorkingSet) {
  S3Fifo<int> order;
  std::mt19937_64 random(TestSeed());
  std::set<int> cached;
  int hits = 0, uses = 0;
  const auto access = [&](int key) {
    if (cached.contains(key)) {
      order.Touch(key);
      return true;
    }
    while (order.size() >= 100) cached.erase(*order.Evict([](int) { return true; }));
    order.Insert(key, key, 1);
    cached.insert(key);
    return false;
  };
  for (int i = 0; i < 20000; ++i) {
    if (i % 2 == 0) {
      ++uses;
      hits += access(static_cast<int>(random() % 60));
    } else {
      access(1000 + i);  // never again
    }
  }
  // First in first out alone would keep about half.
  EXPECT_GT(hits, uses * 9 / 10);
}

TEST(IoQueueTest, ReadsComeFirstAndBulkNeverStarves) {
  const IoLimits limits{.all = 8, .bulk = 5, .bulk_beside_reads = 2};
  IoQueue<bool> queue(limits);  // items: whether they are bulk
  std::mt19937_64 random(TestSeed());
  std::vector<bool> in_flight;
  const auto start = [&] {
    while (const std::optional<bool> item = queue.Next()) in_flight.push_back(*item);
  };
  // Alone, bulk has its places and no more.
  for (int i = 0; i < 20; ++i) queue.Push(true, true);
  start();
  EXPECT_EQ(queue.bulk_in_flight(), limits.bulk);
  for (int i = 0; i < 20000; ++i) {
    // Reads without end.
    while (queue.reads_waiting() < 20) queue.Push(false, false);
    if (queue.bulk_waiting() == 0) queue.Push(true, true);
    start();
    ASSERT_EQ(queue.in_flight(), limits.all);
    ASSERT_EQ(queue.in_flight(), static_cast<int>(in_flight.size()));
    if (i > 100) {
      ASSERT_EQ(queue.bulk_in_flight(), limits.bulk_beside_reads) << "neither more nor starved";
    }
    const size_t ends = random() % in_flight.size();
    queue.Ended(in_flight[ends]);
    in_flight.erase(in_flight.begin() + static_cast<int64_t>(ends));
  }
  // Without bulk, reads take all places.
  IoQueue<bool> reads(limits);
  for (int i = 0; i < 20; ++i) reads.Push(false, false);
  int started = 0;
  while (reads.Next().has_value()) ++started;
  EXPECT_EQ(started, limits.all);
  reads.Push(true, true);
  EXPECT_FALSE(reads.Next().has_value());
  reads.Ended(false);
  EXPECT_EQ(reads.Next(), std::optional<bool>(true)) << "the first place that is free";
}

TEST(IoQueueTest, WhatIsFirstGoesBeforeWhatWaits) {
  IoQueue<int> queue({.all = 8, .bulk = 5, .bulk_beside_reads = 2});
  for (int i = 0; i < 3; ++i) queue.Push(i, false);
  queue.Push(10, false, /*first=*/true);
  queue.Push(20, true);
  queue.Push(30, true, /*first=*/true);
  std::vector<int> order;
  while (const std::optional<int> item = queue.Next()) order.push_back(*item);
  EXPECT_EQ(order, (std::vector<int>{10, 0, 1, 2, 30, 20}));
}

// S3-FIFO once more, as plainly as it can be said.
class PlainS3Fifo {
 public:
  void Insert(int key, int64_t weight) {
    bool again = false;
    for (size_t i = 0; i < ghosts_.size(); ++i) {
      if (ghosts_[i].key != key) continue;
      again = true;
      const double small = std::max<double>(GhostWeight(false), 1), main = std::max<double>(GhostWeight(true), 1);
      const double change = ghosts_[i].main ? -std::max(1.0, small / main) : std::max(1.0, main / small);
      const double part = static_cast<double>(weight) / static_cast<double>(std::max(Weight(), weight));
      share_ = std::clamp(share_ + part * change, 0.1, 0.9);
      ghosts_.erase(ghosts_.begin() + static_cast<int64_t>(i));
      break;
    }
    (again ? main_ : small_).push_back({key, weight, 0, again});
  }
  void Touch(int key) {
    for (auto* queue : {&small_, &main_}) {
      for (Item& item : *queue) {
        if (item.key == key) item.uses = std::min(item.uses + 1, 3);
      }
    }
  }
  void Erase(int key) {
    for (auto* queue : {&small_, &main_}) std::erase_if(*queue, [key](const Item& item) { return item.key == key; });
  }
  std::optional<int> Evict(const std::set<int>& held) {
    size_t refused = 0, steps = 0;
    for (;;) {
      const bool small_gives = refused < small_.size(), main_gives = !main_.empty() && steps <= 4 * main_.size();
      if (!small_gives && !main_gives) return std::nullopt;
      const bool small = small_gives && (!main_gives || static_cast<double>(Weight(small_)) > share_ * Weight());
      std::vector<Item>& queue = small ? small_ : main_;
      Item item = queue.front();
      queue.erase(queue.begin());
      steps += !small;
      if (small && item.uses > 1) {
        main_.push_back({item.key, item.weight, 0, true});
      } else if ((small || item.uses == 0) && !held.contains(item.key)) {
        const int64_t before = Weight() + item.weight;
        std::erase_if(ghosts_, [&](const Item& ghost) { return ghost.key == item.key; });
        ghosts_.push_back(item);
        while (GhostWeight(false) + GhostWeight(true) > before ||
               ghosts_.size() > std::max<size_t>(64, 4 * (size() + 1)))
          ForgetOldest(GhostWeight(true) > GhostWeight(false));
        return item.key;
      } else {
        refused += small;
        if (!small) item.uses = std::max(item.uses - 1, 0);
        queue.push_back(item);
      }
    }
  }
  size_t size() const { return small_.size() + main_.size(); }
  int64_t Weight() const { return Weight(small_) + Weight(main_); }
  double share() const { return share_; }
  size_t ghosts() const { return ghosts_.size(); }

 private:
  struct Item {
    int key;
    int64_t weight;
    int uses;
    bool main;
  };
  static int64_t Weight(const std::vector<Item>& queue) {
    int64_t weight = 0;
    for (const Item& item : queue) weight += item.weight;
    return weight;
  }
  int64_t GhostWeight(bool main) const {
    int64_t weight = 0;
    for (const Item& ghost : ghosts_) weight += ghost.main == main ? ghost.weight : 0;
    return weight;
  }
  void ForgetOldest(bool main) {
    const auto it = std::find_if(ghosts_.begin(), ghosts_.end(), [main](const Item& g) { return g.main == main; });
    ghosts_.erase(it);
  }
  std::vector<Item> small_, main_, ghosts_;
  double share_ = 0.1;
};

TEST(S3FifoTest, AgreesWithThePlainOne) {
  std::mt19937_64 random(TestSeed());
  double least = 1, most = 0;
  for (int run = 0; run < 30; ++run) {
    S3Fifo<int> order;
    PlainS3Fifo plain;
    std::set<int> in, held;
    const int keys = 10 + static_cast<int>(random() % 150);
    const size_t room = 5 + random() % 60;
    for (int i = 0; i < 3000; ++i) {
      const int key = static_cast<int>(random() % keys);
      if (random() % 50 == 0) held.contains(key) ? held.erase(key) : held.insert(key).second;
      if (random() % 100 == 0) {
        order.Erase(key);
        plain.Erase(key);
        in.erase(key);
      }
      if (in.contains(key)) {
        order.Touch(key);
        plain.Touch(key);
        continue;
      }
      while (in.size() >= room) {
        const auto victim = order.Evict([&held](int k) { return !held.contains(k); });
        ASSERT_EQ(victim, plain.Evict(held));
        if (!victim.has_value()) {
          for (const int k : in) ASSERT_TRUE(held.contains(k)) << "nothing was found, but this may go";
          held.clear();
          continue;
        }
        in.erase(*victim);
      }
      const int64_t weight = 1 + static_cast<int64_t>(random() % 9);
      order.Insert(key, key, weight);
      plain.Insert(key, weight);
      in.insert(key);
      ASSERT_EQ(order.size(), in.size());
      ASSERT_EQ(order.weight(), plain.Weight());
      ASSERT_EQ(order.ghosts(), plain.ghosts());
      ASSERT_NEAR(order.small_share(), plain.share(), 1e-9);
      least = std::min(least, order.small_share());
      most = std::max(most, order.small_share());
    }
  }
  EXPECT_LT(least, most) << "the share was never adapted";
}

TEST(S3FifoTest, WhatIsHeldIsNotPromotedForIt) {
  S3Fifo<int> order;
  for (int i = 0; i < 10; ++i) order.Insert(i, i, 1);
  for (int round = 0; round < 3; ++round) order.Touch(9);
  ASSERT_EQ(order.Evict([](int key) { return key != 0; }), 1);  // 0 was passed over
  for (int i = 10; i < 30; ++i) {
    order.Insert(i, i, 1);
    ASSERT_TRUE(order.Evict([](int) { return true; }).has_value());
  }
  std::set<int> left;
  order.ForEach([&left](int key) { left.insert(key); });
  EXPECT_FALSE(left.contains(0));
  EXPECT_TRUE(left.contains(9));
}

TEST(S3FifoTest, BurstsLongerThanATenthOfTheCacheAreHit) {
  // Each thing is used three times within half of what fits, and never again: LRU would hit two of three.
  S3Fifo<int> order;
  std::mt19937_64 random(TestSeed());
  std::set<int> cached;
  std::multimap<int, int> due;
  int hits = 0, uses = 0;
  for (int now = 0, next = 0; now < 60000; ++now) {
    if (now % 3 == 0) {
      due.emplace(now, next);
      due.emplace(now + 20 + static_cast<int>(random() % 60), next);
      due.emplace(now + 80 + static_cast<int>(random() % 60), next++);
    }
    for (; !due.empty() && due.begin()->first <= now; due.erase(due.begin())) {
      const int key = due.begin()->second;
      ++uses;
      if (cached.contains(key)) {
        ++hits;
        order.Touch(key);
        continue;
      }
      while (order.size() >= 100) cached.erase(*order.Evict([](int) { return true; }));
      order.Insert(key, key, 1);
      cached.insert(key);
    }
  }
  EXPECT_GT(hits, uses * 6 / 10);
}

Location Somewhere() {
  Location location;
  for (size_t i = 0; i < location.etag.bytes.size(); ++i) location.etag.bytes[i] = static_cast<uint8_t>(i);
  location.tokens = 512;
  location.manifest_bytes = 4200;  // two pages
  location.bytes = 16 * kSegmentBlockBytes - 8192;
  location.sequence = 300;
  location.runs = {{1, 10}, {1000, 6}};
  return location;
}

constexpr EnvelopeKind kLocationKind = {0x4c53564b, 2, 0, "location record"};

TEST(LocationTest, IsTheStoredFormat) {
  const std::string bytes = SerializeLocation(Somewhere());
  EXPECT_EQ(absl::BytesToHexString(bytes),
            "4b56534c0200000021000000d3a37949"
            "000102030405060708090a0b0c0d0e0f"  // etag
            "8004"
            "80c03f"
            "e820"
            "ac02"  // tokens, bytes, manifest bytes, sequence
            "02"
            "00010a"
            "00e80706");  // runs: device, first block, count
  EXPECT_EQ(Somewhere().blocks(), 16);
  const auto parsed = ParseLocation(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->etag, Somewhere().etag);
  EXPECT_EQ(parsed->tokens, 512);
  EXPECT_EQ(parsed->manifest_bytes, 4200);
  EXPECT_EQ(parsed->manifest_area(), 8192);
  EXPECT_EQ(parsed->stored_bytes(), 16 * kSegmentBlockBytes);
}

TEST(LocationTest, IsBoundedAndSurvives) {
  Location location = Somewhere();
  location.tokens = 1 << 24;
  location.manifest_bytes = 64 << 20;
  location.sequence = UINT64_MAX;
  location.runs.clear();
  constexpr uint32_t kCount = (uint32_t{1} << 24) - 1;
  for (uint32_t i = 0; i < kMaxRuns; ++i) location.runs.push_back({UINT32_MAX - kCount - i, kCount});
  location.bytes = kMaxRuns * int64_t{kCount} * kSegmentBlockBytes - location.manifest_area();
  const std::string bytes = SerializeLocation(location);
  EXPECT_LE(bytes.size(), 768u);
  const auto parsed = ParseLocation(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->runs, location.runs);
  EXPECT_EQ(parsed->bytes, location.bytes);
  EXPECT_EQ(parsed->manifest_bytes, location.manifest_bytes);
  EXPECT_EQ(parsed->sequence, location.sequence);
  location.runs.push_back({1, 1});
  location.bytes += kSegmentBlockBytes;
  EXPECT_TRUE(absl::IsInvalidArgument(ParseLocation(SerializeLocation(location)).status())) << "too many runs";
}

TEST(LocationTest, DamageIsRefused) {
  const std::string bytes = SerializeLocation(Somewhere());
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      // The minor version says only that newer fields may follow.
      if (i == 5) continue;
      EXPECT_FALSE(ParseLocation(flipped).ok()) << "byte " << i << " bit " << bit;
    }
    EXPECT_FALSE(ParseLocation(bytes.substr(0, i)).ok());
  }
}

TEST(LocationTest, RefusesWhatNoBuildWrites) {
  const std::string etag(16, 'e');
  const auto parse = [&](absl::string_view hex) {
    return ParseLocation(WrapEnvelope(kLocationKind, absl::StrCat(etag, absl::HexStringToBytes(hex)))).status();
  };
  // One token, 4096 bytes, a manifest of 100, sequence 7, a run of block 1.
  ASSERT_EQ(parse("018020640701000101"), absl::OkStatus());
  for (const char* bad : {
           "81008020640701000101",                  // a number longer than it must be
           "018020640701000181",                    // one without an end
           "0180206407010001ffffffffff1f",          // a count beyond 32 bits
           "01802064ffffffffffffffffff0201000101",  // a sequence beyond 64 bits
           "008020640701000101",                    // no tokens
           "81808008"
           "8020640701000101",    // more than 2^24
           "0100640701000101",    // no bytes
           "018120640701000101",  // not a multiple of 4096
           "018020000701000101",  // no manifest
           "0180208180802007"
           "01000101",              // one of more than 64 MiB
           "0180206407000001",      // no runs
           "018020640741",          // 65 of them
           "018020640701000100",    // an empty one
           "018020640701000102",    // more blocks than it needs
           "01802064070100010100",  // something behind it
           "0180206407010001",      // too short
           "",
       }) {
    EXPECT_TRUE(absl::IsInvalidArgument(parse(bad))) << bad << ": " << parse(bad);
  }
  const absl::Status device = parse("018020640701010101");
  EXPECT_TRUE(absl::IsUnimplemented(device)) << device;
  EXPECT_EQ(device.message(),
            "location record: a run on device 1; this build knows one device; use the newer one that wrote it");
  const absl::Status major1 = ParseLocation(WrapEnvelope({0x4c53564b, 1, 0, "location record"}, "")).status();
  EXPECT_TRUE(absl::IsUnimplemented(major1));
  EXPECT_EQ(major1.message(),
            "location record: format version 1.0; this build reads version 2; use the build that "
            "wrote it");
}

TEST(NamespaceSettingsTest, GoldenBytesAndDamage) {
  const NamespaceSettings settings{.capacity_bytes = 0x0102030405060708, .pinned_bytes = 9, .revision = 10};
  const std::string bytes = SerializeNamespaceSettings(settings);
  ASSERT_EQ(bytes.size(), 40u);
  EXPECT_EQ(bytes.substr(0, 8), std::string("KVNS\x02\x00\x00\x00", 8));
  EXPECT_EQ(bytes.substr(16), std::string("\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0", 24));
  const auto parsed = ParseNamespaceSettings(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, settings);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    EXPECT_EQ(ParseNamespaceSettings(flipped).ok(), i == 5) << "byte " << i;  // the minor version
    EXPECT_FALSE(ParseNamespaceSettings(bytes.substr(0, i)).ok());
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(ParseNamespaceSettings(SerializeNamespaceSettings({.capacity_bytes = -1})).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      ParseNamespaceSettings(SerializeNamespaceSettings({.revision = uint64_t{1} << 63})).status()));
  // Format 1 had no revision.
  std::string first = bytes;
  first[4] = 1;
  EXPECT_TRUE(absl::IsUnimplemented(ParseNamespaceSettings(first).status()));
}

}  // namespace
}  // namespace kvlink::engine
