// Opening a store whose directory, disk or process is not as it was: what is missing, full, forbidden or short is said
// for what it is, and nothing is given up for it.
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "tests/store/failing_io.h"
#include "tests/store/synthetic.h"
#include "tests/support/faulty_io.h"

namespace kvlink::store {
namespace {

namespace fs = std::filesystem;
using ::kvlink::testing::EntryOf;
using ::kvlink::testing::FailingIo;
using ::kvlink::testing::FaultyIo;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::NoSpace;
using ::kvlink::testing::ReadAndCompare;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::Synthetic;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

engine::EngineOptions Small() {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.capacity_bytes = 8 << 20;
  return options;
}

absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path, const engine::EngineOptions& options,
                                            engine::Engine** raw = nullptr) {
  auto opened = engine::Engine::Open(path, options);
  if (!opened.ok()) return opened.status();
  if (raw != nullptr) *raw = opened->get();
  return StoreOver(*std::move(opened));
}

absl::Status PutOne(Store* store, int number) {
  const Synthetic s = MakeSynthetic(number);
  return store->Put("ns", s.manifest, s.spans(), SteadyNow() + absl::Seconds(60)).status();
}

void Fill(const std::string& path, const engine::EngineOptions& options, int count) {
  auto store = Open(path, options);
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < count; ++i) {
    ASSERT_EQ(PutOne(store->get(), i), absl::OkStatus());
    const Synthetic s = MakeSynthetic(i);
    ASSERT_TRUE((*store)->PutDocument("ns", absl::StrCat("doc ", i), EntryOf({&s}, 1)).ok());
  }
}

TEST(OpeningTest, AStoreOfFormat1IsRefusedByName) {
  ScratchDirectory scratch(true);
  const std::string path = scratch.path() + "/store";
  fs::create_directory(path);
  // STORE as the builds of format 1 wrote it: UUID, blocks of 64 KiB, segments of 1 MiB.
  const std::string store = absl::HexStringToBytes(
      "4b565354010000001c0000003b2b8522000102030405460788090a0b0c0d0e0f00000100"
      "0000100000000000");
  std::ofstream(path + "/STORE", std::ios::binary) << store;
  for (const bool reading : {false, true}) {
    engine::EngineOptions options = Small();
    options.read_only = reading;
    const absl::Status status = Open(path, options).status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_EQ(status.message(), path +
                                    ": this store has format 1; this build reads format 2: ingest the documents "
                                    "again into a new directory");
  }
  EXPECT_FALSE(fs::exists(path + "/index")) << "nothing is made of it";
  // A version to come is refused as well, and in other words.
  std::string newer = store;
  newer[4] = 3;
  std::ofstream(path + "/STORE", std::ios::binary) << newer;
  const absl::Status status = Open(path, Small()).status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 3.0; this build reads version 2"));
}

TEST(OpeningTest, AMissingSegmentIsNotAnEmptyStore) {
  ScratchDirectory scratch(true);
  const std::string path = scratch.path() + "/store";
  Fill(path, Small(), 20);  // 15 in the first segment
  const std::string second = path + "/segments/000001.seg";
  ASSERT_TRUE(fs::exists(second));
  fs::rename(second, scratch.path() + "/kept");
  absl::Status status = Open(path, Small()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(second + ", which is missing, with 5 encodings"));
  // A directory that holds nothing, and none at all.
  fs::rename(path + "/segments", scratch.path() + "/segments");
  status = Open(path, Small()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("000000.seg and 1 more segments"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(path, Small()).status())) << "by now there is an empty directory";
  engine::EngineOptions reading = Small();
  reading.read_only = true;
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(path, reading).status()));
  // Put back, all is there.
  fs::remove(path + "/segments");
  fs::rename(scratch.path() + "/segments", path + "/segments");
  fs::rename(scratch.path() + "/kept", second);
  {
    auto store = Open(path, Small());
    ASSERT_TRUE(store.ok()) << store.status();
    for (int i = 0; i < 20; ++i) EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(i)), absl::OkStatus()) << i;
  }
  // With drop_missing, only the missing segment's encodings are given up: the rest stays, and so do the documents.
  fs::remove(second);
  engine::EngineOptions dropping = Small();
  dropping.drop_missing = true;
  auto store = Open(path, dropping);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto stats = (*store)->Stats();
  EXPECT_EQ(stats->integrity_failures, 0) << "nothing is damaged";
  EXPECT_EQ(stats->namespaces[0].encodings, 15);
  EXPECT_EQ(stats->namespaces[0].documents, 20);
  EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(14)), absl::OkStatus());
  store->reset();
  EXPECT_EQ(Open(path, Small()).status(), absl::OkStatus());
}

TEST(OpeningTest, NobodyElseMayLookIntoAStore) {
  ScratchDirectory scratch(true);
  const std::string path = scratch.path() + "/store";
  ASSERT_TRUE(fs::create_directory(path));
  ASSERT_EQ(chmod(path.c_str(), 0755), 0);
  const mode_t before = umask(0);  // as lax as can be
  Fill(path, Small(), 3);
  umask(before);
  const auto expect_closed = [&] {
    struct stat info;
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    for (const auto& item : fs::recursive_directory_iterator(path)) {
      ASSERT_EQ(stat(item.path().c_str(), &info), 0);
      // RocksDB makes its own lock; nobody gets that far.
      if (item.path().parent_path().filename() == "index" && item.path().filename() == "LOCK") continue;
      EXPECT_EQ(info.st_mode & 077, 0u) << item.path();
    }
  };
  expect_closed();
  // A store of an earlier time is closed when it is opened.
  for (const std::string name : {"", "/segments", "/index", "/LOCK"}) ASSERT_EQ(chmod((path + name).c_str(), 0755), 0);
  ASSERT_TRUE(Open(path, Small()).ok());
  expect_closed();
}

TEST(OpeningTest, ACapacityBelowWhatIsUsedIsKeptTo) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 100);  // seven segments
  const auto segments = [&] {
    return std::distance(fs::directory_iterator(scratch.path() + "/segments"), fs::directory_iterator());
  };
  ASSERT_GE(segments(), 7);
  engine::EngineOptions less = Small();
  less.capacity_bytes = 3 << 20;
  {
    auto store = Open(scratch.path(), less);
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    while ((*store)->Stats()->segment_bytes > less.capacity_bytes && SteadyNow() < limit) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ((*store)->Stats()->segment_bytes, less.capacity_bytes);
    EXPECT_GE((*store)->Stats()->evictions, 50);
    EXPECT_EQ(PutOne(store->get(), 1000), absl::OkStatus());
    EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(1000)), absl::OkStatus());
    EXPECT_THAT((*store)->Verify({})->index_problems, IsEmpty());
  }
  EXPECT_EQ(segments(), 3);
  // It need not be said again.
  engine::EngineOptions unsaid = Small();
  unsaid.capacity_bytes = 0;
  engine::Engine* engine = nullptr;
  auto store = Open(scratch.path(), unsaid, &engine);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(engine->Stats().capacity_bytes, 3 << 20);
  for (int i = 2000; i < 2100; ++i) ASSERT_EQ(PutOne(store->get(), i), absl::OkStatus());
  EXPECT_EQ(segments(), 3);
}

TEST(OpeningTest, WhatIsPinnedKeepsItsSegment) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 100);
  engine::EngineOptions less = Small();
  less.capacity_bytes = 2 << 20;
  auto store = Open(scratch.path(), less);
  ASSERT_TRUE(store.ok()) << store.status();
  // Whatever is left when the segments go: it was either evicted before it could be pinned, or it stays.
  std::vector<int> pinned;
  for (int i = 90; i < 100; ++i) {
    if ((*store)->Pin("ns", MakeSynthetic(i).manifest.identity, Codec::kRawBf16).ok()) pinned.push_back(i);
  }
  for (int i = 200; i < 260; ++i) EXPECT_EQ(PutOne(store->get(), i), absl::OkStatus());
  for (const int i : pinned) EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(i)), absl::OkStatus()) << i;
  EXPECT_THAT((*store)->Verify({})->index_problems, IsEmpty());
}

// In a process of its own, since limits are a process's, and a fork has none of RocksDB's threads.
TEST(OpeningTest, ManySegmentsNeedFewDescriptors) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto child = [] {
    ScratchDirectory scratch(true);
    engine::EngineOptions options = Small();
    options.segment_bytes = 128 << 10;  // one encoding each
    options.capacity_bytes = 64 << 20;
    Fill(scratch.path(), options, 150);
    const auto die = [](int code, const absl::Status& status) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      std::exit(code);
    };
    const rlimit few{64, 64};
    if (setrlimit(RLIMIT_NOFILE, &few) != 0) std::exit(2);
    auto store = Open(scratch.path(), options);
    if (!store.ok()) die(3, store.status());
    for (int i = 150; i < 250; ++i) {
      if (const absl::Status put = PutOne(store->get(), i); !put.ok()) die(4, put);
    }
    (*store)->DropDramTier();
    for (int i = 0; i < 250; ++i) {
      if (const absl::Status read = ReadAndCompare(store->get(), "ns", MakeSynthetic(i)); !read.ok()) die(5, read);
    }
    const auto stats = (*store)->Stats();
    store->reset();
    std::exit(stats->evictions == 0 && stats->integrity_failures == 0 ? 0 : 6);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST(OpeningTest, OnlyDamageIsCalledDamage) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 3);
  struct Case {
    int error;
    absl::StatusCode code;
  };
  for (const Case c : {Case{EMFILE, absl::StatusCode::kUnavailable}, Case{ENFILE, absl::StatusCode::kUnavailable},
                       Case{ENOMEM, absl::StatusCode::kUnavailable}, Case{EIO, absl::StatusCode::kUnavailable},
                       Case{EACCES, absl::StatusCode::kFailedPrecondition}}) {
    for (const char* where : {"index", "segments", "FLOOR"}) {
      if (c.error == EIO && absl::string_view(where) == "segments") continue;
      FaultyIo io(1);
      io.Add({.action = FaultyIo::Action::kOpen, .path = where, .error = c.error});
      engine::EngineOptions options = Small();
      options.observer = &io;
      const absl::Status status = Open(scratch.path(), options).status();
      EXPECT_EQ(status.code(), c.code) << where << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(std::strerror(c.error)));
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr("ingest again")));
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr("damaged")));
    }
  }
  // Files that are truly gone are damage.
  const fs::path index = scratch.path() + "/index";
  for (const std::string prefix : {"CURRENT", "MANIFEST-"}) {
    ScratchDirectory copy(true);
    fs::copy(scratch.path(), copy.path(), fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    for (const auto& file : fs::directory_iterator(copy.path() + "/index")) {
      if (absl::StartsWith(file.path().filename().string(), prefix)) fs::remove(file.path());
    }
    const absl::Status status = Open(copy.path(), Small()).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << prefix << ": " << status;
  }
  auto store = Open(scratch.path(), Small());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(2)), absl::OkStatus());
}

TEST(OpeningTest, AStoreWithoutStoreFileIsDamaged) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 1);
  fs::remove(scratch.path() + "/STORE");
  const auto names = [&] {
    std::vector<std::string> names;
    for (const auto& item : fs::recursive_directory_iterator(scratch.path())) names.push_back(item.path());
    std::sort(names.begin(), names.end());
    return names;
  };
  // Without the index as well, it is no new store yet: what would be made of it refuses the segments that are there.
  for (const std::string gone : {"", "/index", "/reserve"}) {
    if (!gone.empty()) fs::remove_all(scratch.path() + gone);
    const std::vector<std::string> before = names();
    const absl::Status status = Open(scratch.path(), Small()).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << gone << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no STORE file"));
    EXPECT_EQ(names(), before) << gone;
  }
  ScratchDirectory mounted(true);
  fs::create_directories(mounted.path() + "/segments/lost+found");
  EXPECT_EQ(Open(mounted.path(), Small()).status(), absl::OkStatus()) << "a new store, its segments elsewhere";
}

// An engine that was opened read-only, or whose opening failed, has less than Close may expect.
TEST(OpeningTest, AStoreThatDoesNotWriteClosesToo) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 3);
  engine::EngineOptions options = Small();
  options.read_only = true;
  {
    auto store = Open(scratch.path(), options);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(2)), absl::OkStatus());
    EXPECT_TRUE(absl::IsFailedPrecondition(PutOne(store->get(), 7)));
  }
  for (const char* where : {"index", "segments"}) {
    FaultyIo io(1);
    io.Add({.action = FaultyIo::Action::kOpen, .path = where, .error = EMFILE});
    options = Small();
    options.observer = &io;
    EXPECT_FALSE(Open(scratch.path(), options).ok());
  }
  EXPECT_TRUE(Open(scratch.path(), Small()).ok());
}

// Writes that end while the engine closes still reach the committer.
TEST(OpeningTest, APutThatIsUnderWayIsCommittedByClosing) {
  class Slow : public FailingIo {
   public:
    absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t, absl::Span<const std::byte>) override {
      if (path.find(".seg") != std::string::npos) absl::SleepFor(absl::Milliseconds(5));
      return 0;
    }
  };
  ScratchDirectory scratch(true);
  Slow io;
  engine::EngineOptions options = Small();
  options.observer = &io;
  options.allow_uring = false;  // writes in threads of their own
  std::vector<int> late;
  {
    auto store = Open(scratch.path(), options);
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_EQ(PutOne(store->get(), 100), absl::OkStatus());  // the segment is there
    for (int i = 1; i < 20; i += 2) {
      const Synthetic s = MakeSynthetic(i, 4, 300);
      const absl::Status put = (*store)->Put("ns", s.manifest, s.spans(), SteadyNow() + absl::Milliseconds(2)).status();
      if (absl::IsDeadlineExceeded(put) && absl::StrContains(put.message(), "it may still become so"))
        late.push_back(i);
    }
  }
  EXPECT_THAT(late, Not(IsEmpty()));
  auto store = Open(scratch.path(), Small());
  ASSERT_TRUE(store.ok()) << store.status();
  for (const int i : late) EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(i, 4, 300)), absl::OkStatus());
}

// A file that cannot be opened any more is no miss: what it holds may come back.
TEST(OpeningTest, ASegmentThatGoesWhileTheStoreIsOpenIsUnavailable) {
  ScratchDirectory scratch(true);
  engine::EngineOptions options = Small();
  options.max_open_segments = 1;
  engine::Engine* engine = nullptr;
  auto store = Open(scratch.path(), options, &engine);
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < 40; ++i) ASSERT_EQ(PutOne(store->get(), i), absl::OkStatus());
  (*store)->DropDramTier();
  ASSERT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(39)), absl::OkStatus());
  ASSERT_GT(engine->Stats().segment_bytes, options.segment_bytes);
  const std::string segment = scratch.path() + "/segments/000000.seg", away = scratch.path() + "/away";
  fs::rename(segment, away);
  const absl::Status read = ReadAndCompare(store->get(), "ns", MakeSynthetic(0));
  EXPECT_TRUE(absl::IsUnavailable(read)) << read;
  EXPECT_EQ(engine->Stats().dropped_damaged, 0);
  fs::rename(away, segment);
  EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(0)), absl::OkStatus());
}

// The path to a device may fail, or be another's, while what the device holds is whole.
TEST(OpeningTest, ADeviceThatIsOutOfReachIsNotDamaged) {
  for (const int error : {ENOLINK, EBADE}) {
    ScratchDirectory scratch(true);
    FaultyIo io(1);
    engine::EngineOptions options = Small();
    options.observer = &io;
    engine::Engine* engine = nullptr;
    auto store = Open(scratch.path(), options, &engine);
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_EQ(PutOne(store->get(), 1), absl::OkStatus());
    (*store)->DropDramTier();
    io.Add({.action = FaultyIo::Action::kRead, .path = ".seg", .error = error});
    io.Add({.action = FaultyIo::Action::kWrite, .path = ".seg", .error = error});
    const absl::Status read = ReadAndCompare(store->get(), "ns", MakeSynthetic(1));
    EXPECT_TRUE(absl::IsUnavailable(read)) << read;
    EXPECT_TRUE(absl::IsUnavailable(PutOne(store->get(), 2)));
    EXPECT_TRUE(absl::IsUnavailable((*store)->Verify({}).status()));
    EXPECT_EQ(engine->Stats().dropped_damaged, 0);
    EXPECT_EQ(engine->Stats().bad_blocks, 0);
    io.Heal();
    EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(1)), absl::OkStatus());
    EXPECT_EQ(PutOne(store->get(), 2), absl::OkStatus());
  }
}

TEST(OpeningTest, AFullDiskCanBeRead) {
  ScratchDirectory scratch(true);
  Fill(scratch.path(), Small(), 3);
  {
    // The reserve is enough.
    FailingIo io;
    io.space_comes_back = true;
    io.Fail("index", NoSpace);
    engine::EngineOptions options = Small();
    options.observer = &io;
    auto store = Open(scratch.path(), options);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(2)), absl::OkStatus());
    EXPECT_EQ(PutOne(store->get(), 3), absl::OkStatus());
  }
  // It is not: reading goes on, writing says why it does not.
  FaultyIo io(1);
  io.Add({.action = FaultyIo::Action::kWrite, .path = "index", .error = ENOSPC});
  engine::EngineOptions options = Small();
  options.observer = &io;
  auto store = Open(scratch.path(), options);
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(i)), absl::OkStatus());
  const absl::Status put = PutOne(store->get(), 4);
  EXPECT_TRUE(absl::IsResourceExhausted(put)) << put;
  EXPECT_THAT(std::string(put.message()), HasSubstr("read-only because its disk is full"));
  store->reset();
  store = Open(scratch.path(), Small());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(PutOne(store->get(), 4), absl::OkStatus());
}

TEST(OpeningTest, ADiskIsNotFullForEver) {
  ScratchDirectory scratch(true);
  FaultyIo io(1);
  engine::EngineOptions options = Small();
  options.observer = &io;
  options.pinned_bytes = 8 << 20;
  auto store = Open(scratch.path(), options);
  ASSERT_TRUE(store.ok()) << store.status();
  // All are pinned, and fewer than eviction begins at: evicting would make the store try to grow as well.
  for (int i = 0; i < 14; ++i) {
    ASSERT_EQ(PutOne(store->get(), i), absl::OkStatus());
    const Synthetic s = MakeSynthetic(i);
    ASSERT_EQ((*store)->Pin("ns", s.manifest.identity, s.manifest.codec), absl::OkStatus());
    if (i == 0) io.Add({.action = FaultyIo::Action::kWrite, .path = ".seg.tmp", .error = ENOSPC});
  }
  const Synthetic large = MakeSynthetic(100, 4, 700);  // more than the segment has left
  const auto put = [&] {
    return (*store)->Put("ns", large.manifest, large.spans(), SteadyNow() + absl::Seconds(60)).status();
  };
  const absl::Status full = put();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("on a full disk"));
  io.Heal();
  absl::Status healed = put();
  for (const absl::Time limit = SteadyNow() + absl::Seconds(60); !healed.ok() && SteadyNow() < limit; healed = put()) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(healed, absl::OkStatus());
  const auto stats = (*store)->Stats();
  EXPECT_EQ(stats->evictions, 0);
  EXPECT_GE(stats->segment_bytes, 2 << 20);
}

TEST(OpeningTest, ASmallDiskGetsSmallSegments) {
  ScratchDirectory scratch(true);
  if (mount("tmpfs", scratch.path().c_str(), "tmpfs", 0, "size=64m") != 0) GTEST_SKIP() << "may not mount";
  {
    engine::EngineOptions options;
    options.dram_bytes = 4 << 20;
    auto store = Open(scratch.path() + "/store", options);
    EXPECT_TRUE(store.ok()) << store.status();
    int stored = 0;
    while (store.ok() && stored < 20 && PutOne(store->get(), stored).ok()) ++stored;
    EXPECT_EQ(stored, 20);
  }
  umount2(scratch.path().c_str(), MNT_DETACH);
}

TEST(OpeningTest, TheCallersPaddingStaysWithTheCaller) {
  ScratchDirectory scratch(true);
  Synthetic s = MakeSynthetic(2);  // on pages
  const int64_t used = s.manifest.shape(0).used_bytes();
  ASSERT_LT(used, static_cast<int64_t>(s.slabs[0].size()));
  const std::string secret = "what the heap held before";
  std::memcpy(s.slabs[0].data() + used, secret.data(), secret.size());
  {
    auto store = Open(scratch.path(), Small());
    ASSERT_TRUE(store.ok());
    ASSERT_TRUE((*store)->Put("ns", s.manifest, s.spans(), SteadyNow() + absl::Seconds(60)).ok());
    EXPECT_EQ(ReadAndCompare(store->get(), "ns", MakeSynthetic(2)), absl::OkStatus());
  }
  for (const auto& file : fs::directory_iterator(scratch.path() + "/segments")) {
    std::ifstream stream(file.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    EXPECT_EQ(bytes.find(secret), std::string::npos);
  }
}

}  // namespace
}  // namespace kvlink::store
