// The arithmetic of the CUDA backend's schedule, on the host: every key that a row sees is computed once, shared
// segments are read once, slots follow one another.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "kernels/cuda/attention/attention_plan.h"
#include "kernels/rope.h"
#include "tests/support/seed.h"

namespace kvlink::kernels::cuda {
namespace {

// A batch with its memory.
struct Batch {
  std::vector<int64_t> positions;
  std::vector<KvSegment> segments;
  std::vector<KvRead> reads;
  std::vector<std::vector<int64_t>> token_positions;
  Rope rope = MakeRope({.rotary_dim = 64}).value();
  const Rope* ropes[1] = {&rope};
  AttentionBatch view() const { return {positions, segments, reads, ropes}; }
};

// Requests of 1 to `max_rows` rows that share documents, each with private KV of its own.
Batch RandomBatch(std::mt19937_64& random, int64_t max_rows) {
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  Batch batch;
  const int64_t documents = between(0, 6), requests = between(1, 4);
  for (int64_t i = 0; i < documents; ++i) {
    KvSegment segment;
    segment.codec = random() % 4 == 0 ? Codec::kRawF32 : Codec::kRawBf16;
    segment.tokens = between(0, 900);
    batch.segments.push_back(segment);
  }
  for (int64_t r = 0; r < requests; ++r) {
    const int64_t begin = static_cast<int64_t>(batch.positions.size()), rows = between(1, max_rows);
    int64_t position = between(0, 500);
    std::vector<int64_t> own;
    for (int64_t i = 0; i < rows; ++i) own.push_back(position += between(1, 3));
    batch.positions.insert(batch.positions.end(), own.begin(), own.end());
    for (int64_t i = 0; i < documents; ++i) {
      if (random() % 3 == 0) continue;
      batch.reads.push_back({static_cast<int32_t>(i), begin, rows, between(-100, 1000), nullptr});
    }
    KvSegment segment;
    segment.codec = Codec::kRawBf16;
    segment.tokens = rows;
    batch.token_positions.push_back(own);
    segment.positions = batch.token_positions.back().data();
    batch.reads.push_back({static_cast<int32_t>(batch.segments.size()), begin, rows, 0, nullptr});
    batch.segments.push_back(segment);
  }
  std::stable_sort(batch.reads.begin(), batch.reads.end(),
                   [](const KvRead& a, const KvRead& b) { return a.segment < b.segment; });
  return batch;
}

int64_t Sees(const Batch& batch, const KvRead& read, int64_t row) {
  const KvSegment& segment = batch.segments[static_cast<size_t>(read.segment)];
  const int64_t position = batch.positions[static_cast<size_t>(row)];
  int64_t count = 0;
  for (int64_t j = 0; j < segment.tokens; ++j) {
    count += (segment.positions != nullptr ? segment.positions[j] : read.offset + j) <= position ? 1 : 0;
  }
  return count;
}

// Every (row, read, block) that the items of one list compute, and what wrote each slot.
struct Work {
  std::multiset<std::tuple<int32_t, int32_t, int32_t>> blocks;      // row, read, block
  std::map<int32_t, std::set<std::tuple<int32_t, int32_t>>> slots;  // -> row, first block's read
};

void Collect(const CudaPlan& plan, const Batch& batch, bool scalar, int size, Work* work) {
  for (const AttentionItem& item : plan.items(scalar, size)) {
    const AttentionUnit& unit = plan.units()[static_cast<size_t>(item.unit)];
    ASSERT_EQ(item.first_entry % (1 << size), 0);
    for (int32_t e = item.first_entry; e < std::min(unit.entries, item.first_entry + (1 << size)); ++e) {
      for (int64_t s = unit.steps_begin; s < unit.steps_begin + unit.steps; ++s) {
        const AttentionStep& step = plan.steps()[static_cast<size_t>(s)];
        int32_t row = unit.row_begin + e, read = step.read, slot = unit.slot_begin + e;
        int64_t end = 0;
        if (unit.streamed == 0) {
          const AttentionEntry& entry = plan.entries()[static_cast<size_t>(unit.entries_begin + e)];
          row = entry.row, read = entry.read, slot = entry.slot, end = entry.end;
          EXPECT_EQ(end, Sees(batch, batch.reads[static_cast<size_t>(read)], row));
        } else {
          end = Sees(batch, batch.reads[static_cast<size_t>(read)], row);
        }
        ASSERT_EQ(batch.reads[static_cast<size_t>(read)].segment, step.segment);
        for (int32_t block = step.block_begin; block < step.block_end && block * kBlockTokens < end; ++block) {
          work->blocks.insert({row, read, block});
        }
        work->slots[slot].insert({row, unit.streamed == 0 ? step.block_begin : -1});
      }
    }
  }
}

TEST(CudaPlanTest, EveryVisibleKeyIsComputedOnce) {
  std::mt19937_64 random(testing::TestSeed());
  CudaPlan plan;  // used again and again
  for (int i = 0; i < 120 && !::testing::Test::HasFailure(); ++i) {
    const Batch batch = RandomBatch(random, i % 4 == 0 ? 400 : 20);
    ASSERT_TRUE(plan.Build(batch.view(), nullptr).ok());
    std::multiset<std::tuple<int32_t, int32_t, int32_t>> expected;
    for (size_t r = 0; r < batch.reads.size(); ++r) {
      const KvRead& read = batch.reads[r];
      for (int64_t row = read.row_begin; row < read.row_begin + read.row_count; ++row) {
        for (int64_t block = 0; block * kBlockTokens < Sees(batch, read, row); ++block) {
          expected.insert({static_cast<int32_t>(row), static_cast<int32_t>(r), static_cast<int32_t>(block)});
        }
      }
    }
    for (int size = 0; size < kItemSizes; ++size) {
      Work work;
      Collect(plan, batch, false, size, &work);
      Collect(plan, batch, true, size, &work);
      EXPECT_EQ(work.blocks, expected);
      // Each slot is one row's, and written once.
      ASSERT_EQ(static_cast<int64_t>(work.slots.size()), plan.slots());
      for (const auto& [slot, writers] : work.slots) {
        ASSERT_EQ(writers.size(), 1u);
        const size_t row = static_cast<size_t>(std::get<0>(*writers.begin()));
        EXPECT_LE(plan.row_slots()[row], slot);
        EXPECT_GT(plan.row_slots()[row + 1], slot);
      }
    }
  }
}

// f32 segments are not given to tensor cores.
TEST(CudaPlanTest, F32SegmentsGoToTheKernelInF32) {
  std::mt19937_64 random(testing::TestSeed() + 1);
  for (int i = 0; i < 40; ++i) {
    const Batch batch = RandomBatch(random, i % 2 == 0 ? 300 : 9);
    CudaPlan plan;
    ASSERT_TRUE(plan.Build(batch.view(), nullptr).ok());
    for (const AttentionItem& item : plan.items(/*scalar=*/false, 0)) {
      const AttentionUnit& unit = plan.units()[static_cast<size_t>(item.unit)];
      for (int64_t s = unit.steps_begin; s < unit.steps_begin + unit.steps; ++s) {
        const int32_t segment = plan.steps()[static_cast<size_t>(s)].segment;
        EXPECT_EQ(batch.segments[static_cast<size_t>(segment)].codec, Codec::kRawBf16);
      }
    }
  }
}

TEST(CudaPlanTest, ASharedSplitIsOneUnit) {
  Batch batch;
  KvSegment document;
  document.codec = Codec::kRawBf16;
  document.tokens = 600;
  batch.segments = {document};
  for (int64_t row = 0; row < 12; ++row) {
    batch.positions.push_back(5000 + row);
    batch.reads.push_back({0, row, 1, 100 * row, nullptr});
  }
  CudaPlan plan;
  ASSERT_TRUE(plan.Build(batch.view(), nullptr).ok());
  ASSERT_EQ(plan.units().size(), 3u);  // splits of 256, 256 and 88 tokens
  for (const AttentionUnit& unit : plan.units()) EXPECT_EQ(unit.entries, 12);
  EXPECT_EQ(plan.slots(), 36);
  // Four heads of a kv head: 16 entries fill a tile, so each split is one item.
  EXPECT_EQ(ItemSize(4), 4);
  EXPECT_EQ(plan.items(false, ItemSize(4)).size(), 3u);
}

TEST(CudaPlanTest, ManyRowsOrManySplitsAreStreamed) {
  const auto slots_of = [](int64_t rows, int64_t tokens) {
    Batch batch;
    KvSegment document;
    document.codec = Codec::kRawBf16;
    document.tokens = tokens;
    batch.segments = {document};
    for (int64_t row = 0; row < rows; ++row) batch.positions.push_back(tokens + row);
    batch.reads = {{0, 0, rows, 0, nullptr}};
    CudaPlan plan;
    EXPECT_TRUE(plan.Build(batch.view(), nullptr).ok());
    return plan.slots();
  };
  EXPECT_EQ(slots_of(kMaxDeferredRows, 1024), kMaxDeferredRows * 4);
  EXPECT_EQ(slots_of(kMaxDeferredRows + 1, 1024), kMaxDeferredRows + 1);
  EXPECT_EQ(slots_of(64, kSplitTokens * kMaxDeferredSlots / 64), kMaxDeferredSlots);
  EXPECT_EQ(slots_of(64, kSplitTokens * kMaxDeferredSlots / 64 + 1), 64);
}

TEST(CudaPlanTest, ItemsFillATileAndNoMore) {
  for (int64_t group = 1; group <= 200; ++group) {
    const int64_t entries = int64_t{1} << ItemSize(group);
    if (group <= kTileRows) {
      EXPECT_LE(entries * group, kTileRows) << group;
      EXPECT_TRUE(2 * entries * group > kTileRows || ItemSize(group) == kItemSizes - 1) << group;
    } else {
      EXPECT_EQ(entries, 1) << group;
    }
  }
}

// Layers arrive while earlier ones are computed: their addresses may come after the plan.
TEST(CudaPlanTest, AddressesThatChangeArriveAtTheLaunch) {
  Batch batch;
  std::byte first[4], second[4];
  const std::byte* layers[2] = {first, nullptr};
  KvSegment document;
  document.codec = Codec::kRawBf16;
  document.tokens = 3;
  document.layer_data = layers;
  batch.segments = {document};
  batch.positions = {5};
  batch.reads = {{0, 0, 1, 0, nullptr}};
  CudaPlan plan;
  ASSERT_TRUE(plan.Build(batch.view(), nullptr).ok());
  CudaStream stream(0);
  const auto address = [&](int64_t layer) {
    const void* const* on_device = plan.LayerData(stream, layer).value();
    EXPECT_TRUE(stream.Synchronize().ok());
    return *on_device;
  };
  EXPECT_EQ(address(0), first);
  layers[1] = second;
  EXPECT_EQ(address(1), second);
  EXPECT_EQ(address(0), first);
}

}  // namespace
}  // namespace kvlink::kernels::cuda
