// A node whose disk is full or slow. It reports failures by the deadline, and keeps what it acknowledged.
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "store/engine/disk/io_observer.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/node_process.h"
#include "tests/integration/own_node.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

const char* CarrierOf(uint64_t seed) {
  static constexpr const char* kCarriers[] = {"ucx", "grpc", "mapped"};
  return kCarriers[seed % 3];
}

// Limits the size of files: segments cannot be made, or not be written whole, and the index fills up too.
TEST(DiskFaultTest, Full) {
  int64_t refused = 0;
  for (int i = 0; i < FaultSeeds() && !::testing::Test::HasFailure(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
    std::mt19937_64 random(seed);
    ScratchDirectory scratch(/*in_memory=*/true);
    const std::string directory = scratch.path() + "/store";
    // The limit also applies to shared memory, so there are no mapping readers and no UCX, which both use it.
    const char* const carrier = "grpc";
    const std::vector<std::string> arguments = {"--capacity", "1G",   "--memory", "32M",
                                                "--socket",   "none", "--data",   "none"};
    Journal journal(scratch.path() + "/journal");
    {
      NodeProcess node(directory, arguments);
      ASSERT_TRUE(node.Start());
      auto store = store::client::OpenRemote(ClientOptions(node.address(), carrier, kPatience));
      ASSERT_TRUE(store.ok()) << store.status();
      const absl::Status written = WriteAll(store->get(), &journal, 0, 6);
      ASSERT_TRUE(written.ok()) << written;
      store->reset();
      EXPECT_EQ(node.Stop(), 0);
    }
    {
      // From what the index alone needs to almost a segment.
      NodeProcess node(directory, arguments, {.file_size_limit = (int64_t{256} << 10) << (random() % 6)});
      ASSERT_TRUE(node.Start());
      std::vector<std::unique_ptr<BusyClient>> clients;
      for (int client = 0; client < 2; ++client) {
        TrafficOptions options;
        options.seed = random();
        options.first = 1000 * (client + 1);
        options.writes = 0.7;  // always of new encodings
        clients.push_back(std::make_unique<BusyClient>(ClientOptions(node.address(), carrier), &journal, options));
        ASSERT_TRUE(clients.back()->ok());
      }
      absl::SleepFor(absl::Milliseconds(500 + random() % 1000));
      for (auto& client : clients) {
        const absl::Status kept = (*client)->Stop();
        EXPECT_TRUE(kept.ok()) << kept << "; " << (*client)->counts().Text();
        refused += (*client)->counts().of("write RESOURCE_EXHAUSTED");
      }
      clients.clear();
      auto store = store::client::OpenRemote(ClientOptions(node.address(), carrier, kPatience));
      ASSERT_TRUE(store.ok()) << store.status();
      const absl::Status intact = CheckJournal(store->get(), journal);
      EXPECT_TRUE(intact.ok()) << intact;
      if (random() % 2 == 0) node.Kill();
    }
    NodeProcess node(directory, arguments);
    ASSERT_TRUE(node.Start());
    auto store = store::client::OpenRemote(ClientOptions(node.address(), carrier, kPatience));
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status written = WriteAll(store->get(), &journal, 5000, 1);
    EXPECT_TRUE(written.ok()) << written;
    const absl::Status intact = CheckJournal(store->get(), journal);
    EXPECT_TRUE(intact.ok()) << intact;
  }
  EXPECT_GT(refused, 0);
}

// Delays reads, writes and flushes, some of them much longer than a call may take.
class SlowDisk : public engine::IoObserver {
 public:
  explicit SlowDisk(uint64_t seed) : random_(seed) {}
  absl::StatusOr<uint64_t> WriteStarted(const std::string&, int64_t, absl::Span<const std::byte>) override {
    Pause();
    return 0;
  }
  void WriteEnded(uint64_t) override {}
  absl::StatusOr<uint64_t> SyncStarted(const std::string&) override {
    Pause();
    return 0;
  }
  void SyncEnded(uint64_t) override {}
  absl::Status ReadStarted(const std::string&, int64_t, int64_t) override {
    Pause();
    return absl::OkStatus();
  }
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string&) override {}
  void DirectoryCreated(const std::string&) override {}
  void Enable(bool on) { on_.store(on); }

 private:
  void Pause() {
    if (!on_.load()) return;
    uint64_t draw;
    {
      MutexLock lock(&mutex_);
      draw = random_();
    }
    if (draw % 64 == 0) {
      absl::SleepFor(absl::Milliseconds(700));
    } else if (draw % 4 == 0) {
      absl::SleepFor(absl::Microseconds(draw / 64 % 10000));
    }
  }
  std::atomic<bool> on_{false};
  Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
};

TEST(DiskFaultTest, Slow) {
  int64_t late = 0;
  for (int i = 0; i < FaultSeeds() && !::testing::Test::HasFailure(); ++i) {
    const uint64_t seed = TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
    ScratchDirectory scratch(/*in_memory=*/true);
    SlowDisk disk(seed);
    store::node::NodeOptions node_options = OwnNodeOptions(scratch.path());
    node_options.engine.dram_bytes = int64_t{24} << 20;  // so small that reads go to the disk
    node_options.engine.observer = &disk;
    const auto node = StartOwnNode(std::move(node_options));
    ASSERT_NE(node, nullptr);
    Journal journal(scratch.path() + "/journal");
    std::vector<std::unique_ptr<BusyClient>> clients;
    for (int client = 0; client < 3; ++client) {
      TrafficOptions options;
      options.seed = seed * 3 + client;
      options.first = 1000 * (client + 1);
      options.recycle = 8;
      options.deadline = absl::Milliseconds(400);
      clients.push_back(std::make_unique<BusyClient>(
          ClientOptions(node->addresses().control, CarrierOf(seed + client), options.deadline), &journal, options));
      ASSERT_TRUE(clients.back()->ok());
      EXPECT_TRUE((*clients.back())->WaitForSuccesses(10, kHangGuard)) << (*clients.back())->Stop();
    }
    disk.Enable(true);
    absl::SleepFor(absl::Seconds(2));
    for (auto& client : clients) {
      const absl::Status kept = (*client)->Stop();
      EXPECT_TRUE(kept.ok()) << kept << "; " << (*client)->counts().Text();
      late += (*client)->counts().failed();
    }
    disk.Enable(false);
    clients.clear();
    EXPECT_TRUE(NodeFigures(node->addresses().control).WaitForAtMost(kNothingHeld));
    auto store = store::client::OpenRemote(ClientOptions(node->addresses().control, CarrierOf(seed), kPatience));
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status intact = CheckJournal(store->get(), journal);
    EXPECT_TRUE(intact.ok()) << intact;
  }
  std::printf("%lld calls ended with an error\n", static_cast<long long>(late));
  EXPECT_GT(late, 0) << "the disk was not slow";
}

}  // namespace
}  // namespace kvlink::testing
