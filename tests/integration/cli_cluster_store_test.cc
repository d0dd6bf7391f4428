// Documents are ingested into a cluster and asked for, by the binary, over a real etcd and a real PostgreSQL; with a
// node killed in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "tests/integration/cli_workplace.h"
#include "tests/integration/node_process.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/postgres.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CliClusterStoreTest : public CliTest {
 protected:
  static constexpr int64_t kBlock = int64_t{64} << 10;

  void SetUp() override {
    if (!EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
    if (!PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
    CliTest::SetUp();
    etcd_ = std::make_unique<EtcdCluster>(1);
    postgres_ = std::make_unique<PostgresServer>();
    const Finished made =
        Kvlink({"cluster", "create", "--copies", "2", "--acknowledged", "1", "--database", postgres_->connection()});
    ASSERT_EQ(made.status, 0) << made.errors;
    for (int i = 0; i < 3; ++i) {
      nodes_.push_back(MakeNode(i));
      ASSERT_TRUE(nodes_.back()->Start());
    }
  }
  std::unique_ptr<NodeProcess> MakeNode(int number) const {
    return std::make_unique<NodeProcess>(
        Path(absl::StrCat("node", number)),
        std::vector<std::string>{"--cluster", etcd_->endpoints(), "--capacity", "1G", "--memory", "64M"});
  }
  // kvlink WORDS --cluster PLACE
  Finished Kvlink(std::vector<std::string> words, const SubprocessOptions& options = {}) const {
    words.insert(words.begin(), KVLINK_BINARY);
    words.insert(words.end(), {"--cluster", etcd_->endpoints()});
    return RunToEnd(words, options);
  }
  Finished WithModel(std::vector<std::string> words) const {
    words.insert(words.end(), {"--model", model_, "--memory", "64M", "--threads", "1"});
    return Kvlink(std::move(words));
  }
  nlohmann::json Json(std::vector<std::string> words) const {
    words.push_back("--json");
    const Finished finished = Kvlink(std::move(words));
    EXPECT_EQ(finished.status, 0) << finished.errors;
    return nlohmann::json::parse(finished.output, nullptr, false);
  }
  // Of a status, as JSON; null: nothing.
  static nlohmann::json NamespaceIn(const nlohmann::json& status, const std::string& ns) {
    for (const auto& one : status["namespaces"]) {
      if (one["name"] == ns) return one;
    }
    return nullptr;
  }
  static nlohmann::json AtNode(const NodeProcess& node, const std::string& ns) {
    const Finished status = RunToEnd({KVLINK_BINARY, "status", "--store", node.address(), "--json"});
    EXPECT_EQ(status.status, 0) << status.errors;
    return NamespaceIn(nlohmann::json::parse(status.output, nullptr, false), ns);
  }
  nlohmann::json InCluster(const std::string& ns) const { return NamespaceIn(Json({"status"}), ns); }
  int64_t Copies(const std::string& ns) const {
    const nlohmann::json all = InCluster(ns);
    return all.is_null() ? 0 : all["encodings"].get<int64_t>();
  }
  bool AllHave(const std::string& ns, int64_t capacity, uint64_t revision) const {
    return absl::c_all_of(nodes_, [&](const auto& node) {
      const nlohmann::json one = AtNode(*node, ns);
      return !one.is_null() && one["capacity_bytes"] == capacity && one["revision"] == revision;
    });
  }
  // Whether each node enforces about `share` of a capacity, and all together enforce it.
  bool SharesAre(const std::string& ns, int64_t share, int64_t capacity) const {
    int64_t sum = 0;
    for (const auto& node : nodes_) {
      const nlohmann::json one = AtNode(*node, ns);
      if (one.is_null()) return false;
      const auto here = one["node_capacity_bytes"].get<int64_t>();
      if (here < share - share / 20 || here > share + share / 20) return false;
      sum += here;
    }
    return sum <= capacity && sum > capacity - kBlock;
  }
  Finished IngestInto(const std::string& ns, int begin, int end) const {
    return WithModel({"ingest", Write("documents.jsonl", Lines(begin, end)), "--namespace", ns});
  }
  // A hang guard, not a limit.
  static bool Eventually(const std::function<bool()>& holds) {
    const absl::Time deadline = SteadyNow() + absl::Seconds(60);
    while (!holds() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(100));
    return holds();
  }
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<PostgresServer> postgres_;
  std::vector<std::unique_ptr<NodeProcess>> nodes_;
};

TEST_F(CliClusterStoreTest, DocumentsAreIngestedAskedForAndDeleted) {
  const std::string documents = Write("documents.jsonl", Lines(0, 30));
  const Finished ingested = WithModel({"ingest", documents});
  ASSERT_EQ(ingested.status, 0) << ingested.errors;
  EXPECT_THAT(ingested.output, HasSubstr("30 documents: 30 added"));
  const Finished again = WithModel({"ingest", documents});
  EXPECT_THAT(again.output, HasSubstr("30 already complete")) << again.errors;

  const auto ask = [&] {
    return WithModel({"ask", "--doc", "d0", "--doc", "d7", "--doc", "d21", "--question", "what is it?", "--max-tokens",
                      "8", "--quiet"});
  };
  const Finished asked = ask();
  ASSERT_EQ(asked.status, 0) << asked.errors;

  const nlohmann::json store = Json({"inspect", "store"});
  ASSERT_EQ(store["namespaces"].size(), 1u) << store;
  EXPECT_EQ(store["namespaces"][0]["documents"], 30);
  EXPECT_GE(store["namespaces"][0]["encodings"], 60) << "two copies of each";
  EXPECT_EQ(Json({"inspect", "documents"}).size(), 30u);
  EXPECT_EQ(Json({"inspect", "document", "d7"})["parts"][0]["encodings"].size(), 1u);
  const Finished verified = Kvlink({"verify"});
  EXPECT_EQ(verified.status, 0) << verified.errors;
  EXPECT_THAT(verified.output, HasSubstr("0 damaged"));

  const nlohmann::json status = Json({"status"});
  ASSERT_EQ(status["members"].size(), 3u) << status;
  int64_t encodings = 0;
  for (const auto& member : status["members"]) {
    EXPECT_EQ(member["alive"], true);
    encodings += member["encodings"].get<int64_t>();
  }
  EXPECT_GE(encodings, 60);
  EXPECT_THAT(Kvlink({"status"}).output, AllOf(HasSubstr(nodes_[0]->address()), HasSubstr("alive")));

  // Without one of the founders everything is still there.
  nodes_[0]->Kill();
  const Finished without = ask();
  ASSERT_EQ(without.status, 0) << without.errors;
  EXPECT_EQ(without.output, asked.output);
  EXPECT_THAT(Kvlink({"status"}).output, HasSubstr("does not answer"));
  ASSERT_TRUE(nodes_[0]->Start());

  EXPECT_EQ(Kvlink({"delete", "d0", "d1", "--wait", "60"}).status, 0);
  EXPECT_EQ(Json({"inspect", "store"})["namespaces"][0]["encodings"], 56);  // copies
  EXPECT_EQ(Json({"inspect", "documents"}).size(), 28u);
  const Finished gone = WithModel({"ask", "--doc", "d0", "--question", "what?", "--max-tokens", "2"});
  ExpectRefused(gone, "ask", {"d0", "cluster " + etcd_->endpoints()});
  EXPECT_EQ(Kvlink({"delete", "--namespace", "default", "--whole-namespace"}).status, 0);
  EXPECT_EQ(Json({"inspect", "store"})["namespaces"].size(), 0u);
}

// A limit is of all nodes together, copies counted. Each encoding here takes one block of 64 KiB.
TEST_F(CliClusterStoreTest, QuotasAreTheClusters) {
  ASSERT_EQ(IngestInto("other", 0, 20).status, 0);
  const Finished ingested = IngestInto("docs", 0, 90);
  ASSERT_EQ(ingested.status, 0) << ingested.errors;
  ASSERT_GE(Copies("docs"), 180);
  EXPECT_LE(InCluster("docs")["bytes"].get<int64_t>(), Copies("docs") * kBlock);

  const Finished set = Kvlink({"namespace", "docs", "--capacity", "6M", "--revision", "5"});
  ASSERT_EQ(set.status, 0) << set.errors;
  EXPECT_THAT(set.output, AllOf(HasSubstr("docs: capacity 6 MiB for all copies together"), HasSubstr("90 documents"),
                                HasSubstr("revision 5")));
  EXPECT_TRUE(Eventually([&] { return AllHave("docs", 6 << 20, 5); }));
  EXPECT_TRUE(Eventually([&] { return Copies("docs") <= 96; }));
  EXPECT_GE(Copies("docs"), 48) << "not much more than the limit demands";
  EXPECT_TRUE(SharesAre("docs", 2 << 20, 6 << 20));
  // What comes takes the room of its own namespace.
  const Finished more = IngestInto("docs", 100, 160);
  EXPECT_TRUE(more.status == 0 || more.status == 7) << more.errors;
  EXPECT_LE(Copies("docs"), 96);
  EXPECT_EQ(Copies("other"), 40);
  EXPECT_THAT(Kvlink({"status"}).output, HasSubstr(" of 6 MiB"));

  // What is older changes nothing, what is given for one node is refused, what is not given stays.
  const Finished old = Kvlink({"namespace", "docs", "--capacity", "20M", "--revision", "4"});
  EXPECT_EQ(old.status, 4);
  ExpectRefused(old, "namespace", {"revision 4 does not replace the current revision 5"});
  const std::string one = nodes_[0]->address();
  const Finished at_one = RunToEnd({KVLINK_BINARY, "namespace", "docs", "--capacity", "1G", "--store", one});
  EXPECT_EQ(at_one.status, 4);
  ExpectRefused(at_one, "namespace", {"kvlink namespace docs --cluster"});
  EXPECT_THAT(RunToEnd({KVLINK_BINARY, "namespace", "docs", "--store", one}).output,
              AllOf(HasSubstr("capacity 6 MiB in the cluster, "), HasSubstr(" on this node")));
  EXPECT_THAT(Kvlink({"namespace", "docs", "--pinned", "1M"}).output,
              AllOf(HasSubstr("capacity 6 MiB"), HasSubstr("pinned limit 1 MiB"), HasSubstr("revision 6")));
  EXPECT_TRUE(Eventually([&] { return AllHave("docs", 6 << 20, 6); }));

  // Too small for any encoding at any node.
  EXPECT_EQ(Kvlink({"namespace", "tiny", "--capacity", "64K"}).status, 0);
  EXPECT_TRUE(Eventually([&] { return AllHave("tiny", 64 << 10, 1); }));
  const Finished none = IngestInto("tiny", 0, 2);
  EXPECT_EQ(none.status, 7) << none.errors;

  // Limits go with their namespace.
  EXPECT_EQ(Kvlink({"delete", "--namespace", "docs", "--whole-namespace"}).status, 0);
  EXPECT_TRUE(Eventually(
      [&] { return absl::c_all_of(nodes_, [](const auto& node) { return AtNode(*node, "docs").is_null(); }); }));
  const Finished gone =
      RunToEnd({KVLINK_BINARY, "namespace", "docs"}, {.environment = {"KVLINK_STORE=etcd://" + etcd_->endpoints()}});
  EXPECT_EQ(gone.status, 0) << gone.errors;
  EXPECT_THAT(gone.output, HasSubstr("docs: capacity unlimited, each node's default pinned limit"));
}

TEST_F(CliClusterStoreTest, QuotasFollowTheMembers) {
  ASSERT_EQ(IngestInto("other", 0, 20).status, 0);
  ASSERT_EQ(IngestInto("docs", 0, 60).status, 0);
  ASSERT_GE(Copies("docs"), 120);
  // A node that was away has what holds when it serves again.
  nodes_[2]->Kill();
  EXPECT_EQ(Kvlink({"namespace", "docs", "--capacity", "3M"}).status, 0);
  EXPECT_THAT(Kvlink({"namespace", "docs"}).output,
              AllOf(HasSubstr("capacity 3 MiB"), HasSubstr("revision 1"), HasSubstr("not counting 1 of 3 nodes")));
  ASSERT_TRUE(nodes_[2]->Start());
  EXPECT_EQ(AtNode(*nodes_[2], "docs")["capacity_bytes"], 3 << 20);
  EXPECT_TRUE(Eventually([&] { return AllHave("docs", 3 << 20, 1); }));
  EXPECT_TRUE(Eventually([&] { return Copies("docs") <= 48; }));
  EXPECT_EQ(Copies("other"), 40);
  EXPECT_TRUE(SharesAre("docs", 1 << 20, 3 << 20));

  // A node that joins takes a share, and the others give it.
  nodes_.push_back(MakeNode(3));
  ASSERT_TRUE(nodes_.back()->Start());
  EXPECT_TRUE(Eventually([&] { return SharesAre("docs", 768 << 10, 3 << 20); }));
  EXPECT_TRUE(Eventually([&] { return Copies("docs") <= 48; }));
  EXPECT_GE(Copies("other"), 40) << "and those that moved, where they were";

  // Without the database each goes on with what it has.
  postgres_->Kill();
  EXPECT_EQ(Kvlink({"namespace", "docs", "--capacity", "1M"}).status, 5);
  EXPECT_THAT(Kvlink({"status"}).output, HasSubstr("limits of namespaces are unknown"));
  EXPECT_TRUE(AllHave("docs", 3 << 20, 1));
  postgres_->Restart();
  EXPECT_EQ(Kvlink({"namespace", "docs", "--capacity", "1M"}).status, 0);
  EXPECT_TRUE(Eventually([&] { return AllHave("docs", 1 << 20, 2); }));
}

// Counting the documents of a large catalog does not end in time; the rest is known all the same.
TEST_F(CliClusterStoreTest, ACatalogThatCannotBeCountedInTime) {
  std::thread holder([&] {
    postgres_->Sql("BEGIN; LOCK TABLE kvlink.documents; SELECT pg_advisory_lock(7); SELECT pg_sleep(20); COMMIT");
  });
  const absl::Time limit = SteadyNow() + absl::Seconds(60);
  while (postgres_->Sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") != "1" && SteadyNow() < limit) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  const nlohmann::json store = Json({"inspect", "store"});
  holder.join();
  EXPECT_THAT(store["io"].get<std::string>(), HasSubstr("too many documents to count"));
}

TEST_F(CliClusterStoreTest, StatusSaysForHowLongNobodyAnswers) {
  const auto shown = [](const std::function<Finished()>& status, const std::string& text) {
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    std::string last;
    while (!absl::StrContains(last, text) && SteadyNow() < limit) {
      absl::SleepFor(absl::Milliseconds(100));
      last = status().output;
    }
    EXPECT_THAT(last, HasSubstr(text));
    return last;
  };
  postgres_->Freeze();
  shown([&] { return Kvlink({"status"}); }, "the database has not answered 3 of 3 members for 0:");
  EXPECT_GT(Json({"status"})["members"][0]["database_unreachable_s"], 0);
  etcd_->Kill(0);
  const auto of_node = [&] { return RunToEnd({KVLINK_BINARY, "status", "--store", nodes_[0]->address()}); };
  EXPECT_THAT(shown(of_node, "etcd has not answered for 0:"),
              AllOf(HasSubstr("the database has not answered for"), HasSubstr("3 members")));
  postgres_->Thaw();
}

TEST_F(CliClusterStoreTest, WhatIsMistakenIsSaid) {
  ExpectRefused(Kvlink({"inspect", "store", "--store", Path("store")}), "inspect",
                {"--store", "--cluster", "cannot be combined"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "inspect", "store", "--cluster", etcd_->endpoints() + "/other"}), "inspect",
                {"'other'", "default"});
  ExpectRefused(Kvlink({"delete", "d0", "--forget"}), "delete", {"node"});
  // What the environment says is a default: an option goes before it.
  const std::string cluster = "KVLINK_STORE=etcd://" + etcd_->endpoints();
  const Finished empty = RunToEnd({KVLINK_BINARY, "inspect", "store"}, {.environment = {cluster}});
  EXPECT_EQ(empty.status, 0) << empty.errors;
  EXPECT_THAT(empty.output, HasSubstr("cluster " + etcd_->endpoints()));
  ExpectRefused(RunToEnd({KVLINK_BINARY, "inspect", "store", "--store", Path("none")}, {.environment = {cluster}}),
                "inspect", {Path("none")});
  postgres_->Stop();
  ExpectRefused(WithModel({"ask", "--doc", "d0", "--question", "what?"}), "ask", {"127.0.0.1"});
}

}  // namespace
}  // namespace kvlink::testing
