// An operator creates, inspects and changes a cluster, with the binary and a real etcd.
#include "tests/integration/cli_cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/postgres.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(CliClusterTest, MadeJoinedChangedAndLeft) {
  const Finished none = Kvlink({"members"});
  ExpectRefused(none, "members", {etcd_->endpoint(0), "no cluster 'default'", "kvlink cluster create"});
  EXPECT_EQ(none.status, 3);
  const Finished made = Kvlink({"cluster", "create", "--copies", "2", "--acknowledged", "1"});
  ASSERT_EQ(made.status, 0) << made.errors;
  EXPECT_THAT(made.output, AllOf(HasSubstr("2 copies, 1 acknowledged"), HasSubstr("--cluster " + place_)));
  ExpectRefused(Kvlink({"cluster", "create"}), "cluster", {place_, "a cluster of this name already exists"});

  NodeProcess a = NodeIn("a", {"--zone", "east"}), b = NodeIn("b", {"--weight", "5"}), c = NodeIn("c");
  ASSERT_TRUE(a.Start() && b.Start() && c.Start());
  EXPECT_EQ(a.ready()["cluster"], "default");
  const nlohmann::json cluster = Members();
  EXPECT_EQ(cluster["copies"], 2);
  ASSERT_EQ(cluster["members"].size(), 3u);
  const std::string id_a = a.ready()["node_id"];
  EXPECT_EQ(Member(a.address())["node_id"], id_a);
  EXPECT_EQ(Member(a.address())["zone"], "east");
  EXPECT_EQ(Member(a.address())["weight"], 2) << "GiB of its capacity";
  EXPECT_EQ(Member(a.address())["state"], "active");
  EXPECT_EQ(Member(a.address())["alive"], true);
  EXPECT_EQ(Member(a.address())["slots"], 65536);
  EXPECT_EQ(Member(b.address())["weight"], 5);
  // A node joins until it has all it owns, which here is nothing.
  ASSERT_TRUE(Becomes(c.address(), "active"));
  const Finished shown = Kvlink({"members", "list"});
  EXPECT_THAT(shown.output, AllOf(HasSubstr(id_a), HasSubstr(a.address()), HasSubstr("active"), HasSubstr("east")));

  const auto weighed =
      nlohmann::json::parse(Kvlink({"members", "weight", id_a.substr(0, 8), "9", "--json"}).output, nullptr, false);
  EXPECT_EQ(weighed["node_id"], id_a);
  EXPECT_EQ(weighed["change"], "weight");
  EXPECT_GT(weighed["epoch"], cluster["epoch"]);
  EXPECT_EQ(Kvlink({"members", "zone", b.address(), "west"}).status, 0);
  EXPECT_EQ(Member(a.address())["weight"], 9);
  EXPECT_EQ(Member(b.address())["zone"], "west");

  // A running node hands over first; then its process ends.
  ExpectRefused(Kvlink({"members", "remove", c.address()}), "members", {c.address(), "is alive", "--force"});
  const Finished left = Kvlink({"drain", c.address(), "--wait", "--json"});
  EXPECT_EQ(left.status, 0) << left.errors;
  EXPECT_EQ(nlohmann::json::parse(left.output, nullptr, false)["drain"], "complete") << left.output;
  EXPECT_EQ(c.process().Wait(), 0) << c.process().errors();
  EXPECT_EQ(Members()["members"].size(), 2u);
  // It may return, and may be removed by force.
  ASSERT_TRUE(c.Start());
  ASSERT_TRUE(Becomes(c.address(), "active"));
  EXPECT_EQ(Kvlink({"members", "remove", c.address(), "--force"}).status, 0);
  EXPECT_EQ(c.process().Wait(), 3) << c.process().errors();
  EXPECT_THAT(c.process().errors(), HasSubstr("was removed from the cluster"));
  EXPECT_EQ(Members()["members"].size(), 2u);

  // A draining node cannot leave while another must still copy from it, and may cancel.
  b.process().Signal(SIGSTOP);
  EXPECT_EQ(Kvlink({"drain", a.address()}).status, 0);
  EXPECT_EQ(Member(a.address())["state"], "draining");
  EXPECT_THAT(Kvlink({"drain", a.address(), "--cancel", "--json"}).output, HasSubstr("\"cancelled\""));
  EXPECT_EQ(Member(a.address())["state"], "active");
  b.process().Signal(SIGCONT);

  // A stopped node remains a member; restarted, it has its previous weight.
  EXPECT_EQ(a.Stop(), 0) << a.process().errors();
  EXPECT_EQ(Member(a.address())["alive"], false);
  a.Kill();
  ASSERT_TRUE(a.Start());
  EXPECT_EQ(Member(a.address())["alive"], true);
  EXPECT_EQ(Member(a.address())["weight"], 9);
  EXPECT_EQ(a.ready()["node_id"], id_a);
  EXPECT_EQ(a.Stop(), 0);
  EXPECT_EQ(Kvlink({"members", "remove", id_a}).status, 0);
  EXPECT_EQ(Members()["members"].size(), 1u);
}

// Whoever waits for a drain learns that it did not end as one, or that nobody can tell.
TEST_F(CliClusterTest, ADrainThatIsNotCompleted) {
  ASSERT_EQ(Kvlink({"cluster", "create", "--copies", "2"}).status, 0);
  NodeProcess a = NodeIn("a"), b = NodeIn("b");
  ASSERT_TRUE(a.Start() && b.Start());
  b.process().Signal(SIGSTOP);  // it copies nothing
  const auto drain = [&](const std::string& seconds) {
    auto waits = std::make_unique<Subprocess>(std::vector<std::string>{KVLINK_BINARY, "drain", a.address(), "--wait",
                                                                       "--timeout", seconds, "--cluster", place_});
    const absl::Time deadline = SteadyNow() + absl::Minutes(1);
    while (waits->output().find("is draining") == std::string::npos && SteadyNow() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return waits;
  };
  const auto waits = drain("15");
  etcd_->Kill(0);
  EXPECT_EQ(waits->Wait(), 5) << waits->errors();
  EXPECT_THAT(waits->errors(), AllOf(HasSubstr("is still draining is not known"), HasSubstr(etcd_->endpoint(0))));
  etcd_->Restart(0);
  const auto removed = drain("60");
  EXPECT_EQ(Kvlink({"members", "remove", a.address(), "--force"}).status, 0);
  EXPECT_EQ(removed->Wait(), 1) << removed->errors();
  EXPECT_THAT(removed->errors(), HasSubstr("was removed before it had drained"));
  EXPECT_EQ(removed->output().find("has left"), std::string::npos);
  EXPECT_EQ(a.process().Wait(), 3) << a.process().errors();
}

// A node that waits for other services while it starts ends on SIGTERM.
TEST_F(CliClusterTest, EndsWhileItStarts) {
  ASSERT_EQ(Kvlink({"cluster", "create"}).status, 0);
  etcd_->Freeze(0);
  Subprocess node({KVLINK_BINARY, "store", "--store", Directory("a"), "--listen", "127.0.0.1:0", "--cluster", place_});
  const auto catches = [&] {
    std::ifstream status(absl::StrCat("/proc/", node.pid(), "/status"));
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("SigBlk:", 0) == 0) return (std::stoull(line.substr(8), nullptr, 16) >> (SIGTERM - 1)) % 2 == 1;
    }
    return false;
  };
  for (const absl::Time deadline = SteadyNow() + absl::Minutes(1); !catches() && SteadyNow() < deadline;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  node.Signal(SIGTERM);
  EXPECT_EQ(node.Wait(), 128 + SIGTERM) << node.errors();
  etcd_->Thaw(0);
}

TEST_F(CliClusterTest, WhatIsMistakenIsSaidInALine) {
  ExpectRefused(RunToEnd({KVLINK_BINARY, "members"}), "members", {"--cluster HOST:PORT"});
  const std::string here = place_;
  place_ = "nowhere";
  ExpectRefused(Kvlink({"members"}), "members", {"--cluster", "nowhere", "HOST:PORT"});
  place_ = here + "/b/c";
  ExpectRefused(Kvlink({"members"}), "members", {"--cluster", "'b/c'"});
  place_ = here;
  ExpectRefused(Kvlink({"cluster"}), "cluster", {"kvlink cluster create"});
  ExpectRefused(Kvlink({"cluster", "create", "--copies", "2", "--acknowledged", "3"}), "cluster", {"3", "1 to 2"});
  ExpectRefused(Kvlink({"cluster", "create", "--database", "postgresql://kvlink:geheim@db/x"}), "cluster",
                {"PGPASSFILE"});
  ASSERT_EQ(Kvlink({"cluster", "create", "--copies", "1"}).status, 0);
  ExpectRefused(Kvlink({"members", "rename"}), "members", {"'rename'", "remove"});
  ExpectRefused(Kvlink({"members", "weight", "abcd"}), "members", {"weight NODE N"});
  ExpectRefused(Kvlink({"members", "weight", "abcd", "1"}), "members", {"no member 'abcd'"});
  ExpectRefused(Kvlink({"members", "remove", "abc"}), "members", {"4 digits"});
  ExpectRefused(Kvlink({"members", "remove", "my-node"}), "members", {"'my-node'", "address"});
  ExpectRefused(Kvlink({"drain"}), "drain", {"kvlink drain NODE"});
  ExpectRefused(Kvlink({"drain", "abcd", "--stop"}), "drain", {"--stop"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "store", "--store", Directory("x"), "--zone", "a"}), "store",
                {"--zone", "--cluster"});

  NodeProcess node = NodeIn("node");
  ASSERT_TRUE(node.Start());
  ExpectRefused(Kvlink({"drain", node.address()}), "drain", {"the only active member"});
  ExpectRefused(Kvlink({"members", "weight", node.address(), "0"}), "members", {"weight 0"});
  ExpectRefused(Kvlink({"members", "weight", node.address(), "much"}), "members", {"'much'"});
  ExpectRefused(Kvlink({"members", "zone", node.address(), "a b"}), "members", {"'a b'"});
  EXPECT_EQ(node.Stop(), 0);

  // The directory belongs to that cluster and no other.
  place_ = here + "/other";
  ExpectRefused(Kvlink({"store", "--store", Directory("node"), "--listen", "127.0.0.1:0"}), "store",
                {"no cluster 'other'", "default"});
  ExpectRefused(Kvlink({"cluster", "create", "--database", "postgresql://kvlink@127.0.0.1:1/kvlink"}), "cluster",
                {"the cluster was created", "127.0.0.1"});
  EXPECT_EQ(Members()["database"], "postgresql://kvlink@127.0.0.1:1/kvlink");
  ExpectRefused(Kvlink({"store", "--store", Directory("node"), "--listen", "127.0.0.1:0"}), "store",
                {Directory("node"), "'default'", "'other'"});
  const std::string access = Directory("access");
  std::ofstream(access) << "a 0123456789abcdef0 admin *\n";
  chmod(access.c_str(), 0600);
  ExpectRefused(
      Kvlink({"store", "--store", Directory("new"), "--listen", "0.0.0.0:0", "--access-file", access, "--insecure"}),
      "store", {"0.0.0.0:0", "--advertise"});
  EXPECT_FALSE(std::filesystem::exists(Directory("new")));
}

// A node serves only if the database is reachable and this cluster's; otherwise it says why, and is no member.
TEST_F(CliClusterTest, ACreatedClusterIsToldAsJson) {
  const Finished made = Kvlink({"cluster", "create", "--copies", "2", "--json"});
  EXPECT_EQ(made.status, 0) << made.errors;
  const auto json = nlohmann::json::parse(made.output, nullptr, false);
  EXPECT_EQ(json["cluster"], "default");
  EXPECT_EQ(json["copies"], 2);
  EXPECT_EQ(json["acknowledged"], 2);
  EXPECT_EQ(json["id"], Members()["id"]);
}

TEST_F(CliClusterTest, TheDatabaseOfACluster) {
  if (!PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
  const PostgresServer postgres;
  ASSERT_EQ(Kvlink({"cluster", "create", "--database", postgres.connection()}).status, 0);
  NodeProcess node = NodeIn("node");
  ASSERT_TRUE(node.Start());
  EXPECT_EQ(Members()["members"].size(), 1u);
  EXPECT_EQ(node.Stop(), 0) << node.process().errors();
  const std::string here = place_;
  place_ = here + "/other";
  ExpectRefused(Kvlink({"cluster", "create", "--database", postgres.connection()}), "cluster",
                {"the cluster was created", "name the database of this cluster"});
  const Finished taken = Kvlink({"store", "--store", Directory("other"), "--listen", "127.0.0.1:0", "--data", "none"});
  EXPECT_EQ(taken.status, 4) << taken.errors;
  EXPECT_THAT(taken.errors, HasSubstr("name the database of this cluster"));
  EXPECT_EQ(Members()["members"].size(), 0u);
}

// A mistake at the creation can be corrected, and the database may move.
TEST_F(CliClusterTest, TheDatabaseOfAClusterMoves) {
  if (!PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
  PostgresServer postgres;
  const std::string wrong = postgres.connection("misspelled"), right = postgres.connection();
  ExpectRefused(Kvlink({"cluster", "set", "--database", right}), "cluster", {place_, "no cluster 'default'"});
  ExpectRefused(Kvlink({"cluster", "create", "--database", wrong}), "cluster",
                {"the cluster was created", "misspelled", "kvlink cluster set --database"});
  // What cannot be used is not written.
  ExpectRefused(Kvlink({"cluster", "set", "--database", postgres.connection("another")}), "cluster", {"another"});
  ExpectRefused(Kvlink({"cluster", "set", "--database", right + "?password=secret"}), "cluster", {"password"});
  ExpectRefused(Kvlink({"cluster", "set", "--copies", "3", "--database", right}), "cluster", {"the database alone"});
  ExpectRefused(Kvlink({"cluster", "set"}), "cluster", {"--database CONNSTRING"});
  // The tables that this makes are left behind.
  const std::string left = postgres.connection(postgres.NewDatabase());
  EXPECT_EQ(Kvlink({"cluster", "set", "--database", left}).status, 0);
  const Finished set = Kvlink({"cluster", "set", "--database", right});
  EXPECT_EQ(set.status, 0) << set.errors;
  EXPECT_THAT(set.output, HasSubstr("from their next start"));
  NodeProcess node = NodeIn("node");
  ASSERT_TRUE(node.Start());
  EXPECT_EQ(node.Stop(), 0) << node.process().errors();
  // An empty one would hide the documents.
  const std::string empty = postgres.connection(postgres.NewDatabase());
  for (int i = 0; i < 2; ++i) {
    ExpectRefused(Kvlink({"cluster", "set", "--database", empty}), "cluster", {"no KVLink tables", "restore"});
  }
  ExpectRefused(Kvlink({"cluster", "set", "--database", left}), "cluster", {"its tables are empty", "restore"});
  EXPECT_EQ(Kvlink({"cluster", "set", "--database", right}).status, 0);
  // The database of another cluster is refused, and so is one for a cluster that has none.
  const std::string here = place_, second = postgres.connection(postgres.NewDatabase());
  place_ = here + "/other";
  ASSERT_EQ(Kvlink({"cluster", "create", "--database", second}).status, 0);
  ExpectRefused(Kvlink({"cluster", "set", "--database", right}), "cluster", {"name the database of this cluster"});
  place_ = here + "/bare";
  ASSERT_EQ(Kvlink({"cluster", "create"}).status, 0);
  ExpectRefused(Kvlink({"cluster", "set", "--database", postgres.connection(postgres.NewDatabase())}), "cluster",
                {"without a database"});
}

// Status shows all that needs no database; what needs one says that there is none.
TEST_F(CliClusterTest, NoDatabase) {
  ASSERT_EQ(Kvlink({"cluster", "create"}).status, 0);
  NodeProcess node = NodeIn("node");
  ASSERT_TRUE(node.Start());
  const Finished shown = Kvlink({"status"});
  EXPECT_EQ(shown.status, 0) << shown.errors;
  EXPECT_THAT(shown.output, AllOf(HasSubstr("without a database"), HasSubstr("--database"), HasSubstr(node.address()),
                                  HasSubstr("0 encodings")));
  ExpectRefused(Kvlink({"namespace", "docs"}), "namespace", {place_, "without a database", "--database"});
}

// The environment names the cluster for clients; credentials come from files.
TEST_F(CliClusterTest, EnvironmentAndCredentials) {
  ASSERT_EQ(Kvlink({"cluster", "create"}).status, 0);
  const std::string store = "KVLINK_STORE=etcd://" + place_;
  EXPECT_EQ(Kvlink({"members"}, {.environment = {store}}).status, 0);
  etcd_->EnableAuthentication();
  const Finished nobody = Kvlink({"members"});
  ExpectRefused(nobody, "members", {etcd_->endpoint(0), "user"});
  const std::string password = Directory("password");
  std::ofstream(password) << "root\n";
  chmod(password.c_str(), 0600);
  EXPECT_EQ(Kvlink({"members", "--etcd-user", "root", "--etcd-password-file", password}).status, 0);
  EXPECT_EQ(
      Kvlink({"members"}, {.environment = {store, "KVLINK_ETCD_USER=root", "KVLINK_ETCD_PASSWORD_FILE=" + password}})
          .status,
      0);
  chmod(password.c_str(), 0606);
  ExpectRefused(Kvlink({"members", "--etcd-user", "root", "--etcd-password-file", password}), "members",
                {"--etcd-password-file", "chmod"});
}

}  // namespace
}  // namespace kvlink::testing
