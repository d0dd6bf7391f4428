// Shared by tests of a cluster by the binary: a real etcd, nodes as processes, and short ways to run commands on them.
#ifndef KVLINK_TESTS_INTEGRATION_CLI_CLUSTER_H_
#define KVLINK_TESTS_INTEGRATION_CLI_CLUSTER_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "tests/integration/cli_workplace.h"
#include "tests/integration/node_process.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {

class CliClusterTest : public CliTest {
 protected:
  void SetUp() override {
    if (!EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
    CliTest::SetUp();
    etcd_ = std::make_unique<EtcdCluster>(1);
    place_ = etcd_->endpoints();
  }
  // kvlink WORDS --cluster PLACE, or whichever cluster the environment names.
  Finished Kvlink(std::vector<std::string> words, const SubprocessOptions& options = {}) const {
    words.insert(words.begin(), KVLINK_BINARY);
    if (options.environment.empty()) words.insert(words.end(), {"--cluster", place_});
    return RunToEnd(words, options);
  }
  std::string Directory(const std::string& name) const { return scratch_.path() + "/" + name; }
  NodeProcess NodeIn(const std::string& name, std::vector<std::string> arguments = {}) const {
    arguments.insert(arguments.end(), {"--cluster", place_, "--capacity", "2G"});
    return NodeProcess(Directory(name), std::move(arguments));
  }
  nlohmann::json Members() const {
    const Finished listed = Kvlink({"members", "--json"});
    EXPECT_EQ(listed.status, 0) << listed.errors;
    return nlohmann::json::parse(listed.output, nullptr, false);
  }
  nlohmann::json Member(const std::string& address) const {
    const nlohmann::json cluster = Members();
    for (const auto& member : cluster["members"]) {
      if (member["address"] == address) return member;
    }
    ADD_FAILURE() << "no member at " << address;
    return {};
  }

  bool Becomes(const std::string& address, const std::string& state) const {
    for (const absl::Time deadline = SteadyNow() + absl::Minutes(1); SteadyNow() < deadline;) {
      if (Member(address)["state"] == state) return true;
    }
    return false;
  }

  ScratchDirectory scratch_{/*in_memory=*/true};
  std::unique_ptr<EtcdCluster> etcd_;
  std::string place_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLI_CLUSTER_H_
