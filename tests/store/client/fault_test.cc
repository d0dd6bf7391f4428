// A client and a node that lose, delay, reorder, corrupt, cut and freeze what they say to each other, by seed; and a
// node that is killed and started again under load. Every byte that a read gives is compared with what was written; no
// call outlasts its deadline; what was acknowledged is there afterwards, and memory and leases come back.
#include <atomic>
#include <functional>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/address.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {
namespace {

constexpr int kDocuments = 24, kThreads = 3;
constexpr absl::Duration kCall = absl::Seconds(2);
// A call that lasts this much longer than its deadline hangs.
constexpr absl::Duration kHang = absl::Seconds(20);

Synthetic Encoding(int number) {
  // Of one layer and of many, within a unit and beyond.
  return MakeSynthetic(number, 1 + number % 7, number % 3 == 0 ? 600 : 40, 1 + number % 2, 32);
}

bool Excused(const absl::Status& status) {
  return status.ok() || absl::IsNotFound(status) || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsDataLoss(status) || absl::IsResourceExhausted(status);
}

// Calls of all kinds on a store that may fail in every way but the wrong ones.
class Load {
 public:
  explicit Load(store::client::RemoteStore* store) : store_(store) {
    for (int i = 0; i < kDocuments; ++i) encodings_.push_back(Encoding(i));
  }

  void Run(uint64_t seed, int calls) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([this, seed, t, calls] {
        std::mt19937_64 random(seed * 31 + t);
        for (int i = 0; i < calls; ++i) One(random);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // All acknowledged writes are there, byte for byte. REQUIRES: faults are off.
  void CheckAcknowledged(store::Store* store) {
    MutexLock lock(&mutex_);
    for (const int number : acknowledged_) {
      absl::Status status;
      const absl::Time limit = Patience();
      do {
        status = ReadAndCompare(store, "ns", encodings_[number]);
      } while (absl::IsUnavailable(status) && SteadyNow() < limit);  // it may have to connect first
      EXPECT_TRUE(status.ok()) << "encoding " << number << ": " << status;
    }
  }
  int64_t good_reads() const { return good_reads_; }
  int64_t failures() const { return failures_; }

 private:
  void One(std::mt19937_64& random) {
    const int number = static_cast<int>(random() % kDocuments);
    const Synthetic& s = encodings_[number];
    const absl::Time began = SteadyNow();
    const absl::Time deadline = began + kCall;
    absl::Status status;
    switch (random() % 8) {
      case 0:
      case 1: {
        const auto put = store_->Put("ns", s.manifest, s.spans(), deadline);
        status = put.status();
        if (put.ok()) {
          EXPECT_EQ(put->etag, s.manifest.etag);
          MutexLock lock(&mutex_);
          acknowledged_.insert(number);
        }
        break;
      }
      case 2:
        status = store_->Pin("ns", s.manifest.identity, Codec::kRawBf16);
        if (status.ok()) (void)store_->Unpin("ns", s.manifest.identity, Codec::kRawBf16);
        break;
      case 3: {
        const auto found = store_->Lookup("ns", {s.manifest.identity}, Codec::kRawBf16);
        status = found.status();
        if (found.ok() && (*found)[0].present) {
          EXPECT_EQ((*found)[0].etag, s.manifest.etag);
        }
        break;
      }
      case 4:
        status = ReadPart(s, deadline);
        break;
      default:
        status = Read(s, deadline, random() % 4 == 0);
        break;
    }
    EXPECT_TRUE(Excused(status)) << status;
    EXPECT_LT(SteadyNow(), deadline + kHang) << "a call hangs";
    if (!status.ok() && !absl::IsNotFound(status)) ++failures_;
  }

  absl::Status Read(const Synthetic& s, absl::Time deadline, bool let_go) {
    auto lease = store_->Read("ns", s.manifest.identity, Codec::kRawBf16, s.manifest.etag, deadline);
    if (!lease.ok()) return lease.status();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      if (let_go && layer > 0) return absl::OkStatus();
      const absl::Status status = (*lease)->WaitLayer(static_cast<int64_t>(layer), deadline);
      if (!status.ok()) return status;
      const auto got = (*lease)->layer(static_cast<int64_t>(layer));
      if (got != absl::MakeConstSpan(s.slabs[layer])) {
        if (!(*lease)->intact()) return absl::UnavailableError("lapsed");
        ADD_FAILURE() << "WRONG BYTES";
      }
    }
    ++good_reads_;
    return absl::OkStatus();
  }

  absl::Status ReadPart(const Synthetic& s, absl::Time deadline) {
    auto part = store_->ReadPart("ns", s.manifest.identity, Codec::kRawBf16, s.manifest.etag,
                                 {.heads = 1, .tokens = s.manifest.tokens > 512 ? 512 : 0}, deadline);
    if (!part.ok()) return part.status();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      const absl::Status status = (*part)->WaitLayer(static_cast<int64_t>(layer), deadline);
      if (!status.ok()) return status;
      const auto got = (*part)->head(static_cast<int64_t>(layer), 0);
      if (got != absl::MakeConstSpan(s.slabs[layer]).subspan(0, got.size())) ADD_FAILURE() << "WRONG BYTES of a part";
    }
    ++good_reads_;
    return absl::OkStatus();
  }

  store::client::RemoteStore* const store_;
  std::vector<Synthetic> encodings_;
  Mutex mutex_;
  std::set<int> acknowledged_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int64_t> good_reads_{0}, failures_{0};
};

// Rates that add up to at most `most`.
transport::FaultRates RandomRates(std::mt19937_64& random, double most) {
  const auto rate = [&] { return random() % 2 == 0 ? 0.0 : most / 6 * static_cast<double>(random() % 100) / 100; };
  return {rate(), rate(), rate(), rate(), rate(), rate()};
}

void ClientTimeouts(store::client::RemoteOptions* client) {
  client->request_timeout = kCall;
  client->connect_timeout = absl::Seconds(1);
  client->transfer_timeout = kCall;
  client->receive_bytes = int64_t{4} << 20;
  client->sending_bytes = int64_t{1} << 20;
}

class FaultTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Ways, FaultTest, ::testing::Values("loopback", "ucx"),
                         [](const auto& info) { return info.param; });

TEST_P(FaultTest, NothingWrongIsReadAndNothingHangs) {
  const int seeds = Soak() ? 100 : 5;
  int64_t good_reads = 0, failures = 0;
  std::map<transport::Fault, int64_t> struck;
  for (int n = 0; n < seeds; ++n) {
    const uint64_t seed = TestSeed() + n;
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    RemotePlaceOptions options;
    options.way = GetParam();
    options.faulty = true;
    options.faults.seed = seed;
    options.faults.messages = RandomRates(random, 0.12);
    options.faults.payloads = RandomRates(random, 0.3);
    options.faults.freeze = absl::Milliseconds(50);
    options.client = ClientTimeouts;
    RemotePlace place(options);
    Load load(place.remote());
    load.Run(seed + 1, 10);  // something to find
    place.EnableFaults(true);
    load.Run(seed, Soak() ? 60 : 30);
    for (const auto& faults : {place.node_faults()->struck(), place.client_faults()->struck()}) {
      for (const auto& [fault, times] : faults) struck[fault] += times;
    }
    place.EnableFaults(false);
    load.CheckAcknowledged(place.store());
    EXPECT_TRUE(Eventually([&] { return place.remote()->Counters().receive_bytes_used == 0; }));
    EXPECT_TRUE(Eventually([&] {
      const auto stats = place.store()->Stats();
      return stats.ok() && stats->leases == 0;
    })) << "the node holds leases of nobody";
    good_reads += load.good_reads();
    failures += load.failures();
  }
  EXPECT_GT(good_reads, 5 * seeds);
  EXPECT_GT(failures, 0) << "no fault was felt";
  for (const auto& [fault, times] : struck)
    std::printf("fault %d struck %d times\n", static_cast<int>(fault), static_cast<int>(times));
  std::printf("%d good reads, %d failed calls\n", static_cast<int>(good_reads), static_cast<int>(failures));
}

// A node in a process of its own, at an address that stays.
class NodeProcess {
 public:
  NodeProcess() { Start(); }
  void Start() {
    process_ = std::make_unique<Subprocess>(
        std::vector<std::string>{Program(), directory_.path() + "/store", control_},
        SubprocessOptions{.input = "", .keep_input_open = true, .environment = {"UCX_NET_DEVICES=lo"}});
    EXPECT_TRUE(Eventually([&] { return process_->output().find('\n') != std::string::npos || !process_->running(); }));
    ASSERT_NE(process_->output().find('\n'), std::string::npos) << process_->errors();
  }
  // Waits for its end: the store is locked until then.
  void Kill() {
    process_->Kill();
    process_->Wait();
  }
  void Signal(int signal) { process_->Signal(signal); }
  const std::string& control() const { return control_; }

 private:
  static std::string Program() {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    return self.substr(0, self.rfind('/')) + "/store_client_node_process";
  }
  ScratchDirectory directory_{/*in_memory=*/true};
  const std::string control_ = UnusedAddress();
  std::unique_ptr<Subprocess> process_;
};

std::unique_ptr<store::client::RemoteStore> MustOpen(const NodeProcess& node) {
  setenv("UCX_NET_DEVICES", "lo", 0);
  store::client::RemoteOptions options;
  options.address = node.control();
  options.carrier = store::client::Carrier::kUcx;
  ClientTimeouts(&options);
  auto opened = store::client::OpenRemote(options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

TEST(NodeDeathTest, KilledUnderLoadAndStartedAgain) {
  const int rounds = Soak() ? 100 : 5;
  NodeProcess node;
  const auto remote = MustOpen(node);
  ASSERT_NE(remote, nullptr);
  std::mt19937_64 random(TestSeed());
  Load load(remote.get());
  load.Run(TestSeed(), 10);
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    std::thread killer([&, wait = random() % 60] {
      absl::SleepFor(absl::Milliseconds(wait));
      node.Kill();
      node.Start();
    });
    load.Run(TestSeed() + round, 20);
    killer.join();
    load.CheckAcknowledged(remote.get());
  }
  EXPECT_GT(load.good_reads(), 0);
  EXPECT_GE(remote->Counters().reconnects, rounds);
  EXPECT_TRUE(Eventually([&] { return remote->Counters().receive_bytes_used == 0; }));
}

TEST(NodeDeathTest, FrozenUnderLoad) {
  NodeProcess node;
  const auto remote = MustOpen(node);
  ASSERT_NE(remote, nullptr);
  Load load(remote.get());
  load.Run(TestSeed(), 10);
  const absl::Time began = SteadyNow();
  std::thread freezer([&] {
    absl::SleepFor(absl::Milliseconds(20));
    node.Signal(SIGSTOP);
    absl::SleepFor(absl::Seconds(4));
    node.Signal(SIGCONT);
  });
  while (SteadyNow() < began + absl::Seconds(5)) load.Run(TestSeed() + 1, 5);
  freezer.join();
  load.CheckAcknowledged(remote.get());
  EXPECT_GT(load.failures(), 0);
}

}  // namespace
}  // namespace kvlink::testing
