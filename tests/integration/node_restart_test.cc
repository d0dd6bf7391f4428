// A node that is killed or stopped, and restarted on its ports, while clients write and read. Each client continues
// with the store it has open; acknowledged encodings are there, others are whole or absent.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/node_process.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

// A round takes some seconds.
int Seeds() { return Soak() ? FaultSeeds() : 1; }

struct Load {
  const char* name;
  std::vector<double> writes;  // for each client, the share of writes
  bool may_drain;              // SIGTERM or kill -9, chosen by the seed; otherwise kill -9
};

const Load kPushes = {"Pushes", {1, 1}, false};
const Load kPulls = {"Pulls", {0, 0}, false};
const Load kEverything = {"Everything", {1, 0, 0.5, 0.5}, true};

using Case = std::tuple<Load, const char*>;

class NodeRestartTest : public ::testing::TestWithParam<Case> {
 protected:
  const Load& load() const { return std::get<0>(GetParam()); }
  std::string carrier() const { return std::get<1>(GetParam()); }
  void RunOnce(uint64_t seed);

  int64_t caught_ = 0;  // calls that a fault ended
};

void NodeRestartTest::RunOnce(uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
  std::mt19937_64 random(seed);
  ScratchDirectory scratch(/*in_memory=*/true);
  NodeProcess node(scratch.path() + "/store", {"--capacity", "1G", "--drain-seconds", "2"});
  ASSERT_TRUE(node.Start());
  Journal journal(scratch.path() + "/journal");
  {
    auto store = store::client::OpenRemote(ClientOptions(node.address(), carrier(), kPatience));
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status written = WriteAll(store->get(), &journal, 1000000 * (seed % 1000), 8);
    ASSERT_TRUE(written.ok()) << written;
  }

  std::vector<std::unique_ptr<BusyClient>> clients;
  for (size_t i = 0; i < load().writes.size(); ++i) {
    TrafficOptions options;
    options.seed = random();
    options.first = 1000000 * (seed % 1000) + 100000 * (i + 1);
    options.writes = load().writes[i];
    // Clients that only write send many bytes at a time, so that the fault hits them in the middle.
    options.large_only = options.writes == 1;
    options.recycle = 8;
    clients.push_back(std::make_unique<BusyClient>(ClientOptions(node.address(), carrier()), &journal, options));
    ASSERT_TRUE(clients.back()->ok());
  }
  for (auto& client : clients) EXPECT_TRUE((*client)->WaitForSuccesses(1, kHangGuard)) << (*client)->Stop();

  for (int restart = 0; restart < 2; ++restart) {
    absl::SleepFor(absl::Microseconds(random() % 200000));
    if (load().may_drain && random() % 2 == 0) {
      EXPECT_EQ(node.Stop(), 0) << node.process().errors();
    } else {
      node.Kill();
    }
    absl::SleepFor(absl::Microseconds(random() % 300000));
    ASSERT_TRUE(node.Start());
    for (auto& client : clients) {
      EXPECT_TRUE((*client)->WaitForSuccesses(2, 3 * kHangGuard))
          << "it does not go on: " << (*client)->counts().Text() << "; " << (*client)->Stop();
    }
  }
  for (auto& client : clients) {
    const absl::Status kept = (*client)->Stop();
    EXPECT_TRUE(kept.ok()) << kept << "; " << (*client)->counts().Text();
    caught_ += (*client)->counts().failed();
  }
  clients.clear();
  auto store = store::client::OpenRemote(ClientOptions(node.address(), carrier(), kPatience));
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status intact = CheckJournal(store->get(), journal);
  EXPECT_TRUE(intact.ok()) << intact;
  store->reset();
  EXPECT_EQ(node.Stop(), 0) << node.process().errors();
}

TEST_P(NodeRestartTest, ClientsGoOnAndNothingAcknowledgedIsLost) {
  for (int i = 0; i < Seeds() && !HasFailure(); ++i) RunOnce(TestSeed() + i);
  std::printf("%lld calls ended with an error\n", static_cast<long long>(caught_));
}

INSTANTIATE_TEST_SUITE_P(Loads, NodeRestartTest,
                         ::testing::Combine(::testing::Values(kPushes, kPulls, kEverything),
                                            ::testing::Values("ucx", "grpc", "mapped")),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "_", std::get<1>(info.param));
                         });

// A node that freezes and resumes: calls end by their deadlines, and later ones succeed.
class NodeFreezeTest : public ::testing::TestWithParam<const char*> {};

TEST_P(NodeFreezeTest, CallsEndByTheirDeadlinesAndLaterOnesSucceed) {
  ScratchDirectory scratch(/*in_memory=*/true);
  NodeProcess node(scratch.path() + "/store", {"--capacity", "1G"});
  ASSERT_TRUE(node.Start());
  Journal journal(scratch.path() + "/journal");
  std::vector<std::unique_ptr<BusyClient>> clients;
  for (int i = 0; i < 3; ++i) {
    TrafficOptions options;
    options.seed = TestSeed() + i;
    options.first = 100000 * (i + 1);
    options.recycle = 8;
    options.deadline = absl::Seconds(1);
    clients.push_back(
        std::make_unique<BusyClient>(ClientOptions(node.address(), GetParam(), options.deadline), &journal, options));
    ASSERT_TRUE(clients.back()->ok());
  }
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < Seeds() && !HasFailure(); ++i) {
    for (auto& client : clients) {
      EXPECT_TRUE((*client)->WaitForSuccesses(2, 3 * kHangGuard))
          << "it does not go on: " << (*client)->counts().Text() << "; " << (*client)->Stop();
    }
    absl::SleepFor(absl::Microseconds(random() % 100000));
    node.process().Signal(SIGSTOP);
    // Alternately longer than a call and the heartbeat, which fails the calls in progress, and shorter.
    absl::SleepFor(absl::Milliseconds(i % 2 == 0 ? 2000 + random() % 2000 : 100 + random() % 900));
    node.process().Signal(SIGCONT);
  }
  int64_t failed = 0;
  for (auto& client : clients) {
    EXPECT_TRUE((*client)->WaitForSuccesses(2, 3 * kHangGuard)) << (*client)->counts().Text();
    const absl::Status kept = (*client)->Stop();
    EXPECT_TRUE(kept.ok()) << kept;
    failed += (*client)->counts().failed();
  }
  EXPECT_GT(failed, 0) << "no call was caught";
  clients.clear();
  EXPECT_TRUE(NodeFigures(node.address()).WaitForAtMost(kNothingHeld));
  auto store = store::client::OpenRemote(ClientOptions(node.address(), GetParam(), kPatience));
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status intact = CheckJournal(store->get(), journal);
  EXPECT_TRUE(intact.ok()) << intact;
  store->reset();
  EXPECT_EQ(node.Stop(), 0) << node.process().errors();
}

// A client distinguishes a frozen node from a slow or absent one, long before the deadline of a put.
TEST_P(NodeFreezeTest, APutIsGivenUpSoon) {
  ScratchDirectory scratch(/*in_memory=*/true);
  NodeProcess node(scratch.path() + "/store", {"--capacity", "1G"});
  ASSERT_TRUE(node.Start());
  store::client::RemoteOptions options = ClientOptions(node.address(), GetParam(), kPatience);
  options.silence = absl::Seconds(1);
  auto store = store::client::OpenRemote(options);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto put = [&](uint64_t number) {
    const auto encoding = EncodingOf(number);
    return (*store)
        ->Put(kTrafficNamespace, encoding->manifest, encoding->spans(), SteadyNow() + absl::Minutes(10))
        .status();
  };
  ASSERT_TRUE(put(4).ok());
  node.process().Signal(SIGSTOP);
  const absl::Time begun = SteadyNow();
  const absl::Status stopped = put(8);
  // Neither the retries nor the carrier's own limits ended it, which take minutes.
  EXPECT_TRUE(absl::StrContains(stopped.message(), "has not responded for 1s")) << stopped;
  EXPECT_EQ(stopped.code(), absl::StatusCode::kUnavailable) << stopped;
  EXPECT_TRUE(absl::StrContains(stopped.message(), node.address())) << stopped;
  std::printf("%s: given up after %s: %s\n", GetParam(), absl::FormatDuration(SteadyNow() - begun).c_str(),
              std::string(stopped.message()).c_str());
  node.process().Signal(SIGCONT);
  absl::Status again;
  const absl::Time limit = SteadyNow() + 3 * kHangGuard;
  do {
    again = put(12);
  } while (!again.ok() && SteadyNow() < limit);
  EXPECT_TRUE(again.ok()) << again;
}

INSTANTIATE_TEST_SUITE_P(Carriers, NodeFreezeTest, ::testing::Values("ucx", "grpc", "mapped"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kvlink::testing
