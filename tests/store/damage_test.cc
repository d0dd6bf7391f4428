// A byte flipped anywhere in a store's files: reading returns right bytes, a miss or a clear error, and verify agrees.
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "store/engine/index/index.h"
#include "tests/store/synthetic.h"
#include "tests/support/faulty_io.h"
#include "tests/support/seed.h"

namespace kvlink::store {
namespace {

namespace fs = std::filesystem;
using ::kvlink::testing::ContentOf;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FaultyIo;
using ::kvlink::testing::kSanitized;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Soak;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;

constexpr int kDocuments = 12;

absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path) {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 8 << 20;
  auto opened = engine::Engine::Open(path, options);
  if (!opened.ok()) return opened.status();
  return StoreOver(*std::move(opened));
}

Synthetic Encoding(int document) { return MakeSynthetic(document, 2, document % 4 == 0 ? 700 : 40); }
CatalogEntry Entry(int document) {
  const Synthetic encoding = Encoding(document);
  return EntryOf({&encoding}, 1, absl::StrCat("title ", document));
}

void Fill(Store* store, int first, int last) {
  for (int i = first; i < last; ++i) {
    const Synthetic encoding = Encoding(i);
    ASSERT_TRUE(store->Put("ns", encoding.manifest, encoding.spans(), absl::InfiniteFuture()).ok());
    ASSERT_TRUE(store->PutDocument("ns", absl::StrCat("doc ", i), Entry(i)).ok());
  }
}

// Copies all that matters of a store; reserved space and RocksDB's own log do not.
void Copy(const std::string& from, const std::string& to) {
  for (const auto& item : fs::recursive_directory_iterator(from)) {
    const fs::path target = fs::path(to) / fs::relative(item.path(), from);
    if (item.is_directory()) {
      fs::create_directories(target);
    } else if (item.path().filename() != "reserve") {
      fs::copy_file(item.path(), target);
    }
  }
}

std::vector<fs::path> Files(const std::string& path) {
  std::vector<fs::path> files;
  for (const auto& item : fs::recursive_directory_iterator(path)) {
    const std::string name = item.path().filename();
    if (item.is_regular_file() && fs::file_size(item.path()) > 0 && name != "LOCK" && name != "reserve" &&
        name.rfind("LOG", 0) != 0) {
      files.push_back(item.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Permitted answers of the whole store after one byte was flipped. `lost_tail`: how many of the last documents may be
// missing.
absl::Status CheckFlipped(const std::string& path, int lost_tail) {
  auto store = Open(path);
  if (!store.ok()) {
    const bool clear = absl::IsDataLoss(store.status()) || absl::IsUnimplemented(store.status()) ||
                       absl::IsFailedPrecondition(store.status());
    return clear && store.status().message().find('\n') == absl::string_view::npos
               ? absl::OkStatus()
               : absl::InternalError(absl::StrCat("unclear: ", store.status().ToString()));
  }
  const auto before = (*store)->Stats();
  const auto report = (*store)->Verify({});
  const int64_t reported =
      static_cast<int64_t>(report.ok() ? report->damaged.size() + report->index_problems.size() : 1) +
      before->integrity_failures;
  int64_t missing = 0;
  for (int i = 0; i < kDocuments; ++i) {
    const auto got = (*store)->GetDocument("ns", absl::StrCat("doc ", i));
    if (got.ok() && ContentOf(*got) != ContentOf(Entry(i))) return absl::InternalError("WRONG ENTRY");
    if (absl::IsNotFound(got.status()) && i < kDocuments - lost_tail) {
      return absl::InternalError(absl::StrCat("document ", i, " is silently gone"));
    }
    if (!got.ok()) ++missing;
    const absl::Status status = ReadAndCompare(store->get(), "ns", Encoding(i));
    if (absl::IsInternal(status)) return status;
    if (!status.ok() && (reported == 0 || !absl::IsNotFound(status)) && i < kDocuments - lost_tail) {
      return absl::InternalError(absl::StrCat("encoding ", i, " after verify: ", status.ToString()));
    }
  }
  if (missing > lost_tail && reported == 0) return absl::InternalError("verify found nothing");
  return absl::OkStatus();
}

void FlipMany(const std::string& original, int flips, int lost_tail) {
  std::mt19937_64 random(TestSeed());
  const std::vector<fs::path> files = Files(original);
  for (int i = 0; i < flips; ++i) {
    ScratchDirectory copy(/*in_memory=*/true);
    Copy(original, copy.path());
    const fs::path file = fs::path(copy.path()) / fs::relative(files[i % files.size()], original);
    const int64_t size = static_cast<int64_t>(fs::file_size(file));
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    int64_t offset = 0;
    int byte = 0;
    // Prefer bytes that say something.
    for (int tries = 0; tries < 64 && byte == 0; ++tries) {
      offset = static_cast<int64_t>(random() % size);
      stream.seekg(offset);
      byte = stream.get();
    }
    stream.seekp(offset);
    stream.put(static_cast<char>(byte ^ (1 << random() % 8)));
    stream.close();
    const absl::Status status = CheckFlipped(copy.path(), lost_tail);
    ASSERT_TRUE(status.ok()) << fs::relative(file, copy.path()) << " byte " << offset << ": " << status;
  }
}

TEST(DamageTest, AByteFlippedInAClosedStore) {
  ScratchDirectory scratch(true);
  {
    auto store = Open(scratch.path());
    ASSERT_TRUE(store.ok());
    Fill(store->get(), 0, kDocuments);
  }
  FlipMany(scratch.path(), Soak() ? 2000 : kSanitized ? 24 : 60, 0);
}

TEST(DamageTest, AByteFlippedInAStoreThatCrashed) {
  ScratchDirectory scratch(true), crashed(true);
  {
    auto store = Open(scratch.path());
    ASSERT_TRUE(store.ok());
    Fill(store->get(), 0, kDocuments);
    Copy(scratch.path(), crashed.path());  // what a killed process leaves
  }
  // The log's last record looks the same torn as damaged.
  FlipMany(crashed.path(), Soak() ? 2000 : kSanitized ? 24 : 60, 1);
}

TEST(DamageTest, AFloorThatIsLostStaysSoUntilVerifyNamesIt) {
  for (const bool missing : {false, true}) {
    ScratchDirectory scratch(true);
    const std::string floor = scratch.path() + "/FLOOR";
    {
      auto store = Open(scratch.path());
      ASSERT_TRUE(store.ok());
      Fill(store->get(), 0, 1);
      EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::IsEmpty());
    }
    if (missing) {
      fs::remove(floor);
    } else {
      std::fstream stream(floor, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(static_cast<std::streamoff>(fs::file_size(floor)) - 1);
      stream.put('\x55');
    }
    ASSERT_TRUE(Open(scratch.path()).ok()) << "its data is whole";
    auto store = Open(scratch.path());
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::ElementsAre(::testing::HasSubstr(floor)));
    EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::IsEmpty());
    store->reset();
    EXPECT_TRUE(fs::exists(floor));
    EXPECT_THAT((*Open(scratch.path()))->Verify({})->index_problems, ::testing::IsEmpty());
  }
}

TEST(DamageTest, ASegmentThatWasCutIsNamedWithItsLength) {
  ScratchDirectory scratch(true);
  {
    auto store = Open(scratch.path());
    ASSERT_TRUE(store.ok());
    Fill(store->get(), 0, kDocuments);
  }
  fs::resize_file(scratch.path() + "/segments/000000.seg", 3 * 65536);
  auto store = Open(scratch.path());
  ASSERT_TRUE(store.ok()) << store.status();
  const auto report = (*store)->Verify({});
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_FALSE(report->damaged.empty());
  for (const auto& damage : report->damaged)
    EXPECT_THAT(damage.what, ::testing::HasSubstr("the file has 196608 bytes"));
}

// Segments that grow by pieces of four blocks, one of sixteen after the other.
class PiecesDamageTest : public ::testing::Test {
 protected:
  static constexpr int64_t kPiece = 256 << 10, kSegment = 1 << 20;
  static constexpr int kEncodings = 20;  // a block each: fifteen in the first segment

  absl::StatusOr<std::unique_ptr<Store>> Open(engine::IoObserver* observer = nullptr, bool drop_missing = false) {
    engine::EngineOptions options;
    options.dram_bytes = 4 << 20;
    options.segment_bytes = kSegment;
    options.segment_piece_bytes = kPiece;
    options.capacity_bytes = 8 << 20;
    options.observer = observer;
    options.drop_missing = drop_missing;
    auto opened = engine::Engine::Open(path(), options);
    if (!opened.ok()) return opened.status();
    return StoreOver(*std::move(opened));
  }
  std::string path() const { return scratch_.path(); }
  std::string first() const { return path() + "/segments/000000.seg"; }
  static std::string BytesOf(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }
  void Put(Store* store, int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const Synthetic s = MakeSynthetic(i);
      ASSERT_TRUE(store->Put("ns", s.manifest, s.spans(), absl::InfiniteFuture()).ok()) << i;
    }
  }
  void ExpectAll(Store* store, int begin, int end) {
    for (int i = begin; i < end; ++i) EXPECT_EQ(ReadAndCompare(store, "ns", MakeSynthetic(i)), absl::OkStatus()) << i;
  }
  ScratchDirectory scratch_{true};
};

TEST_F(PiecesDamageTest, WithoutAHeaderNothingIsPutBeyondTheFile) {
  {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    Put(store->get(), 0, 2);
  }
  const std::string before = BytesOf(first());
  ASSERT_EQ(before.size(), static_cast<size_t>(kPiece));
  {
    FaultyIo io(TestSeed());
    io.Add({.action = FaultyIo::Action::kRead, .path = "000000.seg", .error = EIO, .end = 4096});
    auto store = Open(&io);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(io.strikes(), 2);
    Put(store->get(), 2, kEncodings);
    ExpectAll(store->get(), 0, kEncodings);
    EXPECT_TRUE(BytesOf(first()) == before) << "it takes no more, although a block of it is free";
    EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::ElementsAre(::testing::HasSubstr(first())));
  }
  auto store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectAll(store->get(), 0, kEncodings);
  EXPECT_EQ((*store)->Stats()->integrity_failures, 0);
  Put(store->get(), kEncodings, 2 * kEncodings);
  ExpectAll(store->get(), 0, 2 * kEncodings);
  EXPECT_EQ(fs::file_size(first()), static_cast<uintmax_t>(kSegment)) << "it grows again";
}

TEST_F(PiecesDamageTest, WhatAFileThatWasCutHeldIsMissing) {
  {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    Put(store->get(), 0, kEncodings);
  }
  ASSERT_EQ(fs::file_size(first()), static_cast<uintmax_t>(kSegment));
  const std::string kept = path() + ".kept";
  fs::copy_file(first(), kept);
  for (const int64_t length : {kPiece, kPiece + 12345, 3 * kPiece}) {
    fs::resize_file(first(), length);
    const absl::Status status = Open().status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                ::testing::HasSubstr(absl::StrCat(first(), ", which is cut short, with ",
                                                  (kSegment - length / kPiece * kPiece) / 65536, " encodings")));
    EXPECT_EQ(fs::file_size(first()), static_cast<uintmax_t>(length)) << "nothing is cut off before it is understood";
    // Restored, all is there.
    fs::copy_file(kept, first(), fs::copy_options::overwrite_existing);
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectAll(store->get(), 0, kEncodings);
  }
  fs::resize_file(first(), kPiece + 12345);
  {
    auto store = Open(nullptr, /*drop_missing=*/true);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->Stats()->integrity_failures, 0) << "nothing is damaged";
    int there = 0;
    for (int i = 0; i < kEncodings; ++i) {
      const absl::Status read = ReadAndCompare(store->get(), "ns", MakeSynthetic(i));
      EXPECT_TRUE(read.ok() || absl::IsNotFound(read)) << read;
      there += read.ok();
    }
    EXPECT_EQ(there, kEncodings - 12);
    Put(store->get(), 0, 2 * kEncodings);
  }
  auto store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectAll(store->get(), 0, 2 * kEncodings);
  fs::remove(kept);
}

TEST_F(PiecesDamageTest, AFileThatIsTooLongServesWhatItHolds) {
  {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    Put(store->get(), 0, kEncodings);
  }
  fs::resize_file(first(), kSegment + kPiece);
  for (int i = 0; i < 2; ++i) {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectAll(store->get(), 0, kEncodings);
    EXPECT_EQ((*store)->Stats()->integrity_failures, 0);
    EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::ElementsAre(::testing::HasSubstr("1310720 bytes")));
  }
}

TEST(DamageTest, TwoClaimsOnABlockDropBoth) {
  ScratchDirectory scratch(true);
  {
    auto store = Open(scratch.path());
    ASSERT_TRUE(store.ok());
    Fill(store->get(), 0, 3);
  }
  {
    // A second location record for the blocks of encoding 1, as a bug or a restored copy could leave it.
    auto index = engine::Index::Open(scratch.path() + "/index", {});
    ASSERT_TRUE(index.ok()) << index.status();
    engine::EncodingKey victim{"ns", Encoding(1).manifest.identity, Codec::kRawBf16};
    engine::Location taken;
    ASSERT_TRUE((*index)
                    ->ScanLocations([&](engine::EncodingKey key, absl::StatusOr<engine::Location> location) {
                      if (key == victim) taken = *location;
                    })
                    .ok());
    Synthetic other = MakeSynthetic(77);
    taken.etag = other.manifest.etag;
    taken.sequence += 100;
    engine::IndexBatch batch(index->get());
    batch.PutEncoding({"ns", other.manifest.identity, Codec::kRawBf16}, taken);
    ASSERT_TRUE((*index)->Commit(&batch).ok());
    ASSERT_TRUE((*index)->Close().ok());
  }
  auto store = Open(scratch.path());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Stats()->double_claims, 2);
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store->get(), "ns", Encoding(1))));
  EXPECT_TRUE(absl::IsNotFound(ReadAndCompare(store->get(), "ns", MakeSynthetic(77))));
  EXPECT_TRUE(ReadAndCompare(store->get(), "ns", Encoding(0)).ok());
  EXPECT_THAT((*store)->Verify({})->index_problems, ::testing::IsEmpty());
}

TEST(DamageTest, ASegmentOfAnotherStoreIsRefused) {
  ScratchDirectory one(true), two(true);
  for (const ScratchDirectory* scratch : {&one, &two}) {
    auto store = Open(scratch->path());
    ASSERT_TRUE(store.ok());
    Fill(store->get(), 0, 1);
  }
  fs::copy_file(one.path() + "/segments/000000.seg", two.path() + "/segments/000000.seg",
                fs::copy_options::overwrite_existing);
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(two.path()).status()));
  // So is another index.
  fs::remove_all(one.path() + "/index");
  fs::copy(two.path() + "/index", one.path() + "/index", fs::copy_options::recursive);
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(one.path()).status()));
  fs::remove_all(one.path() + "/index");
  EXPECT_TRUE(absl::IsDataLoss(Open(one.path()).status())) << Open(one.path()).status();
}

}  // namespace
}  // namespace kvlink::store
