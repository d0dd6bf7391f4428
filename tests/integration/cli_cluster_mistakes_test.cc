// Mistakes in a cluster, its database or its members, as an operator meets them: each is reported in one line that says
// what is wrong, where, and what to do, and everything that can continue does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_cluster.h"
#include "tests/support/address.h"
#include "tests/support/postgres.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CliClusterMistakesTest : public CliClusterTest {
 protected:
  void SetUp() override {
    if (!PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
    CliClusterTest::SetUp();
    if (!IsSkipped()) postgres_ = std::make_unique<PostgresServer>();
  }
  void Create(int copies, int acknowledged) const {
    const Finished made = Kvlink({"cluster", "create", "--copies", absl::StrCat(copies), "--acknowledged",
                                  absl::StrCat(acknowledged), "--database", postgres_->connection()});
    ASSERT_EQ(made.status, 0) << made.errors;
  }
  // Starts an active member.
  void StartNode(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.end(), {"--cluster", place_, "--capacity", "1G", "--memory", "64M"});
    nodes_.push_back(
        std::make_unique<NodeProcess>(Directory(absl::StrCat("node", nodes_.size())), std::move(arguments)));
    ASSERT_TRUE(nodes_.back()->Start());
    ASSERT_TRUE(Becomes(nodes_.back()->address(), "active"));
  }
  Finished WithModel(std::vector<std::string> words) const {
    words.insert(words.end(), {"--model", model_, "--memory", "64M", "--threads", "1"});
    return Kvlink(std::move(words));
  }
  Finished Ingest(int begin, int end) const {
    return WithModel({"ingest", Write("documents.jsonl", Lines(begin, end)), "--outage", "1"});
  }
  Finished Ask() const {
    return WithModel(
        {"ask", "--doc", "d0", "--doc", "d7", "--question", "what is it?", "--max-tokens", "4", "--quiet"});
  }
  // "N documents, M of them without all of their encodings".
  std::string Check() const { return Kvlink({"catalog", "check"}).errors; }

  std::unique_ptr<PostgresServer> postgres_;
  std::vector<std::unique_ptr<NodeProcess>> nodes_;
};

TEST_F(CliClusterMistakesTest, AZoneVanishes) {
  Create(2, 1);
  for (const char* zone : {"east", "west", "east", "west"}) StartNode({"--zone", zone});
  const Finished ingested = Ingest(0, 24);
  ASSERT_EQ(ingested.status, 0) << ingested.errors;
  const Finished asked = Ask();
  ASSERT_EQ(asked.status, 0) << asked.errors;
  nodes_[0]->Kill();
  nodes_[2]->Kill();
  // Each encoding has its other copy in the other zone.
  EXPECT_THAT(Check(), HasSubstr("24 documents, 0 of them"));
  const Finished without = Ask();
  EXPECT_EQ(without.status, 0) << without.errors;
  EXPECT_EQ(without.output, asked.output);
  EXPECT_EQ(Ingest(24, 30).status, 0);
  EXPECT_THAT(Kvlink({"status"}).output, AllOf(HasSubstr("zone east"), HasSubstr("does not answer")));
  ASSERT_TRUE(nodes_[0]->Start());
  ASSERT_TRUE(nodes_[2]->Start());
  EXPECT_THAT(Check(), HasSubstr("30 documents, 0 of them"));
}

TEST_F(CliClusterMistakesTest, MoreCopiesThanMembers) {
  Create(3, 3);
  StartNode();
  StartNode();
  const Finished refused = Ingest(0, 4);
  EXPECT_NE(refused.status, 0);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("3 copies must be durable"), HasSubstr("cluster default has 2 members"),
                                    HasSubstr("add nodes")));
  StartNode();
  const Finished ingested = Ingest(0, 4);
  EXPECT_EQ(ingested.status, 0) << ingested.errors;
  EXPECT_THAT(Check(), HasSubstr("4 documents, 0 of them"));
}

// A member registered an address that leads nowhere, such as one behind a firewall.
TEST_F(CliClusterMistakesTest, AMemberAddressThatNobodyAnswersAt) {
  Create(2, 1);
  StartNode();
  StartNode();
  const std::string nowhere = UnusedAddress();
  nodes_.push_back(std::make_unique<NodeProcess>(
      Directory("nowhere"), std::vector<std::string>{"--cluster", place_, "--advertise", nowhere, "--memory", "64M"}));
  ASSERT_TRUE(nodes_[2]->Start());
  const Finished ingested = Ingest(0, 24);
  EXPECT_EQ(ingested.status, 0) << ingested.errors;
  EXPECT_THAT(Check(), HasSubstr("24 documents, 0 of them"));
  EXPECT_EQ(Ask().status, 0);
  EXPECT_THAT(Kvlink({"status"}).output, HasSubstr(nowhere));
  const Finished verified = Kvlink({"verify"});
  EXPECT_NE(verified.status, 0);
  EXPECT_THAT(verified.output + verified.errors, HasSubstr(nowhere));
  EXPECT_EQ(nodes_[2]->Stop(), 0);
  nodes_.pop_back();
  StartNode();
  EXPECT_EQ(Kvlink({"members", "remove", nowhere}).status, 0);
  EXPECT_EQ(Kvlink({"verify"}).status, 0);
}

TEST_F(CliClusterMistakesTest, ASchemaNewerThanThisBuild) {
  Create(1, 1);
  StartNode();
  ASSERT_EQ(Ingest(0, 8).status, 0);
  const std::string known = postgres_->Sql("SELECT version FROM kvlink.kvlink_schema");
  postgres_->Sql("UPDATE kvlink.kvlink_schema SET version = version + 7");
  const std::string newer = postgres_->Sql("SELECT version FROM kvlink.kvlink_schema");
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"inspect", "documents"}, {"delete", "d0"}, {"catalog", "check"}}) {
    ExpectRefused(Kvlink(words), words[0], {"127.0.0.1", "version " + newer, "version " + known, "use a newer build"});
  }
  EXPECT_THAT(Ask().errors, HasSubstr("use a newer build"));
  const Finished refused = Kvlink({"store", "--store", Directory("late"), "--listen", "127.0.0.1:0"});
  EXPECT_NE(refused.status, 0);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("kvlink store: "), HasSubstr("use a newer build")));
  EXPECT_EQ(Members()["members"].size(), 1u);
  // Nothing was changed.
  postgres_->Sql("UPDATE kvlink.kvlink_schema SET version = version - 7");
  EXPECT_EQ(Ask().status, 0);
}

TEST_F(CliClusterMistakesTest, TwoClustersOnOneHost) {
  Create(1, 1);
  StartNode();
  ASSERT_EQ(Ingest(0, 8).status, 0);
  // The clusters share etcd, the PostgreSQL server and the host.
  const std::string here = place_;
  place_ = here + "/other";
  const std::string database = postgres_->connection(postgres_->NewDatabase());
  ASSERT_EQ(Kvlink({"cluster", "create", "--copies", "1", "--database", database}).status, 0);
  StartNode();
  ASSERT_EQ(Ingest(4, 6).status, 0);
  EXPECT_EQ(Members()["members"].size(), 1u);
  EXPECT_THAT(Check(), HasSubstr("2 documents, 0 of them"));
  EXPECT_EQ(Kvlink({"delete", "d4", "--wait", "60"}).status, 0);
  // An address or directory belongs to only one of them.
  const std::string taken = nodes_[0]->address();
  const Finished address = Kvlink({"store", "--store", Directory("third"), "--listen", taken, "--data", "none"});
  EXPECT_NE(address.status, 0);
  EXPECT_THAT(address.errors, AllOf(HasSubstr("kvlink store: "), HasSubstr(taken)));
  const Finished directory = Kvlink({"store", "--store", Directory("node0"), "--listen", "127.0.0.1:0"});
  EXPECT_NE(directory.status, 0);
  EXPECT_THAT(directory.errors, AllOf(HasSubstr(Directory("node0")), HasSubstr("'default'"), HasSubstr("'other'")));
  EXPECT_EQ(Members()["members"].size(), 1u);
  place_ = here;
  EXPECT_EQ(Members()["members"].size(), 1u);
  EXPECT_THAT(Check(), HasSubstr("8 documents, 0 of them"));
  EXPECT_THAT(Kvlink({"members"}).output, AllOf(HasSubstr(taken), Not(HasSubstr(nodes_[1]->address()))));
}

}  // namespace
}  // namespace kvlink::testing
