// The index read in parts, and the table filled from it.
#include "store/engine/index/index.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "gtest/gtest.h"
#include "store/engine/index/log_check.h"
#include "store/engine/index/table.h"
#include "store/engine/index/table_loader.h"
#include "tests/store/synthetic.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::TestSeed;

Identity RandomIdentity(std::mt19937_64* random) {
  Identity identity;
  for (uint8_t& byte : identity.bytes) byte = static_cast<uint8_t>((*random)());
  return identity;
}

Location OneBlock(uint32_t block, uint64_t sequence) {
  Location location;
  location.tokens = 1;
  location.manifest_bytes = 100;
  location.bytes = 4096;
  location.sequence = sequence;
  location.runs = {{block, 1}};
  return location;
}

// Simulates a killed process: the index is copied while it is open.
void Commit(Index* index, int number) {
  IndexBatch batch(index);
  batch.PutMeta(absl::StrCat("name ", number), "value");
  ASSERT_TRUE(index->Commit(&batch).ok());
}

TEST(IndexTest, LogsThatAreNotNeededAreNotChecked) {
  ScratchDirectory scratch(/*in_memory=*/true);
  const std::string path = scratch.path() + "/index", copy = scratch.path() + "/copy";
  for (int life = 0; life < 3; ++life) {
    auto index = Index::Open(path, {.create = life == 0});
    ASSERT_TRUE(index.ok()) << index.status();
    for (int i = 0; i < 20; ++i) Commit(index->get(), i);
    if (life == 2) std::filesystem::copy(path, copy, std::filesystem::copy_options::recursive);
  }
  const FileSystem files(nullptr);
  const std::string current = *files.ReadWhole(copy + "/CURRENT", 100);
  const std::string manifest = *files.ReadWhole(copy + "/" + current.substr(0, current.size() - 1), 1 << 20);
  const uint64_t first = FirstLogNeeded(manifest);
  EXPECT_GT(first, 1u);
  // The last log is needed, and holds records; one that RocksDB had done with, and had not removed, ends torn.
  uint64_t last = 0;
  const std::vector<std::string> names = *files.List(copy);
  for (const std::string& name : names) {
    if (name.ends_with(".log")) last = std::strtoull(name.c_str(), nullptr, 10);
  }
  EXPECT_GE(last, first);
  ASSERT_TRUE(CheckLogs(files, copy).ok());
  const std::string retired = absl::StrCat(copy, "/", absl::Dec(first - 1, absl::kZeroPad6), ".log");
  std::ofstream(retired, std::ios::binary) << "torn, as a full disk leaves it";
  EXPECT_EQ(CheckLogs(files, copy), absl::OkStatus());
  EXPECT_TRUE(Index::Open(copy, {}).ok());
  // The same under the number of a log that is needed is damage.
  std::filesystem::remove_all(copy);
  {
    auto index = Index::Open(path, {});
    ASSERT_TRUE(index.ok());
    for (int i = 0; i < 20; ++i) Commit(index->get(), i);
    std::filesystem::copy(path, copy, std::filesystem::copy_options::recursive);
  }
  const std::vector<std::string> live = *files.List(copy);
  for (const std::string& name : live) {
    if (!name.ends_with(".log")) continue;
    std::fstream stream(copy + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(20);
    stream.put('!');
  }
  EXPECT_TRUE(absl::IsDataLoss(CheckLogs(files, copy)));
}

TEST(IndexTest, AManifestIsCutOnlyWhereNothingFollowsTheDamage) {
  ScratchDirectory scratch(/*in_memory=*/true);
  const std::string path = scratch.path() + "/index";
  for (int life = 0; life < 2; ++life) {
    auto index = Index::Open(path, {.create = life == 0});
    ASSERT_TRUE(index.ok()) << index.status();
    Commit(index->get(), life);
  }
  const FileSystem files(nullptr);
  const std::string current = *files.ReadWhole(path + "/CURRENT", 100);
  const std::string manifest = path + "/" + current.substr(0, current.size() - 1);
  const std::string intact = *files.ReadWhole(manifest, 1 << 20);
  const auto damage = [&](int64_t at) {
    std::string bytes = intact;
    bytes[at] ^= 1;
    std::ofstream(manifest, std::ios::binary) << bytes;
    return bytes;
  };
  // No mark: a lost FLOOR has none, and what follows the last one is not covered.
  const std::string first = damage(10);
  const absl::Status refused = CutTornManifest(files, path, 0, 0, /*read_only=*/false);
  EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  EXPECT_EQ(*files.ReadWhole(manifest, 1 << 20), first) << "it was cut";
  // A last record that fails its check is what a crash leaves.
  damage(static_cast<int64_t>(intact.size()) - 1);
  EXPECT_EQ(CutTornManifest(files, path, 0, 0, /*read_only=*/false), absl::OkStatus());
  const std::string cut = *files.ReadWhole(manifest, 1 << 20);
  EXPECT_LT(cut.size(), intact.size());
  EXPECT_EQ(cut, intact.substr(0, cut.size()));
}

TEST(IndexTest, ACompactionRaisesTheMarkOfTheManifest) {
  ScratchDirectory scratch(/*in_memory=*/true);
  Mutex mutex;
  CondVar told;
  int compactions = 0;
  Index::Options options;
  options.create = true;
  options.flushed = [&](uint64_t sequence, const DurableManifest::State& manifest) {
    MutexLock lock(&mutex);
    compactions += sequence == 0 && manifest.bytes > 0;
    told.SignalAll();
  };
  // Each life leaves a table; four of them are compacted.
  for (int life = 0; life < 6; ++life) {
    auto index = Index::Open(scratch.path() + "/index", options);
    ASSERT_TRUE(index.ok()) << index.status();
    Commit(index->get(), life);
    if (life < 5) continue;
    MutexLock lock(&mutex);
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    while (compactions == 0 && told.WaitUntil(&mutex, limit)) {
    }
  }
  EXPECT_GE(compactions, 1);
}

TEST(IndexTest, PartsTogetherAreAll) {
  std::mt19937_64 random(TestSeed());
  ScratchDirectory scratch(/*in_memory=*/true);
  auto index = Index::Open(scratch.path() + "/index", {.create = true});
  ASSERT_TRUE(index.ok()) << index.status();
  // Names that begin alike, the shortest and the longest, and what lies at the ends of the parts.
  const std::vector<std::string> namespaces = {"a", "aa", "a~", "b", std::string(255, 'z'), "\xc3\xa9", "~"};
  std::set<EncodingKey> all;
  IndexBatch batch(index->get());
  for (int i = 0; i < 500; ++i) {
    EncodingKey key{namespaces[random() % namespaces.size()], RandomIdentity(&random)};
    if (i % 10 == 0) key.identity.bytes[0] = i % 20 == 0 ? 0x80 : 0x7f;
    if (i % 25 == 0) key.identity.bytes[0] = i % 50 == 0 ? 0 : 0xff;
    if (i % 7 == 0) key.codec = Codec::kQ8;
    all.insert(key);
    batch.PutEncoding(key, OneBlock(i + 1, i + 1));
  }
  ASSERT_TRUE((*index)->Commit(&batch).ok());
  for (const int shards : {1, 2, 3, 8, 256}) {
    std::set<EncodingKey> found;
    size_t most = 0;
    for (int shard = 0; shard < shards; ++shard) {
      const size_t before = found.size();
      const absl::Status scanned =
          (*index)->ScanLocations(shard, shards, [&](const KeyView& key, const absl::StatusOr<Location>& location) {
            EXPECT_TRUE(location.ok());
            EXPECT_TRUE(found.insert(key.ToKey()).second) << "given twice";
          });
      ASSERT_TRUE(scanned.ok()) << scanned;
      most = std::max(most, found.size() - before);
    }
    EXPECT_EQ(found, all) << shards << " parts";
    EXPECT_LT(most, 500u / shards + 100) << "parts are of about the same size";
  }
  std::vector<EncodingKey> listed;
  for (std::optional<EncodingKey> after;;) {
    const auto keys = (*index)->KeysAfter(after, 64);
    ASSERT_TRUE(keys.ok());
    if (keys->empty()) break;
    listed.insert(listed.end(), keys->begin(), keys->end());
    after = keys->back();
  }
  EXPECT_EQ(std::set<EncodingKey>(listed.begin(), listed.end()), all);
  EXPECT_EQ(listed.size(), all.size());
}

// The loader's decisions against the plainest ones.
TEST(TableLoaderTest, AgreesWithAMapOfBlocks) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 50; ++round) {
    const std::vector<engine::Run> usable = {{1, 200}, {257, 255}, {1025, 100}};
    std::map<EncodingKey, Location> records;
    const int count = 1 + static_cast<int>(random() % 120);
    uint32_t next = 1;
    for (int i = 0; i < count; ++i) {
      Location location = OneBlock(0, i + 1);
      location.runs.clear();
      int64_t blocks = 0;
      for (uint64_t r = 0; r < 1 + random() % 3; ++r) {
        engine::Run run{next, static_cast<uint32_t>(1 + random() % 3)};
        if (random() % 40 == 0) run.first = static_cast<uint32_t>(random() % 1200);  // anywhere
        location.runs.push_back(run);
        blocks += run.count;
        next = run.first + run.count + random() % 2;
        if (next > 195 && next < 257) next = 257;
        if (next > 500 && next < 1025) next = 1025;
      }
      location.bytes = blocks * kSegmentBlockBytes - location.manifest_area();
      records[{random() % 2 == 0 ? "a" : "b", RandomIdentity(&random)}] = location;
    }
    std::map<uint32_t, int> claims;
    std::set<uint32_t> usable_blocks;
    for (const engine::Run& run : usable) {
      for (uint32_t b = run.first; b < run.first + run.count; ++b) usable_blocks.insert(b);
    }
    for (const auto& [key, location] : records) {
      for (const engine::Run& run : location.runs) {
        for (uint32_t b = run.first; b < run.first + run.count; ++b) ++claims[b];
      }
    }
    std::set<EncodingKey> twice, astray;
    int64_t free = static_cast<int64_t>(usable_blocks.size());
    for (const auto& [key, location] : records) {
      bool is_twice = false, is_astray = false;
      for (const engine::Run& run : location.runs) {
        for (uint32_t b = run.first; b < run.first + run.count; ++b) {
          is_twice |= claims[b] > 1;
          is_astray |= !usable_blocks.contains(b);
        }
      }
      if (is_twice) {
        twice.insert(key);
      } else if (is_astray) {
        astray.insert(key);
      } else {
        free -= location.blocks();
      }
    }

    Table table;
    TableLoader loader(&table, 2);
    std::vector<std::thread> threads;
    for (int shard = 0; shard < 2; ++shard) {
      threads.emplace_back([&, shard] {
        int i = 0;
        for (const auto& [key, location] : records) {
          if (i++ % 2 == shard) loader.Add(shard, {key.ns, key.identity, key.codec}, location);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const TableLoader::Outcome outcome = loader.Finish(usable, 256);
    EXPECT_EQ(std::set<EncodingKey>(outcome.claimed_twice.begin(), outcome.claimed_twice.end()), twice);
    std::set<EncodingKey> outside(outcome.astray.begin(), outcome.astray.end());
    outside.insert(outcome.missing.begin(), outcome.missing.end());
    EXPECT_EQ(outside, astray);
    std::set<uint32_t> segments;
    for (const engine::Run& run : usable) segments.insert(run.first / 256);
    for (const EncodingKey& key : outcome.missing) {
      const auto& runs = records[key].runs;
      EXPECT_TRUE(std::any_of(runs.begin(), runs.end(),
                              [&](const engine::Run& run) { return !segments.contains(run.first / 256); }));
    }
    for (const uint32_t segment : outcome.missing_segments) EXPECT_FALSE(segments.contains(segment));
    EXPECT_EQ(outcome.last_sequence, static_cast<uint64_t>(count));
    ASSERT_EQ(table.free_blocks(), free);
    ASSERT_EQ(table.size(), static_cast<int64_t>(records.size() - twice.size() - astray.size()));
    for (const auto& [key, location] : records) {
      const auto found = table.Find(key);
      ASSERT_EQ(found.has_value(), !twice.contains(key) && !astray.contains(key));
      if (found.has_value()) {
        EXPECT_EQ(found->sequence, location.sequence);
      }
    }
    // The oldest leave first.
    for (const std::string ns : {"a", "b"}) {
      uint64_t last = 0;
      for (const EncodingKey& key : table.PickOf(ns, 1000000)) {
        EXPECT_GT(table.Find(key)->sequence, last);
        last = table.Find(key)->sequence;
        table.Remove(key);
      }
    }
    EXPECT_EQ(table.size(), 0);
    EXPECT_EQ(table.bytes(), 0);
    EXPECT_EQ(table.free_blocks(), static_cast<int64_t>(usable_blocks.size()));
    for (const engine::Run& run : usable) EXPECT_TRUE(table.Allocate("c", run.count).has_value()) << "all merged again";
  }
}

}  // namespace
}  // namespace kvlink::engine
