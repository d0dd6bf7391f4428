// A cluster whose etcd and database demand TLS and credentials: with them everything works, and without one of them the
// message says which.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_cluster.h"
#include "tests/support/certificates.h"
#include "tests/support/postgres.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CliClusterSecretsTest : public CliClusterTest {
 protected:
  void SetUp() override {
    if (!PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
    if (!HaveOpenssl()) GTEST_SKIP() << "no openssl here";
    CliClusterTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(MakeCertificates(scratch_.path()));
    etcd_->EnableAuthentication();
    etcd_->SpeakTls({"--cert-file", Directory("node.pem"), "--key-file", Directory("node.key")});
    postgres_ = std::make_unique<PostgresServer>(
        PostgresOptions{.access = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
                        .certificates = scratch_.path()});
    postgres_->Sql("ALTER ROLE kvlink PASSWORD 'of the database'");
    etcd_password_ = Secret("etcd-password", "root\n");
    database_password_ = Secret("database-password", "127.0.0.1:*:*:kvlink:of the database\n");
  }
  std::string Secret(const std::string& name, const std::string& text) const {
    std::ofstream(Directory(name)) << text;
    chmod(Directory(name).c_str(), 0600);
    return Directory(name);
  }
  std::vector<std::string> Environment() const {
    return {"KVLINK_STORE=etcd://" + place_, "KVLINK_ETCD_CA=" + Directory("ca.pem"), "KVLINK_ETCD_USER=root",
            "KVLINK_ETCD_PASSWORD_FILE=" + etcd_password_, "PGPASSFILE=" + database_password_};
  }
  Finished Run(const std::vector<std::string>& words) const { return Kvlink(words, {.environment = Environment()}); }
  // As Run, with an empty `variable`.
  Finished RunWithout(const std::string& variable, std::vector<std::string> words) const {
    std::vector<std::string> environment = Environment();
    for (std::string& one : environment) {
      if (one.rfind(variable + "=", 0) == 0) one = variable + "=";
    }
    return Kvlink(std::move(words), {.environment = environment});
  }

  std::unique_ptr<PostgresServer> postgres_;
  std::string etcd_password_, database_password_;
};

TEST_F(CliClusterSecretsTest, WhoHasThemIsServedAndTheOthersAreTold) {
  const std::string endpoint = etcd_->endpoint(0);
  // etcd without TLS, with a certificate of another authority, without a user, with a wrong password.
  ExpectRefused(RunWithout("KVLINK_ETCD_CA", {"members"}), "members", {endpoint, "if it requires TLS"});
  ExpectRefused(Run({"members", "--etcd-ca", Directory("stranger.pem")}), "members",
                {endpoint, "not signed by the CA in " + Directory("stranger.pem")});
  const std::vector<std::string> tls = {"members", "--etcd-ca", Directory("ca.pem")};
  ExpectRefused(Kvlink(tls), "members", {endpoint, "requires a user"});
  ExpectRefused(Run({"members", "--etcd-password-file", Secret("wrong", "guessed\n")}), "members",
                {endpoint, "does not accept user root"});

  // The database without TLS, and without a password.
  const std::string to_plain = postgres_->connection() + "?sslmode=disable",
                    to_database =
                        absl::StrCat(postgres_->connection(), "?sslmode=verify-full&sslrootcert=", Directory("ca.pem")),
                    here = place_;
  place_ = here + "/plain";
  ExpectRefused(Run({"cluster", "create", "--database", to_plain}), "cluster",
                {"the cluster was created", "127.0.0.1:" + postgres_->port(), "TLS"});
  place_ = here + "/locked";
  ExpectRefused(RunWithout("PGPASSFILE", {"cluster", "create", "--database", to_database}), "cluster",
                {"the cluster was created", "127.0.0.1:" + postgres_->port(), "PGPASSFILE"});
  const Finished locked = RunWithout(
      "PGPASSFILE", {"store", "--store", Directory("locked"), "--listen", "127.0.0.1:0", "--cluster", place_});
  EXPECT_EQ(locked.status, 4) << locked.errors;
  EXPECT_THAT(locked.errors, AllOf(HasSubstr("kvlink store: "), HasSubstr("PGPASSFILE")));
  place_ = here;

  // With all of them: documents are written, read with a node killed, and deleted; a node is drained.
  const Finished made = Run({"cluster", "create", "--acknowledged", "1", "--database", to_database});
  ASSERT_EQ(made.status, 0) << made.errors;
  std::vector<std::unique_ptr<NodeProcess>> nodes;
  for (int i = 0; i < 3; ++i) {
    nodes.push_back(std::make_unique<NodeProcess>(
        Directory(absl::StrCat("node", i)),
        std::vector<std::string>{"--cluster", place_, "--capacity", "1G", "--memory", "64M"},
        SubprocessOptions{.environment = Environment()}));
    ASSERT_TRUE(nodes.back()->Start());
  }
  const auto with_model = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--model", model_, "--memory", "64M", "--threads", "1"});
    return Run(words);
  };
  const Finished ingested = with_model({"ingest", Write("documents.jsonl", Lines(0, 12))});
  ASSERT_EQ(ingested.status, 0) << ingested.errors;
  nodes[0]->Kill();
  const Finished asked = with_model({"ask", "--doc", "d3", "--question", "what?", "--max-tokens", "4"});
  EXPECT_EQ(asked.status, 0) << asked.errors;
  ASSERT_TRUE(nodes[0]->Start());
  const Finished drained = Run({"drain", nodes[1]->address(), "--wait"});
  EXPECT_EQ(drained.status, 0) << drained.errors;
  EXPECT_EQ(nodes[1]->process().Wait(), 0) << nodes[1]->process().errors();
  EXPECT_EQ(Run({"delete", "d3", "--wait", "60"}).status, 0);
  EXPECT_THAT(Run({"catalog", "check"}).errors, HasSubstr("11 documents, 0 of them"));
}

}  // namespace
}  // namespace kvlink::testing
