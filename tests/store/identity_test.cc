// Who a store is, and its clock: numbers that only grow, whatever is done to the wall clock and to the directory.
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "base/little_endian.h"
#include "gtest/gtest.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"
#include "tests/store/synthetic.h"

namespace kvlink::engine {
namespace {

using ::kvlink::testing::EntryOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;

class IdentityTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Engine> Open(const std::string& path, bool read_only = false) {
    EngineOptions options;
    options.dram_bytes = 4 << 20;
    options.capacity_bytes = 4 << 20;
    options.read_only = read_only;
    auto opened = Engine::Open(path, options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  // Puts a record into the index of a store that is not open, as an opening under another wall clock would have.
  void SetNumber(absl::string_view name, const std::string& value) const {
    auto index = Index::Open(scratch_.path() + "/index", {});
    ASSERT_TRUE(index.ok()) << index.status();
    IndexBatch batch(index->get());
    batch.PutMeta(name, value);
    ASSERT_TRUE((*index)->Commit(&batch).ok());
  }
  static std::string Number(uint64_t number) {
    std::string value;
    AppendField<uint64_t>(number, &value);
    return value;
  }
  static uint64_t WallClock() { return static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())); }

  const ScratchDirectory scratch_{/*in_memory=*/true};
};

TEST_F(IdentityTest, TheIncarnationGrowsAndTheNodeStays) {
  auto engine = Open(scratch_.path());
  ASSERT_NE(engine, nullptr);
  const NodeId id = engine->id();
  uint64_t last = engine->incarnation();
  EXPECT_GT(last, 0u);
  for (int i = 0; i < 3; ++i) {
    engine = nullptr;
    engine = Open(scratch_.path());
    EXPECT_EQ(engine->id(), id);
    EXPECT_GT(engine->incarnation(), last);
    last = engine->incarnation();
  }
  engine = nullptr;
  // The wall clock was set back by a century.
  const uint64_t ahead = WallClock() + uint64_t{100} * 365 * 86400 * 1000000;
  SetNumber("incarnation", Number(ahead));
  EXPECT_EQ(Open(scratch_.path())->incarnation(), ahead + 1);
  EXPECT_EQ(Open(scratch_.path())->incarnation(), ahead + 2);
  // Who only looks leaves no trace.
  (void)Open(scratch_.path(), /*read_only=*/true);
  EXPECT_EQ(Open(scratch_.path())->incarnation(), ahead + 3);
}

TEST_F(IdentityTest, ACopyOfTheDirectoryIsAnotherIncarnation) {
  const ScratchDirectory copy(/*in_memory=*/true);
  const NodeId id = Open(scratch_.path())->id();
  std::filesystem::copy(scratch_.path(), copy.path() + "/store", std::filesystem::copy_options::recursive);
  const auto first = Open(scratch_.path()), second = Open(copy.path() + "/store");
  EXPECT_EQ(first->id(), id);
  EXPECT_EQ(second->id(), id);
  EXPECT_NE(first->incarnation(), second->incarnation());
}

TEST_F(IdentityTest, TheClockDoesNotGoBackBehindWhatIsWritten) {
  const auto a = MakeSynthetic(1), b = MakeSynthetic(2);
  auto engine = Open(scratch_.path());
  const uint64_t before = engine->Now();
  EXPECT_GE(before + 1000000, WallClock());
  EXPECT_GT(engine->Now(), before);
  ASSERT_TRUE(engine->PutEntry("ns", "one", EntryOf({&a}, 1)).ok());
  engine = nullptr;
  const uint64_t ahead = WallClock() + uint64_t{100} * 365 * 86400 * 1000000;
  SetNumber("time", Number(ahead));
  engine = Open(scratch_.path());
  ASSERT_TRUE(engine->PutEntry("ns", "two", EntryOf({&a}, 1)).ok());
  EXPECT_EQ(engine->GetEntry("ns", "two")->written_at_us, ahead + 1);
  engine = nullptr;
  // By the entry alone: nobody asked for the time since.
  engine = Open(scratch_.path());
  ASSERT_TRUE(engine->PutEntry("ns", "one", EntryOf({&b}, 2)).ok());
  EXPECT_EQ(engine->GetEntry("ns", "one")->written_at_us, ahead + 2);
  CatalogEntry tombstone;
  tombstone.tombstone = true;
  const auto deleted = engine->PutEntries("ns", {Engine::EntryPut{"one", &tombstone}});
  ASSERT_TRUE(deleted.ok() && (*deleted)[0].ok());
  EXPECT_EQ(*(*deleted)[0], ahead + 3) << "the generation that was given";
}

TEST_F(IdentityTest, ADamagedNumberIsAnErrorThatSaysWhatToDo) {
  for (const char* name : {"incarnation", "time"}) {
    Open(scratch_.path());
    SetNumber(name, "short");
    EngineOptions options;
    options.dram_bytes = 4 << 20;
    const absl::Status status = Engine::Open(scratch_.path(), options).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(name), absl::string_view::npos) << status;
    SetNumber(name, Number(1));
  }
}

}  // namespace
}  // namespace kvlink::engine
