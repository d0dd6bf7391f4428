// Segment files that grow piece by piece: what is on the disk, what a crash leaves, and what a device refuses.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/engine/disk/segment_files.h"
#include "store/engine/engine.h"
#include "tests/store/synthetic.h"
#include "tests/support/faulty_io.h"
#include "tests/support/seed.h"

namespace kvlink::engine {
namespace {

using kvlink::testing::FaultyIo;
using kvlink::testing::MakeSynthetic;
using kvlink::testing::ScratchDirectory;
using kvlink::testing::Synthetic;
using kvlink::testing::TestSeed;
using ::testing::IsEmpty;

constexpr int64_t kPiece = 256 << 10, kSegment = 1 << 20;
constexpr uint32_t kPerPiece = kPiece / kSegmentBlockBytes, kPerSegment = kSegment / kSegmentBlockBytes;

class SegmentsTest : public ::testing::Test {
 protected:
  std::unique_ptr<SegmentFiles> Open(IoObserver* observer = nullptr, bool read_only = false) {
    auto segments = SegmentFiles::Open(FileSystem(observer), {.path = scratch_.path(),
                                                              .segment_bytes = kSegment,
                                                              .piece_bytes = kPiece,
                                                              .read_only = read_only,
                                                              .max_open = 1});
    EXPECT_TRUE(segments.ok()) << segments.status();
    return segments.ok() ? *std::move(segments) : nullptr;
  }
  std::string PathOf(int segment) const { return scratch_.path() + "/00000" + std::to_string(segment) + ".seg"; }
  int64_t Length(int segment) const { return static_cast<int64_t>(std::filesystem::file_size(PathOf(segment))); }
  std::string Bytes(int segment) const {
    std::ifstream file(PathOf(segment), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  ScratchDirectory scratch_{/*in_memory=*/false};
};

TEST_F(SegmentsTest, GrowPieceByPieceAndTheNextBeginsWhenOneIsFull) {
  auto segments = Open();
  ASSERT_NE(segments, nullptr);
  for (int i = 0; i < 6; ++i) {
    const auto grown = segments->Grow();
    ASSERT_TRUE(grown.ok()) << grown.status();
    EXPECT_THAT(grown->bad, IsEmpty());
    const uint32_t header = i % 4 == 0 ? 1 : 0;
    EXPECT_EQ(grown->usable.first, i * kPerPiece + header);
    EXPECT_EQ(grown->usable.count, kPerPiece - header);
    EXPECT_EQ(Length(i / 4), (i % 4 + 1) * kPiece);
    EXPECT_EQ(segments->bytes(), (i + 1) * kPiece);
    const std::string bytes = Bytes(i / 4);
    EXPECT_EQ(bytes.find_first_not_of('\0', kSegmentBlockBytes), std::string::npos);
  }
  const auto check = [](const SegmentFiles& files) {
    const std::vector<engine::Run> runs = files.UsableRuns();
    ASSERT_EQ(runs.size(), 2u);
    EXPECT_TRUE(runs[0] == (engine::Run{1, kPerSegment - 1}) &&
                runs[1] == (engine::Run{kPerSegment + 1, 2 * kPerPiece - 1}));
    EXPECT_EQ(files.usable_blocks(), 6 * kPerPiece - 2);
    EXPECT_THAT(files.problems(), IsEmpty());
  };
  check(*segments);
  // Whatever new segments would grow by: these say it themselves.
  auto again = SegmentFiles::Open(FileSystem(nullptr), {.path = scratch_.path(), .segment_bytes = kSegment});
  ASSERT_TRUE(again.ok()) << again.status();
  check(**again);
  ASSERT_TRUE((*again)->Grow().ok());
  EXPECT_EQ(Length(1), 3 * kPiece);
}

TEST_F(SegmentsTest, WhatACrashLeftHalfMadeIsCutOff) {
  {
    auto segments = Open();
    ASSERT_TRUE(segments->Grow().ok() && segments->Grow().ok());
  }
  for (const int64_t more : {int64_t{1}, kSegmentBlockBytes, kPiece - kSegmentBlockBytes}) {
    std::filesystem::resize_file(PathOf(0), 2 * kPiece + more);
    {
      std::fstream file(PathOf(0), std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(2 * kPiece + more - 1);
      file.put('x');
    }
    auto looks = Open(nullptr, /*read_only=*/true);
    ASSERT_NE(looks, nullptr);
    EXPECT_EQ(looks->usable_blocks(), 2 * kPerPiece - 1);
    EXPECT_EQ(Length(0), 2 * kPiece + more) << "it was opened for reading only";
    auto segments = Open();
    ASSERT_NE(segments, nullptr);
    EXPECT_EQ(segments->usable_blocks(), 2 * kPerPiece - 1);
    EXPECT_THAT(segments->problems(), IsEmpty());
    EXPECT_EQ(Length(0), 2 * kPiece + more) << "whether a crash left it is not known yet";
    ASSERT_TRUE(segments->Grow().ok());
    EXPECT_EQ(Length(0), 3 * kPiece);
    EXPECT_EQ(Bytes(0).find_first_not_of('\0', kSegmentBlockBytes), std::string::npos);
    segments = nullptr;
    std::filesystem::resize_file(PathOf(0), 2 * kPiece);
  }
}

// Until all of a piece is on the disk, the length of the file says that it is not.
TEST_F(SegmentsTest, TheLengthIsWholeOnlyWhenThePieceIs) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  class Watch : public FaultyIo {
   public:
    explicit Watch(std::function<int64_t()> length) : FaultyIo(1), length_(std::move(length)) {}
    absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                          absl::Span<const std::byte> bytes) override {
      if (path.ends_with(".seg") && offset + static_cast<int64_t>(bytes.size()) < 2 * kPiece) {
        EXPECT_NE(length_() % kPiece, 0) << "at " << offset;
        ++writes;
      }
      return 0;
    }
    int writes = 0;

   private:
    const std::function<int64_t()> length_;
  };
  Watch watch([this] { return Length(0); });
  segments = Open(&watch);
  std::filesystem::resize_file(PathOf(0), 2 * kPiece);  // as a try leaves it that failed, and could not be undone
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_GT(watch.writes, 0);
  EXPECT_EQ(Length(0), 2 * kPiece);
}

TEST_F(SegmentsTest, AFullDiskLeavesTheLengthAsItWas) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  io.Add({.action = FaultyIo::Action::kWrite, .path = ".seg", .error = ENOSPC, .offset = kPiece + 100000});
  const auto grown = segments->Grow();
  EXPECT_TRUE(absl::IsResourceExhausted(grown.status())) << grown.status();
  EXPECT_EQ(Length(0), kPiece);
  io.Heal();
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_EQ(Length(0), 2 * kPiece);
  EXPECT_FALSE(std::filesystem::exists(PathOf(1)));
}

TEST_F(SegmentsTest, BlocksThatCannotBeWrittenAreToldOfAndTheRestIsUsed) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  const int64_t bad = kPiece + 2 * kSegmentBlockBytes;
  io.Add({.action = FaultyIo::Action::kWrite, .path = ".seg", .error = EIO, .offset = bad, .end = bad + 1});
  const auto grown = segments->Grow();
  ASSERT_TRUE(grown.ok()) << grown.status();
  ASSERT_EQ(grown->bad.size(), 1u);
  EXPECT_TRUE(grown->bad[0] == (engine::Run{kPerPiece + 2, 1}));
  EXPECT_EQ(grown->usable.count, kPerPiece);
}

// The last block of a piece is written by itself.
TEST_F(SegmentsTest, OneBadBlockIsNotAllOfAPiece) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  const int64_t bad = 2 * kPiece - kSegmentBlockBytes;
  io.Add({.action = FaultyIo::Action::kWrite, .path = "000000.seg", .error = EIO, .offset = bad, .end = bad + 1});
  const auto grown = segments->Grow();
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_TRUE(grown->usable == (engine::Run{kPerPiece, kPerPiece}));
  ASSERT_EQ(grown->bad.size(), 1u);
  EXPECT_TRUE(grown->bad[0] == (engine::Run{2 * kPerPiece - 1, 1}));
  EXPECT_EQ(Length(0), 2 * kPiece);
}

TEST_F(SegmentsTest, AHeaderIsReadTwice) {
  {
    auto segments = Open();
    ASSERT_TRUE(segments->Grow().ok());
  }
  FaultyIo io(TestSeed());
  io.Add({.action = FaultyIo::Action::kRead, .path = ".seg", .error = EIO, .times = 1});
  auto segments = Open(&io);
  EXPECT_EQ(io.strikes(), 1);
  EXPECT_THAT(segments->problems(), IsEmpty());
  EXPECT_THAT(segments->unreadable(), IsEmpty());
  EXPECT_EQ(segments->usable_blocks(), kPerPiece - 1);
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_EQ(Length(0), 2 * kPiece);
}

TEST_F(SegmentsTest, WithoutAHeaderAFileHasTheBlocksThatItHas) {
  {
    auto segments = Open();
    ASSERT_TRUE(segments->Grow().ok() && segments->Grow().ok());
  }
  std::filesystem::resize_file(PathOf(0), 2 * kPiece + kSegmentBlockBytes + 1);
  FaultyIo io(TestSeed());
  io.Add({.action = FaultyIo::Action::kRead, .path = ".seg", .error = EIO});
  auto segments = Open(&io);
  EXPECT_EQ(segments->problems().size(), 1u);
  EXPECT_EQ(segments->unreadable(), std::vector<uint32_t>{0});
  EXPECT_EQ(segments->usable_blocks(), 2 * kPerPiece + 1 - 1);
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_EQ(Length(0), 2 * kPiece + kSegmentBlockBytes + 1);
  EXPECT_EQ(Length(1), kPiece);
}

TEST_F(SegmentsTest, WhereOneFileCannotGrowAnotherDoes) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  io.Add({.action = FaultyIo::Action::kWrite, .path = "000000.seg", .error = EIO});
  const auto grown = segments->Grow();
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_EQ(grown->usable.first, kPerSegment + 1);
  EXPECT_EQ(Length(0), kPiece);
  EXPECT_EQ(Length(1), kPiece);
  segments->StopGrowing(1);
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_EQ(Length(1), kPiece);
  EXPECT_EQ(Length(2), kPiece);
}

// A flush that failed may have dropped what others wrote to the file before it.
TEST_F(SegmentsTest, AFlushThatFailsWhileAFileGrowsIsTheAnswerToAllThatFollow) {
  FaultyIo io(TestSeed());
  auto segments = Open(&io);
  ASSERT_TRUE(segments->Grow().ok());
  EXPECT_TRUE(segments->Sync(0).ok());
  io.Add({.action = FaultyIo::Action::kSync, .path = "000000.seg", .error = EIO, .times = 1});
  ASSERT_TRUE(segments->Grow().ok());  // in another file
  EXPECT_TRUE(absl::IsDataLoss(segments->Sync(0)));
  EXPECT_TRUE(segments->Sync(1).ok());
  EXPECT_EQ(segments->open_files(), 1) << "the first was closed for the second";
  int64_t offset = 0;
  EXPECT_TRUE(segments->Locate(1, &offset).ok());
  EXPECT_TRUE(absl::IsDataLoss(segments->Sync(0))) << "a new descriptor knows nothing of it";
  EXPECT_EQ(io.strikes(), 1);
  EXPECT_TRUE(Open()->Sync(0).ok()) << "until the store is opened again";
}

// A device's failure is told to one of the flushes that are under way.
TEST_F(SegmentsTest, AllFlushesThatAFailureMeetsFail) {
  class OneFails : public FaultyIo {
   public:
    OneFails() : FaultyIo(1) {}
    absl::StatusOr<uint64_t> SyncStarted(const std::string&) override {
      if (++flushes_ > 1) return 0;
      // The others come meanwhile, if they may.
      const absl::Time until = SteadyNow() + absl::Milliseconds(200);
      while (flushes_ == 1 && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(1));
      return ErrnoStatus(EIO, "flush", "a segment (injected)");
    }

   private:
    std::atomic<int> flushes_ = 0;
  };
  ASSERT_TRUE(Open()->Grow().ok());
  OneFails io;
  auto segments = Open(&io);
  std::vector<absl::Status> flushed(3);
  {
    std::vector<std::thread> threads;
    for (absl::Status& status : flushed) threads.emplace_back([&] { status = segments->Sync(0); });
    for (std::thread& thread : threads) thread.join();
  }
  for (const absl::Status& status : flushed) EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

// As the engine uses them: encodings across pieces, a capacity that is taken a piece at a time, and given back.
TEST_F(SegmentsTest, AStoreFillsItsCapacityAPieceAtATime) {
  EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = kSegment;
  options.segment_piece_bytes = kPiece;
  options.capacity_bytes = 2 * kSegment + kPiece;
  options.max_open_segments = 1;
  const std::string path = scratch_.path() + "/store";
  const auto put = [](Engine* engine, int number) {
    const Synthetic s = MakeSynthetic(number, 2, number % 3 == 0 ? 2500 : 300);
    return engine->Put("ns", s.manifest, s.spans(), SteadyNow() + absl::Seconds(60)).status();
  };
  const auto read = [](Engine* engine, int number) -> absl::Status {
    const Synthetic s = MakeSynthetic(number, 2, number % 3 == 0 ? 2500 : 300);
    auto lease =
        engine->Read({"ns", s.manifest.identity, s.manifest.codec}, s.manifest.etag, SteadyNow() + absl::Seconds(60));
    if (!lease.ok()) return lease.status();
    for (int64_t layer = 0; layer < 2; ++layer) {
      const absl::Status arrived = (*lease)->WaitLayer(layer, SteadyNow() + absl::Seconds(60));
      if (!arrived.ok()) return arrived;
      if ((*lease)->layer(layer) != absl::MakeConstSpan(s.slabs[layer])) return absl::DataLossError("other bytes");
    }
    return absl::OkStatus();
  };
  int number = 0;
  {
    auto engine = Engine::Open(path, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_TRUE(put(engine->get(), number++).ok());
    EXPECT_LE((*engine)->Stats().segment_bytes, 3 * kPiece);
    while ((*engine)->Stats().evictions == 0 && number < 1000) ASSERT_TRUE(put(engine->get(), number++).ok());
    EXPECT_EQ((*engine)->Stats().segment_bytes, options.capacity_bytes);
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(put(engine->get(), number++).ok());
  }
  int there = 0;
  {
    auto engine = Engine::Open(path, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    for (int i = 0; i < number; ++i) {
      const absl::Status status = read(engine->get(), i);
      EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
      there += status.ok();
    }
    EXPECT_GT(there, 3);
    EXPECT_EQ((*engine)->Stats().integrity_failures, 0);
  }
  // A lower capacity takes whole files away, and what is left of it is taken in pieces again.
  options.capacity_bytes = kSegment + 2 * kPiece;
  auto engine = Engine::Open(path, options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(put(engine->get(), number++).ok());
  const absl::Time until = SteadyNow() + absl::Seconds(60);
  while ((*engine)->Stats().segment_bytes != options.capacity_bytes && SteadyNow() < until) {
    ASSERT_TRUE(put(engine->get(), number++).ok());
  }
  EXPECT_EQ((*engine)->Stats().segment_bytes, options.capacity_bytes);
  EXPECT_TRUE(read(engine->get(), number - 1).ok());
  EXPECT_EQ((*engine)->Stats().integrity_failures, 0);
}

}  // namespace
}  // namespace kvlink::engine
