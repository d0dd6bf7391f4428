// Documents are ingested into a cluster and asked for, by the binary, over a real etcd and a real PostgreSQL; with a
// node killed in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

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
      nodes_.push_back(std::make_unique<NodeProcess>(
          Path(absl::StrCat("node", i)),
          std::vector<std::string>{"--cluster", etcd_->endpoints(), "--capacity", "1G", "--memory", "64M"}));
      ASSERT_TRUE(nodes_.back()->Start());
    }
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
  EXPECT_THAT(store["io"].get<std::string>(), HasSubstr("too many to be counted"));
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
