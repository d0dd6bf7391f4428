// Reads of mapped memory: verified once for each stay in memory, kept while the reader lives, and never believed when
// the node took the pages back.
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;

RemotePlaceOptions Mapped() {
  RemotePlaceOptions options;
  options.way = "mapped";
  options.store.dram_bytes = 4 << 20;
  options.store.capacity_bytes = 128 << 20;
  options.node = [](store::node::NodeOptions* node) { node->limits.lease = absl::Seconds(1); };
  return options;
}

// So many other encodings that the DRAM tier holds nothing else.
void Churn(store::Store* store, int first) {
  for (int i = 0; i < 40; ++i) {
    const Synthetic s = MakeSynthetic(first + i, 4, 600, 1, 32);
    const absl::Status put = store->Put("ns", s.manifest, s.spans(), Patience()).status();
    EXPECT_TRUE(put.ok()) << put;
    const absl::Status read = ReadAndCompare(store, "ns", s);
    EXPECT_TRUE(read.ok()) << read;
  }
}

TEST(MappedTest, BytesAreVerifiedOncePerResidency) {
  RemotePlace place(Mapped());
  ASSERT_EQ(place.remote()->ReadCarrier(), "mapped");
  const Synthetic s = MakeSynthetic(1, 4, 600, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
    EXPECT_EQ(place.remote()->Counters().verified_bytes, s.bytes());
    EXPECT_EQ(place.remote()->Counters().known_bytes, round * s.bytes());
  }
  ASSERT_TRUE(EmptyDramTier(place.store()));
  store::Tier source;
  ASSERT_TRUE(ReadAndCompare(place.store(), "ns", s, &source).ok());
  EXPECT_EQ(source, store::Tier::kDisk);
  EXPECT_EQ(place.remote()->Counters().verified_bytes, 2 * s.bytes());
  // A node numbers its residencies anew when it starts: that one of its numbers was good before says nothing.
  place.StopNode();
  place.StartNode();
  ASSERT_TRUE(Eventually([&] { return ReadAndCompare(place.store(), "ns", s).ok(); }));
  EXPECT_EQ(place.remote()->Counters().verified_bytes, 3 * s.bytes());
  EXPECT_EQ(place.remote()->Counters().pulls, 0);
}

TEST(MappedTest, ALeaseIsKeptWhileItIsHeld) {
  RemotePlace place(Mapped());
  const Synthetic s = MakeSynthetic(1, 4, 600, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE(WaitAll(lease->get()).ok());
  absl::SleepFor(absl::Milliseconds(3500));  // more than three times what a silent connection may
  Churn(place.store(), 100);
  EXPECT_TRUE((*lease)->intact());
  for (int layer = 0; layer < 4; ++layer) EXPECT_EQ((*lease)->layer(layer), absl::MakeConstSpan(s.slabs[layer]));
  // Those of the churn go by a carrier of their own.
  EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 1; }));
  *lease = nullptr;
  EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 0; }));
  EXPECT_EQ(place.remote()->Counters().lapsed_leases, 0);
}

TEST(MappedTest, BytesOutliveTheNode) {
  RemotePlace place(Mapped());
  const Synthetic s = MakeSynthetic(1, 4, 600, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  auto lease = ReadOf(place.store(), s);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE(WaitAll(lease->get()).ok());
  place.StopNode();
  for (int layer = 0; layer < 4; ++layer) {
    EXPECT_TRUE(!(*lease)->intact() || (*lease)->layer(layer) == absl::MakeConstSpan(s.slabs[layer]));
  }
  EXPECT_TRUE(absl::IsUnavailable(ReadOf(place.store(), s).status()));
  place.StartNode();
  ASSERT_TRUE(Eventually([&] { return ReadAndCompare(place.store(), "ns", s).ok(); }));
  EXPECT_GE(place.remote()->Counters().mapped_leases, 2);
}

// Mappings of the node's memory in this process that can only be read.
int ReaderMappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find(" r--s ") != std::string::npos && line.find("memfd:kvlink") != std::string::npos;
  }
  return count;
}

TEST(MappedTest, WhatNothingLiesInIsNotMappedAnyMore) {
  RemotePlaceOptions options = Mapped();
  options.node = [](store::node::NodeOptions* node) { node->engine.keep_unused_memory = absl::ZeroDuration(); };
  RemotePlace place(std::move(options));
  const Synthetic s = MakeSynthetic(1, 4, 600, 2);
  for (const char* ns : {"a", "b", "c"}) ASSERT_TRUE(place.store()->Put(ns, s.manifest, s.spans(), Patience()).ok());
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(ReadAndCompare(place.store(), "b", s).ok());
    EXPECT_EQ(ReaderMappings(), 2) << "the memory of what was read, and the table of generations";
    ASSERT_TRUE(EmptyDramTier(place.store()));
    EXPECT_TRUE(Eventually([] { return ReaderMappings() == 1; }));
  }
}

// A reader in a process of its own, so that it can be frozen.
class Reader {
 public:
  Reader(RemotePlace& place, const Synthetic& s) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    process_ = std::make_unique<Subprocess>(
        std::vector<std::string>{self.substr(0, self.rfind('/')) + "/store_client_mapped_reader",
                                 place.node()->addresses().control, s.manifest.etag.Hex()},
        SubprocessOptions{.input = "", .keep_input_open = true});
    EXPECT_TRUE(Eventually([&] { return Says("holds") || !process_->running(); }));
    EXPECT_TRUE(Says("holds")) << process_->output() << process_->errors();
  }
  void Signal(int signal) { process_->Signal(signal); }
  void Kill() { process_->Kill(); }
  // Its output after it has looked again.
  std::string Look() {
    process_->CloseInput();
    process_->Wait();
    return process_->output();
  }
  bool Says(const std::string& text) { return process_->output().find(text) != std::string::npos; }

 private:
  std::unique_ptr<Subprocess> process_;
};

TEST(MappedTest, AFrozenReaderLosesItsLeaseAndKnows) {
  RemotePlace place(Mapped());
  const Synthetic s = MakeSynthetic(7, 4, 600, 2, 32);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  for (const bool frozen : {false, true}) {
    Reader reader(place, s);
    // Those of the churn go by a carrier of their own.
    EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 1; }));
    if (frozen) {
      reader.Signal(SIGSTOP);
      EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 0; }));
    }
    if (frozen) place.store()->DropDramTier();
    Churn(place.store(), 100 + 50 * frozen);
    if (frozen) reader.Signal(SIGCONT);
    const std::string found = reader.Look();
    EXPECT_THAT(found, HasSubstr(frozen ? "lapsed" : "intact, the same bytes"));
    EXPECT_THAT(found, ::testing::Not(HasSubstr("WRONG")));
  }
}

TEST(MappedTest, AKilledReaderLeavesNothing) {
  RemotePlace place(Mapped());
  const Synthetic s = MakeSynthetic(7, 4, 600, 2, 32);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  for (int round = 0; round < 3; ++round) {
    Reader reader(place, s);
    // Those of the churn go by a carrier of their own.
    EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 1; }));
    reader.Kill();
    EXPECT_TRUE(Eventually([&] { return place.store()->Stats()->leases == 0; }));
  }
}

TEST(MappedTest, WhereNothingIsSharedAutoPulls) {
  RemotePlaceOptions options = Mapped();
  options.node = [](store::node::NodeOptions* node) { node->engine.share_memory = false; };
  options.client = [](store::client::RemoteOptions* client) {
    client->carrier = store::client::Carrier::kAuto;
    client->connect_timeout = absl::Seconds(2);
  };
  RemotePlace place(options);
  EXPECT_NE(place.remote()->ReadCarrier(), "mapped");
  EXPECT_THAT(place.remote()->Stats()->io, HasSubstr("not mapped: the node did not share its memory"));
  const Synthetic s = MakeSynthetic(1, 4, 600, 2);
  ASSERT_TRUE(place.store()->Put("ns", s.manifest, s.spans(), Patience()).ok());
  EXPECT_TRUE(ReadAndCompare(place.store(), "ns", s).ok());
  EXPECT_EQ(place.remote()->Counters().pulls, 1);
}

}  // namespace
}  // namespace kvlink::testing
