#include "store/embedded/embedded.h"

#include <fstream>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/contract.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::store {
namespace {

using ::kvlink::testing::EntryOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::testing::HasSubstr;

using kvlink::testing::Patience;

EmbeddedOptions Small() {
  EmbeddedOptions options;
  options.dram_bytes = 32 << 20;
  options.capacity_bytes = 32 << 20;
  return options;
}

std::unique_ptr<Store> MustOpen(const std::string& path, const EmbeddedOptions& options = Small()) {
  auto store = OpenEmbedded(path, options);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

TEST(EmbeddedTest, SlabsOnPagesAreWrittenFromWhereTheyAre) {
  ScratchDirectory scratch;
  auto store = MustOpen(scratch.path());
  const Synthetic on_pages = MakeSynthetic(2), other = MakeSynthetic(4);
  ASSERT_TRUE(store->Put("ns", on_pages.manifest, on_pages.spans(), Patience()).ok());
  EXPECT_EQ(store->Stats()->bytes_written_in_place, on_pages.bytes());
  auto spans = other.spans();  // one slab off its page is enough
  std::vector<std::byte> memory(spans[1].size() + 8192);
  std::byte* const page = memory.data() + 4096 - reinterpret_cast<uintptr_t>(memory.data()) % 4096;
  std::copy(spans[1].begin(), spans[1].end(), page + 64);
  spans[1] = {page + 64, spans[1].size()};
  ASSERT_TRUE(store->Put("ns", other.manifest, spans, Patience()).ok());
  EXPECT_EQ(store->Stats()->bytes_written_in_place, on_pages.bytes());
  EXPECT_EQ(store->Stats()->bytes_written, on_pages.bytes() + other.bytes());
  store->DropDramTier();
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", on_pages).ok());
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", other).ok());
}

TEST(EmbeddedTest, OneProcessHoldsAStore) {
  ScratchDirectory scratch;
  const std::string path = scratch.path() + "/deep/er/store";
  EXPECT_TRUE(absl::IsNotFound(OpenEmbedded(path, {.create = false}).status()));
  auto store = MustOpen(path);
  const auto second = OpenEmbedded(path, Small());
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(absl::StrCat("process ", getpid())));
  EmbeddedOptions reading = Small();
  reading.read_only = true;
  EXPECT_TRUE(absl::IsUnavailable(OpenEmbedded(path, reading).status()));
}

TEST(EmbeddedTest, ReadOnlyLooksAndChangesNothing) {
  ScratchDirectory scratch;
  const Synthetic a = MakeSynthetic(1);
  {
    auto store = MustOpen(scratch.path());
    ASSERT_TRUE(store->Put("ns", a.manifest, a.spans(), Patience()).ok());
    ASSERT_TRUE(store->PutDocument("ns", "one", EntryOf({&a}, 1)).ok());
  }
  EmbeddedOptions reading = Small();
  reading.read_only = true;
  auto store = MustOpen(scratch.path(), reading);
  auto another = MustOpen(scratch.path(), reading);
  EXPECT_TRUE(ReadAndCompare(store.get(), "ns", a).ok());
  EXPECT_TRUE(ReadAndCompare(another.get(), "ns", a).ok());
  EXPECT_TRUE(store->GetDocument("ns", "one").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store->PutDocument("ns", "two", EntryOf({&a}, 1))));
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Put("ns", MakeSynthetic(2).manifest, {}, Patience()).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Remove("ns", a.manifest.identity)));
  EXPECT_TRUE(store->Verify({}).ok());
  store.reset();
  another.reset();
  EXPECT_TRUE(ReadAndCompare(MustOpen(scratch.path()).get(), "ns", a).ok());
}

TEST(EmbeddedTest, RefusesDirectoriesThatAreNoStore) {
  ScratchDirectory scratch;
  std::ofstream(scratch.path() + "/letters.txt") << "dear";
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenEmbedded(scratch.path(), Small()).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenEmbedded(scratch.path() + "/letters.txt", Small()).status()));
  ScratchDirectory versioned;
  MustOpen(versioned.path()).reset();
  {
    std::fstream file(versioned.path() + "/STORE", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4);
    file.put(9);
  }
  const auto opened = OpenEmbedded(versioned.path(), Small());
  EXPECT_TRUE(absl::IsUnimplemented(opened.status())) << opened.status();
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("9"));
}

class EmbeddedPlace : public testing::StorePlace {
 public:
  explicit EmbeddedPlace(const testing::StorePlaceOptions& options) {
    options_.dram_bytes = options.dram_bytes;
    options_.capacity_bytes = options.capacity_bytes;
    Reopen();
  }
  Store* store() override { return store_.get(); }
  void Reopen() override {
    store_ = nullptr;
    store_ = MustOpen(scratch_.path(), options_);
  }

 private:
  ScratchDirectory scratch_;
  EmbeddedOptions options_;
  std::unique_ptr<Store> store_;
};

}  // namespace
}  // namespace kvlink::store

std::vector<kvlink::testing::StoreMaker> kvlink::testing::StoresUnderTest() {
  return {
      {"embedded", [](const StorePlaceOptions& options) { return std::make_unique<store::EmbeddedPlace>(options); }}};
}
