// A node and its clients over a network that drops, delays, reorders, damages, cuts and freezes their messages, both
// ways. Calls fail or succeed by their deadlines, never with wrong bytes; once the network is repaired, all calls
// succeed.
#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/own_node.h"
#include "tests/support/seed.h"
#include "tests/support/transport/faulty/faulty.h"
#include "tests/support/transport/loopback/loopback.h"
#include "transport/ucx/ucx.h"

namespace kvlink::testing {
namespace {

using transport::Fault;
using transport::FaultOptions;

constexpr absl::Duration kDeadline = absl::Milliseconds(400);

struct Kind {
  const char* name;
  Fault fault;
};
constexpr Kind kKinds[] = {{"Drop", Fault::kDrop},       {"Delay", Fault::kDelay}, {"Reorder", Fault::kReorder},
                           {"Corrupt", Fault::kCorrupt}, {"Cut", Fault::kCut},     {"Freeze", Fault::kFreeze}};

using Case = std::tuple<Kind, bool>;

// A node and two clients, the second one patient, each behind its own faulty transport, whose faults begin with
// Enable.
class WireFaultTest : public ::testing::TestWithParam<Case> {
 protected:
  bool ucx() const { return std::get<1>(GetParam()); }

  std::unique_ptr<transport::FaultyTransport> NewFaulty(const FaultOptions& options) {
    const transport::TransportOptions inner_options{.heartbeat = absl::Milliseconds(500)};
    auto inner =
        ucx() ? transport::NewUcxTransport(inner_options) : transport::NewLoopbackTransport(network_, inner_options);
    EXPECT_TRUE(inner.ok()) << inner.status();
    auto faulty = transport::NewFaultyTransport(*std::move(inner), options);
    EXPECT_TRUE(faulty.ok()) << faulty.status();
    (*faulty)->Enable(false);
    return *std::move(faulty);
  }

  // `options`: the faults on both sides.
  void Open(const FaultOptions& options) {
    scratch_ = std::make_unique<ScratchDirectory>(/*in_memory=*/true);
    journal_ = std::make_unique<Journal>(scratch_->path() + "/journal");
    store::node::NodeOptions node_options = OwnNodeOptions(scratch_->path());
    node_options.data_address = "";
    node_options.local_socket = "";
    node_options.limits.push_progress = absl::Seconds(2);
    auto faulty = NewFaulty(options);
    faulty_ = {faulty.get()};
    node_options.carriers.push_back({"faulty", std::move(faulty), ucx() ? "127.0.0.1:0" : "node:0"});
    node_ = StartOwnNode(std::move(node_options));
    ASSERT_NE(node_, nullptr);
    const std::string data = node_->addresses().data[0];
    for (int i = 0; i < 2; ++i) {
      FaultOptions mine = options;
      mine.seed += i + 1;
      std::shared_ptr<transport::FaultyTransport> transport = NewFaulty(mine);
      faulty_.push_back(transport.get());
      store::client::RemoteOptions client =
          ClientOptions(node_->addresses().control, "auto", i == 0 ? kDeadline : kPatience);
      if (i == 0) client.connect_timeout = 10 * kDeadline;
      client.transport = std::move(transport);
      client.data_address = data.substr(data.find("://") + 3);
      auto store = store::client::OpenRemote(client);
      ASSERT_TRUE(store.ok()) << store.status();
      stores_.push_back(*std::move(store));
    }
  }
  void Close() {
    stores_.clear();
    node_ = nullptr;
    faulty_.clear();
  }
  void Enable(bool on) {
    for (transport::FaultyTransport* faulty : faulty_) faulty->Enable(on);
  }
  int64_t struck(Fault fault) const {
    int64_t count = 0;
    for (const transport::FaultyTransport* faulty : faulty_) {
      const auto struck = faulty->struck();
      if (const auto found = struck.find(fault); found != struck.end()) count += found->second;
    }
    return count;
  }
  TrafficOptions Calls(uint64_t seed) const {
    TrafficOptions options;
    options.seed = seed;
    options.deadline = kDeadline;
    options.corruption = std::get<0>(GetParam()).fault == Fault::kCorrupt;
    return options;
  }
  // Repairs the network and expects that the client continues, acknowledged encodings are there, and the node holds
  // nothing.
  void ExpectWell() {
    Enable(false);
    // The client notices a connection broken by the faults only when a call fails on it.
    const absl::Time deadline = SteadyNow() + kHangGuard;
    absl::Status status;
    do {
      status = stores_[0]->Lookup(kTrafficNamespace, {EncodingOf(1)->manifest.identity}, Codec::kRawBf16).status();
    } while (!status.ok() && SteadyNow() < deadline);
    EXPECT_TRUE(status.ok()) << status;
    const absl::Status intact = CheckJournal(stores_[1].get(), *journal_);
    EXPECT_TRUE(intact.ok()) << intact;
    EXPECT_TRUE(NodeFigures(node_->addresses().control).WaitForAtMost(kNothingHeld));
  }

  const std::shared_ptr<transport::LoopbackNetwork> network_ = transport::NewLoopbackNetwork();
  std::unique_ptr<ScratchDirectory> scratch_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<store::node::Node> node_;
  std::vector<transport::FaultyTransport*> faulty_;  // the node's, then each client's
  std::vector<std::unique_ptr<store::client::RemoteStore>> stores_;
};

// Disturbs each message and each payload of a write and a read, one at a time.
TEST_P(WireFaultTest, EachInTurn) {
  const Fault fault = std::get<0>(GetParam()).fault;
  const int64_t most = Soak() ? 40 : 12;
  const int64_t stride = Soak() ? 1 : 3;
  std::atomic<int64_t> wanted{-1}, seen{0};
  std::atomic<bool> payloads{false};
  FaultOptions options;
  options.schedule = [&](bool payload, int64_t) -> absl::optional<Fault> {
    if (payload != payloads.load()) return Fault::kNone;
    return seen.fetch_add(1) == wanted.load() ? fault : Fault::kNone;
  };
  ASSERT_NO_FATAL_FAILURE(Open(options));
  Enable(true);
  TrafficCounts counts;
  Traffic traffic(stores_[0].get(), journal_.get(), &counts, Calls(TestSeed()));
  uint64_t number = 0;
  for (const bool of_payloads : {false, true}) {
    payloads.store(of_payloads);
    for (int64_t n = static_cast<int64_t>(TestSeed() % stride); n < most && !HasFailure(); n += stride) {
      SCOPED_TRACE(absl::StrCat(of_payloads ? "payload " : "message ", n));
      number += 4;  // eight layers
      seen.store(0);
      wanted.store(n);
      absl::Status kept = traffic.Write(number);
      EXPECT_TRUE(kept.ok()) << kept;
      if (journal_->Read().acknowledged.count(number) > 0) {
        kept = traffic.Read(number);
        EXPECT_TRUE(kept.ok()) << kept;
      }
      wanted.store(-1);
    }
  }
  std::printf("struck %lld times: %s\n", static_cast<long long>(struck(fault)), counts.Text().c_str());
  EXPECT_GT(struck(fault), 0);
  ExpectWell();
  Close();
}

INSTANTIATE_TEST_SUITE_P(Faults, WireFaultTest, ::testing::Combine(::testing::ValuesIn(kKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name,
                                               std::get<1>(info.param) ? "_ucx" : "_loopback");
                         });

}  // namespace
}  // namespace kvlink::testing
