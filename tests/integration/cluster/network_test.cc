// Checks that the network of the fault tests does what they rely on.
#include "tests/integration/cluster/network.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/patience.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {
namespace {

// Whether bash, run by `command`, can connect to the address, where something listens.
bool Connects(std::vector<std::string> command, const std::string& address, int port) {
  for (const std::string& word : {std::string("/usr/bin/timeout"), std::string("2"), std::string("bash"),
                                  std::string("-c"), "exec 3<>/dev/tcp/" + address + "/" + std::to_string(port)}) {
    command.push_back(word);
  }
  return RunToEnd(command).status == 0;
}

bool Reaches(const Network& network, int host, const std::string& address, int port) {
  return Connects(network.On(host), address, port);
}

TEST(NetworkTest, DisconnectsAndReconnectsHosts) {
  if (const std::string why = Network::WhyNot(); !why.empty()) GTEST_SKIP() << why;
  Network network(2, 2);
  constexpr int kPort = 17771;
  std::vector<std::string> command = network.On(1);
  for (const char* word : {"/usr/bin/env", "python3", "-m", "http.server", "17771"}) command.push_back(word);
  Subprocess server(command);
  // A connection is refused until the server listens.
  bool up = false;
  for (const absl::Time deadline = Patience(); !up && SteadyNow() < deadline; absl::SleepFor(absl::Milliseconds(50))) {
    up = Reaches(network, 0, network.address(1), kPort);
  }
  ASSERT_TRUE(up) << server.errors();
  network.Drop(0, network.address(1));
  EXPECT_FALSE(Reaches(network, 0, network.address(1), kPort));
  network.Heal(0);
  EXPECT_TRUE(Reaches(network, 0, network.address(1), kPort));
  network.Drop(1, network.address(0));  // drops only its answers
  EXPECT_FALSE(Reaches(network, 0, network.address(1), kPort));
  network.Heal(1);
  EXPECT_TRUE(Connects({}, network.address(1), kPort));  // connects from the first local address
  network.DropFrom(network.local(0), 1);
  EXPECT_FALSE(Connects({}, network.address(1), kPort));
  EXPECT_TRUE(Reaches(network, 0, network.address(1), kPort));
  network.Heal(1);
  network.DropFrom(network.local(1), 1);
  EXPECT_TRUE(Connects({}, network.address(1), kPort));
  network.Heal(1);
  network.Isolate(1);
  EXPECT_FALSE(Reaches(network, 0, network.address(1), kPort));
  network.Heal(1);
  EXPECT_TRUE(Reaches(network, 0, network.address(1), kPort));
}

}  // namespace
}  // namespace kvlink::testing
