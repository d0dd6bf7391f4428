// A node under ten thousand hostile peers at each of its listeners (a few hundred without KVLINK_SOAK): how long a
// legitimate client waits, how much memory the node needs, and whether an administrator gets in. Times are printed and
// recorded as properties; only the bounds are asserted.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "tests/integration/bare_listener.h"
#include "tests/integration/hostile_crowd.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/node_process.h"
#include "tests/store/node/raw_client.h"
#include "tests/store/synthetic.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMeasuresMemory = false;
#else
constexpr bool kMeasuresMemory = true;
#endif

constexpr int64_t kMemory = int64_t{128} << 20;  // --memory of NodeProcess
constexpr char kReader[] = "reader-key-123456", kWriter[] = "writer-key-123456", kAdmin[] = "admin-key-1234567",
               kGreedy[] = "greedy-key-123456";

// The peak memory of a process.
int64_t PeakBytes(pid_t process) {
  std::ifstream status(absl::StrCat("/proc/", process, "/status"));
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == "VmHWM:") status >> kilobytes;
  }
  return kilobytes << 10;
}

// In milliseconds.
struct Latencies {
  std::vector<double> lookups, pulls;
  static double P99(std::vector<double> values) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    return values[values.size() * 99 / 100];
  }
};

class HostileSoakTest : public ::testing::Test {
 protected:
  HostileSoakTest() : scratch_(/*in_memory=*/true) {
    WriteAccessFile(scratch_.path() + "/access",
                    absl::StrCat("reader ", kReader, " read a\nwriter ", kWriter, " write a\nadmin ", kAdmin,
                                 " admin *\ngreedy ", kGreedy, " read a\n"));
    node_ = std::make_unique<NodeProcess>(
        scratch_.path() + "/store",
        std::vector<std::string>{"--capacity", "1G", "--scrub", "0", "--access-file", scratch_.path() + "/access"});
  }
  void SetUp() override {
    peers_ = Soak() ? 10000 : 300;
    if (RaiseDescriptorLimit() < peers_ + 2000) GTEST_SKIP() << "too few descriptors for " << peers_ << " peers";
    ASSERT_TRUE(node_->Start());
    const auto writer = Client(kWriter, "grpc");
    ASSERT_NE(writer, nullptr);
    ASSERT_TRUE(writer->Put("a", encoding_.manifest, encoding_.spans(), SteadyNow() + kPatience).ok());
  }
  std::unique_ptr<store::client::RemoteStore> Client(const std::string& key, const std::string& carrier) {
    store::client::RemoteOptions options = ClientOptions(node_->address(), carrier, kPatience);
    options.key = key;
    auto store = store::client::OpenRemote(options);
    EXPECT_TRUE(store.ok()) << carrier << ": " << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // Connects a new client with an administrator's key.
  void ExpectAdministratorGetsIn() {
    const absl::Time begun = SteadyNow();
    const auto admin = store::client::NodeAdmin::Create({node_->address(), kAdmin, "administrator", {}});
    const auto status = admin->Status(SteadyNow() + kPatience);
    EXPECT_TRUE(status.ok()) << "the administrator: " << status.status();
    ++administrators_;
    slowest_administrator_ = std::max(slowest_administrator_, SteadyNow() - begun);
  }
  // Measures lookups and small pulls of a legitimate client, while administrators connect.
  Latencies Measure(store::client::RemoteStore* store, int count) {
    Latencies latencies;
    absl::Time next_administrator = SteadyNow();
    for (int i = 0; i < count; ++i) {
      if (SteadyNow() >= next_administrator) {
        ExpectAdministratorGetsIn();
        next_administrator = SteadyNow() + absl::Milliseconds(500);
      }
      absl::Time begun = SteadyNow();
      const auto found = store->Lookup("a", {encoding_.manifest.identity}, Codec::kRawBf16);
      latencies.lookups.push_back(absl::ToDoubleMilliseconds(SteadyNow() - begun));
      EXPECT_TRUE(found.ok() && (*found)[0].present) << found.status();
      begun = SteadyNow();
      const absl::Time deadline = begun + kPatience;
      const auto lease =
          store->Read("a", encoding_.manifest.identity, Codec::kRawBf16, encoding_.manifest.etag, deadline);
      EXPECT_TRUE(lease.ok()) << lease.status();
      for (int64_t layer = 0; lease.ok() && layer < 2; ++layer) {
        const absl::Status arrived = (*lease)->WaitLayer(layer, deadline);
        EXPECT_TRUE(arrived.ok()) << arrived;
      }
      latencies.pulls.push_back(absl::ToDoubleMilliseconds(SteadyNow() - begun));
    }
    return latencies;
  }
  void Report(const std::string& listener, int peers, const Latencies& before, const Latencies& during,
              const std::string& more) {
    const double lookups[] = {Latencies::P99(before.lookups), Latencies::P99(during.lookups)};
    const double pulls[] = {Latencies::P99(before.pulls), Latencies::P99(during.pulls)};
    const int64_t peak = PeakBytes(node_->process().pid()), bound = kMemory + kMemory / 20 + (int64_t{128} << 20);
    const std::string line = absl::StrFormat(
        "hostile: %s peers=%d p99 of lookups before %.2f ms during %.2f ms ratio %.2f; of pulls before %.2f ms during "
        "%.2f ms ratio %.2f; memory %d MiB of %d; %d administrators, the slowest %d ms; %s",
        listener, peers, lookups[0], lookups[1], lookups[1] / lookups[0], pulls[0], pulls[1], pulls[1] / pulls[0],
        peak >> 20, bound >> 20, administrators_, absl::ToInt64Milliseconds(slowest_administrator_), more);
    std::printf("%s\n", line.c_str());
    RecordProperty("hostile_" + listener, line);
    EXPECT_TRUE(node_->process().running())
        << "the node ended with " << node_->process().Wait() << ": " << node_->process().errors();
    if (kMeasuresMemory) {
      EXPECT_LE(peak, bound) << "the node's memory, beside hostile peers";
    }
  }
  static int Samples() { return Soak() ? 3000 : 200; }

  // `carrier`: of the legitimate client.
  void BesideACrowd(const std::string& listener, const std::string& carrier, CrowdOptions options) {
    const auto store = Client(kReader, carrier);
    ASSERT_NE(store, nullptr);
    (void)Measure(store.get(), 50);
    const Latencies before = Measure(store.get(), Samples());
    options.peers = peers_;
    auto crowd = std::make_unique<HostileCrowd>(options);
    EXPECT_TRUE(crowd->WaitForAll(absl::Minutes(3))) << crowd->connected() << " of " << peers_ << " came";
    const int64_t came = crowd->connections();
    const absl::Time begun_during = SteadyNow();
    const Latencies during = Measure(store.get(), Samples());
    const double rate =
        static_cast<double>(crowd->connections() - came) / absl::ToDoubleSeconds(SteadyNow() - begun_during);
    const int held = crowd->connected();
    // A new client is served too.
    const absl::Time begun = SteadyNow();
    // UCX cannot tell peers apart before its own handshake, so it may take several tries: reported, not asserted.
    store::client::RemoteOptions late = ClientOptions(node_->address(), carrier, kPatience);
    late.key = kReader;
    int tries = 0;
    bool served = false;
    while (!served && SteadyNow() < begun + kPatience) {
      ++tries;
      served = store::client::OpenRemote(late).ok();
    }
    EXPECT_TRUE(served || carrier == "ucx") << "a new client, after " << tries << " tries";
    const absl::Duration waited = SteadyNow() - begun;
    // The machine's share of the cost: the same crowd at a listener of this process, which only accepts it.
    crowd = nullptr;
    const bool local = options.address[0] == '/';
    const BareListener bare(local ? scratch_.path() + "/bare" : "", rate, held);
    options.address = bare.address();
    crowd = std::make_unique<HostileCrowd>(options);
    EXPECT_TRUE(crowd->WaitForAll(absl::Minutes(3))) << crowd->connected() << " of " << peers_ << " came";
    const Latencies elsewhere = Measure(store.get(), Samples());
    Report(
        listener, peers_, before, during,
        absl::StrFormat("beside the same crowd at a bare listener: lookups %.2f ms, pulls %.2f ms; %d connected, %.0f "
                        "connections/s; a new client %s after %d ms and %d tries",
                        Latencies::P99(elsewhere.lookups), Latencies::P99(elsewhere.pulls), held, rate,
                        served ? "is served" : "is not served", absl::ToInt64Milliseconds(waited), tries));
  }

  const ScratchDirectory scratch_;
  const Synthetic encoding_ = MakeSynthetic(1);
  std::unique_ptr<NodeProcess> node_;
  int peers_ = 0, administrators_ = 0;
  absl::Duration slowest_administrator_;
};

TEST_F(HostileSoakTest, Grpc) {
  ASSERT_NO_FATAL_FAILURE(BesideACrowd("grpc", "grpc", {node_->address(), 0, GrpcSpeeches()}));
  EXPECT_EQ(node_->Stop(), 0) << node_->process().errors();
}

TEST_F(HostileSoakTest, Ucx) {
  const std::string address = node_->ready()["ucx"];
  // Some peers speak UCX and then send nothing.
  const auto transport = NewTransport(Carrier::kUcx);
  std::vector<std::shared_ptr<transport::Connection>> silent;
  for (int i = 0; i < (Soak() ? 200 : 20); ++i) {
    auto connected = transport->Connect(address, std::make_shared<Inbox>(), Patience());
    EXPECT_TRUE(connected.ok()) << connected.status();
    if (connected.ok()) silent.push_back(*std::move(connected));
  }
  ASSERT_NO_FATAL_FAILURE(BesideACrowd("ucx", "ucx", {address, 0, UcxSpeeches()}));
  for (const auto& connection : silent) connection->Close();
}

TEST_F(HostileSoakTest, Socket) {
  ASSERT_NO_FATAL_FAILURE(BesideACrowd("socket", "mapped", {node_->ready()["socket"], 0, LocalSpeeches()}));
  EXPECT_EQ(node_->Stop(), 0) << node_->process().errors();
}

// A client whose key may read opens all it can, and reads no answers.
class Greedy {
 public:
  Greedy(const std::string& address, const Manifest& manifest) : control_(address), manifest_(manifest) {
    thread_ = Thread("greedy key", [this] { Run(); });
  }
  ~Greedy() {
    stop_.store(true);
    thread_.Join();
  }
  std::string token() const {
    MutexLock lock(&mutex_);
    return token_;
  }
  // Waits until the node has refused it something.
  bool WaitRefused(absl::Duration within) const {
    const absl::Time deadline = SteadyNow() + within;
    while (!refused_.load() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
    return refused_.load();
  }
  std::string Text() const {
    return absl::StrCat(sessions_.load(), " sessions, ", connections_.load(), " connections, ", pulls_.load(),
                        " pulls asked for");
  }

 private:
  void Run() {
    YieldToOthers();
    const auto first = control_.Open(kGreedy);
    if (!first.ok()) return;
    {
      MutexLock lock(&mutex_);
      token_ = control_.token();
    }
    for (; !stop_.load() && sessions_.load() < 10000; ++sessions_) {
      control_.set_token("");
      if (!control_.Open(kGreedy).ok()) break;
    }
    const auto grpc = NewTransport(Carrier::kGrpc), ucx = NewTransport(Carrier::kUcx);
    std::vector<std::unique_ptr<RawData>> held;
    const int most = Soak() ? 600 : 40;
    for (int i = 0; i < most && !stop_.load(); ++i) {
      for (const std::string& data : first->data()) {
        const bool is_ucx = data.rfind("ucx://", 0) == 0;
        auto connection =
            std::make_unique<RawData>(is_ucx ? ucx.get() : grpc.get(), data.substr(data.find("//") + 2), token());
        if (!connection->Hello(token()).ok()) continue;
        ++connections_;
        // Pulls for which it posts no receives.
        for (int k = 0; k < 64; ++k, ++pulls_) {
          connection->Send(RawData::PullOf("a", manifest_, connection->TakePayloadIds(2), 2));
        }
        held.push_back(std::move(connection));
      }
    }
    refused_.store(true);
    while (!stop_.load()) {
      control_.set_token("");
      (void)control_.Open(kGreedy);
      for (const auto& connection : held) {
        if (stop_.load()) break;
        connection->Send(RawData::PullOf("a", manifest_, connection->TakePayloadIds(2), 2));
        ++pulls_;
      }
    }
  }

  RawControl control_;
  const Manifest manifest_;
  std::atomic<bool> stop_{false}, refused_{false};
  std::atomic<int> sessions_{0}, connections_{0};
  std::atomic<int64_t> pulls_{0};
  mutable Mutex mutex_;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

TEST_F(HostileSoakTest, OneKeyThatOpensAllItCan) {
  const auto store = Client(kReader, "grpc");
  ASSERT_NE(store, nullptr);
  (void)Measure(store.get(), 50);
  const Latencies before = Measure(store.get(), Samples());
  Greedy greedy(node_->address(), encoding_.manifest);
  EXPECT_TRUE(greedy.WaitRefused(absl::Minutes(5))) << greedy.Text();
  // The crowd adds calls with this key, whose answers it does not read.
  const std::string token = greedy.token();
  HostileCrowd crowd(
      {node_->address(), peers_ / 10, GrpcSpeeches(absl::BytesToHexString({token.data(), token.size()}))});
  EXPECT_TRUE(crowd.WaitForAll(absl::Minutes(3))) << crowd.connected() << " came";
  const Latencies during = Measure(store.get(), Samples());
  Report("key", peers_ / 10, before, during, greedy.Text());
}

}  // namespace
}  // namespace kvlink::testing
