// Clients that freeze in the middle of their calls: the node takes back and reuses what they held. When they resume
// they notice that, and never use wrong bytes (store_client_process.cc compares every byte).
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/own_node.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

constexpr uint64_t kEncodings = 24;  // half of them have 4 MiB: several times the node's memory

// Returns a count of those that a client prints at its end: 3 for "lapsed" of "lapsed 3, used 17".
int64_t CountIn(const std::string& output, const std::string& what) {
  const size_t ready = output.find("ready\n");
  if (ready == std::string::npos) return 0;
  const std::string counts(absl::StripAsciiWhitespace(output.substr(ready + 6)));
  for (const absl::string_view part : absl::StrSplit(counts, ", ")) {
    int64_t count = 0;
    if (absl::StartsWith(part, what + " ") && absl::SimpleAtoi(part.substr(what.size() + 1), &count)) return count;
  }
  return 0;
}

class ClientFreezeTest : public ::testing::TestWithParam<const char*> {
 protected:
  ClientFreezeTest() : scratch_(/*in_memory=*/true), journal_(scratch_.path() + "/journal") {}

  void SetUp() override {
    store::node::NodeOptions options = OwnNodeOptions(scratch_.path());
    options.engine.dram_bytes = int64_t{24} << 20;
    options.limits.lease = absl::Milliseconds(500);
    node_ = StartOwnNode(std::move(options));
    ASSERT_NE(node_, nullptr);
    auto store = store::client::OpenRemote(ClientOptions(address(), "ucx", kPatience));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    figures_ = std::make_unique<NodeFigures>(address());
    const absl::Status written = WriteAll(store_.get(), &journal_, 0, kEncodings);
    ASSERT_TRUE(written.ok()) << written;
  }
  std::string address() const { return node_->addresses().control; }
  int64_t Hits() const { return figures_->Get("hits_dram") + figures_->Get("hits_segments"); }

  // Freezes a client at a random moment, makes the node reuse its memory if the freeze is long, and resumes the client.
  // Returns the counts it printed; any misbehaviour is a test failure.
  std::string FreezeOnce(const std::string& role, uint64_t seed, bool long_freeze) {
    std::mt19937_64 random(seed);
    const auto client = StartClientProcess(address(), GetParam(), journal_.path(), role, random());
    if (client == nullptr) return "";
    absl::SleepFor(absl::Microseconds(random() % 50000));
    client->Signal(SIGSTOP);
    if (long_freeze) {
      // The node takes back everything, and reuses the pages several times.
      EXPECT_TRUE(figures_->WaitForAtMost(kNothingHeld));
      const absl::Status intact = CheckJournal(store_.get(), journal_);
      EXPECT_TRUE(intact.ok()) << intact;
    } else {
      absl::SleepFor(absl::Milliseconds(random() % 700));
    }
    const int64_t hits = Hits();
    client->Signal(SIGCONT);
    const absl::Time deadline = SteadyNow() + 3 * kHangGuard;
    while (Hits() < hits + 6 && client->running() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_GE(Hits(), hits + 6) << "it does not go on";
    client->CloseInput();
    EXPECT_EQ(client->Wait(), 0) << client->errors();
    EXPECT_TRUE(figures_->WaitForAtMost(kNothingHeld));
    return client->output();
  }

  const ScratchDirectory scratch_;
  Journal journal_;
  std::unique_ptr<store::node::Node> node_;
  std::unique_ptr<store::client::RemoteStore> store_;
  std::unique_ptr<NodeFigures> figures_;
};

TEST_P(ClientFreezeTest, InTheMiddleOfPulls) {
  for (int i = 0; i < FaultSeeds() && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", TestSeed() + i));
    const std::string output = FreezeOnce("pull", TestSeed() + i, i % 2 == 0);
    EXPECT_GT(CountIn(output, "read ok"), 0) << output;
  }
}

TEST_P(ClientFreezeTest, WhileItHoldsLeases) {
  int64_t lapsed = 0;
  for (int i = 0; i < FaultSeeds() && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", TestSeed() + i));
    const std::string output = FreezeOnce("hold", TestSeed() + i, i % 4 != 3);
    EXPECT_GT(CountIn(output, "used"), 0) << output;
    lapsed += CountIn(output, "lapsed");
  }
  std::printf("%lld leases lapsed\n", static_cast<long long>(lapsed));
  // A reader keeps its own copies as long as it likes; mapped pages belong to the node.
  if (GetParam() == std::string("mapped")) {
    EXPECT_GT(lapsed, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Carriers, ClientFreezeTest, ::testing::Values("ucx", "grpc", "mapped"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kvlink::testing
