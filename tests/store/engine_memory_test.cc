// The DRAM tier's memory as the engine uses it: chunks move between namespaces under its reads.
#include <unistd.h>

#include <map>
#include <random>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "tests/store/synthetic.h"
#include "tests/store/told_memory.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::kSanitized;
using kvlink::testing::MakeSynthetic;
using kvlink::testing::ScratchDirectory;
using kvlink::testing::Slab;
using kvlink::testing::SlabAllocator;
using kvlink::testing::Soak;
using kvlink::testing::Synthetic;
using kvlink::testing::TestSeed;
using kvlink::testing::ToldMemory;

constexpr int64_t kMiB = int64_t{1} << 20;

class EngineMemoryTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Memory, EngineMemoryTest, ::testing::Bool(), [](const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "Shared" : "Anonymous";
});

// Registrations with the kernel come and go with the memory.
TEST_P(EngineMemoryTest, ReadsArriveInMemoryThatMovedAround) {
  std::mt19937_64 random(TestSeed());
  ScratchDirectory scratch(true);
  std::map<uint32_t, TierMemory> memories;
  EngineOptions options;
  options.dram_bytes = 8 * kMiB;  // 16 chunks for 20 namespaces
  options.capacity_bytes = 256 * kMiB;
  options.share_memory = GetParam();
  ToldMemory told;
  options.chunk_ready = [&told](const TierChunk& chunk) { told.Add(chunk); };
  options.memory_added = [&memories](const TierMemory& memory) { memories[memory.number] = memory; };
  auto engine = Engine::Open(scratch.path(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<Synthetic> encodings;
  for (int i = 0; i < 4; ++i) encodings.push_back(MakeSynthetic(i, 2, 700));
  const auto name = [](int i) { return absl::StrCat("ns", i); };
  for (int i = 0; i < 20; ++i) {
    for (const auto& encoding : encodings)
      ASSERT_TRUE((*engine)->Put(name(i), encoding.manifest, encoding.spans(), absl::InfiniteFuture()).ok());
  }
  for (int i = 0; i < (Soak() ? 10000 : kSanitized ? 250 : 1000); ++i) {
    const auto& encoding = encodings[random() % 4];
    const auto lease =
        (*engine)->Read({name(static_cast<int>(random() % 20)), encoding.manifest.identity, Codec::kRawBf16},
                        encoding.manifest.etag, SteadyNow() + absl::Seconds(60));
    ASSERT_TRUE(lease.ok()) << lease.status();
    for (int64_t layer = 0; layer < 2; ++layer) {
      const absl::Status arrived = (*lease)->WaitLayer(layer, SteadyNow() + absl::Seconds(60));
      ASSERT_TRUE(arrived.ok()) << arrived << "; " << (*engine)->Stats().io;
      ASSERT_EQ((*lease)->layer(layer), absl::MakeConstSpan(encoding.slabs[layer]));
      const TierMemory& memory = memories.at((*lease)->place(layer).memory);
      ASSERT_EQ(told.At((*lease)->place(layer)), (*lease)->layer(layer).data());
      if (!GetParam()) continue;
      Slab seen(encoding.slabs[layer].size(), std::byte{0}, SlabAllocator<std::byte>(true));
      ASSERT_EQ(pread(memory.descriptor, seen.data(), seen.size(), (*lease)->place(layer).offset),
                static_cast<ssize_t>(seen.size()));
      ASSERT_EQ(seen, encoding.slabs[layer]);
      uint64_t generation = 0;
      ASSERT_EQ(pread((*engine)->generations_descriptor(), &generation, 8,
                      static_cast<off_t>((*lease)->generation_slot() * 8)),
                8);
      ASSERT_EQ(generation, (*lease)->generation());
    }
  }
  EXPECT_GE(memories.size(), 20u);
  EXPECT_GT((*engine)->Stats().dram_evictions, 100);
  // A store that is opened takes memory for those that are read, and for nobody else.
  engine->reset();
  memories.clear();
  ASSERT_TRUE((engine = Engine::Open(scratch.path(), options)).ok());
  EXPECT_TRUE(memories.empty());
  EXPECT_TRUE((*engine)
                  ->Read({name(7), encodings[0].manifest.identity, Codec::kRawBf16}, encodings[0].manifest.etag,
                         SteadyNow() + absl::Seconds(60))
                  .ok());
  ASSERT_EQ(memories.size(), 1u);
  EXPECT_EQ(memories.begin()->second.ns, name(7));
}

}  // namespace
}  // namespace kvlink::engine
