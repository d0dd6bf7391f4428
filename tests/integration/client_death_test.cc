// Clients that die in the middle of their calls: the node takes back what they held, and does not grow over many such
// deaths.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/node_process.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

class ClientDeathTest : public ::testing::TestWithParam<const char*> {
 protected:
  ClientDeathTest()
      : scratch_(/*in_memory=*/true), node_(scratch_.path() + "/store", {"--capacity", "1G", "--scrub", "0"}) {}

  ScratchDirectory scratch_;
  NodeProcess node_;
};

TEST_P(ClientDeathTest, CyclesOfKilledClientsLeaveNothingBehind) {
  const int cycles = Soak() ? 1000 : 15;
  const int settled = cycles / 3;
  const std::string carrier = GetParam();
  ASSERT_TRUE(node_.Start());
  Journal journal(scratch_.path() + "/journal");
  auto store = store::client::OpenRemote(ClientOptions(node_.address(), carrier, kPatience));
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status written = WriteAll(store->get(), &journal, 0, 16);
  ASSERT_TRUE(written.ok()) << written;
  const NodeFigures figures(node_.address());
  std::map<std::string, int64_t> nothing = kNothingHeld;
  nothing["connections"] = figures.Get("connections");

  std::mt19937_64 random(TestSeed());
  int64_t resident = 0, descriptors = 0, registered = 0, unfinished = 0;
  const std::vector<std::string> roles =
      carrier == "mapped" ? std::vector<std::string>{"hold", "pull"} : std::vector<std::string>{"push", "pull", "hold"};
  for (int cycle = 0; cycle < cycles && !HasFailure(); ++cycle) {
    const std::string role = roles[random() % roles.size()];
    SCOPED_TRACE(absl::StrCat("cycle ", cycle, ", ", role));
    // A pushing client writes into its own journal, which is removed once checked.
    const std::string path = scratch_.path() + "/pushes";
    if (role == "push") std::filesystem::remove(path);
    const auto client = StartClientProcess(node_.address(), carrier, role == "push" ? path : journal.path(), role,
                                           random(), 10000 + 1000 * cycle);
    ASSERT_NE(client, nullptr);
    absl::SleepFor(absl::Microseconds(random() % 50000));
    client->Kill();
    ASSERT_EQ(client->Wait(), 128 + SIGKILL) << client->errors();
    ASSERT_TRUE(figures.WaitForAtMost(nothing));
    if (role == "push") {
      Journal pushes(path);
      const absl::Status intact = CheckJournal(store->get(), pushes);
      EXPECT_TRUE(intact.ok()) << intact;
      const Journal::Contents contents = pushes.Read();
      unfinished += static_cast<int64_t>(contents.started.size() - contents.acknowledged.size());
      for (const uint64_t number : contents.started) {
        EXPECT_TRUE((*store)->Remove(kTrafficNamespace, EncodingOf(number)->manifest.identity).ok());
      }
    }
    if (cycle == settled) {
      resident = ResidentBytes(node_.process().pid());
      descriptors = OpenDescriptors(node_.process().pid());
      registered = figures.Get("registered_bytes");
    }
  }
  ASSERT_FALSE(HasFailure());
  const absl::Status intact = CheckJournal(store->get(), journal);
  EXPECT_TRUE(intact.ok()) << intact;
  const int64_t grown = ResidentBytes(node_.process().pid()) - resident;
  std::printf("%d cycles, %lld pushes cut short: %lld KiB resident and %lld descriptors more than after a third\n",
              cycles, static_cast<long long>(unfinished), static_cast<long long>(grown >> 10),
              static_cast<long long>(OpenDescriptors(node_.process().pid()) - descriptors));
  // Encodings that span two chunks of the tier get a registration of their own when first sent. A client's receive
  // buffers left behind in each cycle would be 80 MiB.
  EXPECT_LE(figures.Get("registered_bytes"), registered + (int64_t{48} << 20));
  // The control service notices a dead client's connection in its own time.
  const absl::Time noticed = SteadyNow() + absl::Seconds(30);
  while (OpenDescriptors(node_.process().pid()) > descriptors + 2 && SteadyNow() < noticed) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_LE(OpenDescriptors(node_.process().pid()), descriptors + 2);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // Posted receives left behind would be 4 MiB per cycle, 80 MiB in the shortest run.
  EXPECT_LE(grown, int64_t{48} << 20);
#endif
  // Memory kept by a push of a dead client would still be in use.
  EXPECT_TRUE(EmptyDramTier(store->get()));
  store->reset();
  EXPECT_EQ(node_.Stop(), 0) << node_.process().errors();
}

INSTANTIATE_TEST_SUITE_P(Carriers, ClientDeathTest, ::testing::Values("ucx", "grpc", "mapped"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kvlink::testing
