// Servers that are gone, frozen, full or strict: the messages are right, and no call exceeds its time limit.
#include "store/database/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/database/database.h"
#include "store/database/schema.h"
#include "store/database/server_errors.h"
#include "tests/store/database/own_database.h"
#include "tests/support/address.h"
#include "tests/support/certificates.h"
#include "tests/support/patience.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::EntryWith;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::PostgresServer;
using ::kvlink::testing::SharedServer;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

absl::Status GetFrom(const std::string& connection, DatabaseOptions options = {}) {
  options.connection = connection;
  options.cluster_id = testing::kClusterId;
  const auto catalog = DatabaseCatalog::Open(options);
  if (!catalog.ok()) return catalog.status();
  return (*catalog)->GetDocument("ns", "a").status();
}

TEST(ConnectionTest, NamesEveryUnreachableHost) {
  const std::string one = testing::UnusedAddress(), two = testing::UnusedAddress();
  DatabaseOptions options;
  options.patience = absl::Milliseconds(100);
  const absl::Status status = GetFrom(absl::StrCat("postgresql://u@", one, ",", two, "/x"), options);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(one), HasSubstr(two), HasSubstr("refused"), Not(HasSubstr("\n"))));
}

// libpq would take an empty string for the database of the environment.
TEST(ConnectionTest, NoDatabase) {
  const absl::Status status = GetFrom("");
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("without a database"), HasSubstr("--database")));
}

TEST(ConnectionTest, ExplainsRefusedConnections) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer server({.settings = {"max_connections=5", "superuser_reserved_connections=1"},
                         .access = "local all all trust\n"
                                   "hostssl tls all 127.0.0.1/32 trust\n"
                                   "host locked all 127.0.0.1/32 scram-sha-256\n"
                                   "host open all 127.0.0.1/32 trust\n"});
  server.Sql("ALTER ROLE kvlink PASSWORD 'right'");
  server.Sql("CREATE ROLE plain LOGIN");
  for (const char* name : {"tls", "locked", "open"}) server.Sql(absl::StrCat("CREATE DATABASE ", name));

  absl::Status status = GetFrom(server.connection("locked"));
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("PGPASSFILE"));
  testing::ScratchDirectory scratch;
  const std::string file = scratch.path() + "/passwords";
  const auto with_password = [&](const std::string& password) {
    std::ofstream(file) << "127.0.0.1:" << server.port() << ":*:kvlink:" << password << "\n";
    chmod(file.c_str(), 0600);
    setenv("PGPASSFILE", file.c_str(), 1);
    const absl::Status outcome = GetFrom(server.connection("locked"));
    unsetenv("PGPASSFILE");
    return outcome;
  };
  status = with_password("wrong");
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("PGPASSFILE"), Not(HasSubstr("wrong\n")), Not(HasSubstr("LOCATION"))));
  EXPECT_THAT(with_password("right").message(), HasSubstr("no KVLink tables"));

  status = GetFrom(server.connection("tls"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("without TLS"));
  status = GetFrom(server.connection("open") + "?sslmode=require");
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("TLS"));
  status = GetFrom(server.connection("nowhere"));
  EXPECT_THAT(status.message(), HasSubstr("a line to pg_hba.conf"));
  status =
      GetFrom(absl::StrCat("host=", server.socket_directory(), " port=", server.port(), " user=kvlink dbname=nowhere"));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("nowhere"), HasSubstr("createdb")));

  std::vector<std::unique_ptr<testing::Subprocess>> others;
  for (int i = 0; i < 4; ++i) {
    others.push_back(std::make_unique<testing::Subprocess>(
        std::vector<std::string>{"/usr/bin/psql", server.connection("open")},
        testing::SubprocessOptions{.input = "SELECT 'there';\n", .keep_input_open = true}));
    while (others.back()->output().find("there") == std::string::npos) absl::SleepFor(absl::Milliseconds(10));
  }
  status = GetFrom(absl::StrReplaceAll(server.connection("open"), {{"kvlink@", "plain@"}}));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("max_connections"));
  // As after a failover, when all clients return together: a connection becomes free.
  DatabaseOptions patient;
  patient.patience = absl::Seconds(60);
  patient.operation_timeout = absl::Seconds(60);
  Thread leaves("leaves", [&others] {
    absl::SleepFor(absl::Milliseconds(100));
    others.clear();
  });
  status = GetFrom(absl::StrReplaceAll(server.connection("open"), {{"kvlink@", "plain@"}}), patient);
  EXPECT_FALSE(absl::IsUnavailable(status)) << status;
  leaves.Join();
}

TEST(ConnectionTest, UsesPasswordFromEnvironment) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer server({.access = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"});
  server.Sql("ALTER ROLE kvlink PASSWORD 'in the environment'");
  setenv("PGPASSWORD", "in the environment", 1);
  const OwnDatabase database(server);
  EXPECT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  unsetenv("PGPASSWORD");
}

TEST(ConnectionTest, FrozenServerDelaysNoCaller) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer server;
  const OwnDatabase database(server);
  DatabaseOptions options = database.options();
  options.operation_timeout = absl::Seconds(1);
  options.host_timeout = absl::Milliseconds(300);
  options.patience = absl::Milliseconds(300);
  const auto catalog = database.Open(options);
  ASSERT_EQ(catalog->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  server.Freeze();
  const absl::Time begin = SteadyNow();
  // On an open connection, and on new ones.
  EXPECT_TRUE(absl::IsDeadlineExceeded(catalog->PutDocument("ns", "b", EntryWith({2}, 1))));
  EXPECT_TRUE(absl::IsUnavailable(catalog->GetDocument("ns", "a").status()));
  EXPECT_TRUE(absl::IsUnavailable(catalog->End(SteadyNow() + absl::Milliseconds(200)).status()));
  EXPECT_LT(SteadyNow() - begin, absl::Seconds(30));
  server.Thaw();
  const auto got = catalog->GetDocument("ns", "a");
  EXPECT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(catalog->PutDocument("ns", "b", EntryWith({2}, 1)), absl::OkStatus());
}

TEST(ConnectionTest, ReconnectsToReturningServer) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer server;
  const OwnDatabase database(server);
  DatabaseOptions options = database.options();
  options.patience = absl::Milliseconds(100);
  options.staleness = absl::Hours(1);
  const auto impatient = database.Open(options);
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_TRUE(impatient->GetDocument("ns", "a").ok());
  server.Kill();
  EXPECT_TRUE(absl::IsUnavailable(impatient->PutDocument("ns", "b", EntryWith({1}, 1))));
  // Of several documents, the cached ones are still answered.
  EXPECT_TRUE(absl::IsUnavailable(impatient->GetDocuments("ns", {"c"}).status()));
  EXPECT_FALSE(impatient->GetDocument("ns", "b").ok());
  options = database.options();
  options.patience = absl::Minutes(1);
  const auto patient = database.Open(options);
  Thread waits("waits", [&] { EXPECT_EQ(patient->PutDocument("ns", "c", EntryWith({3}, 1)), absl::OkStatus()); });
  server.Restart();
  waits.Join();
  EXPECT_TRUE(database->GetDocument("ns", "a").ok());
  EXPECT_TRUE(impatient->GetDocument("ns", "c").ok());
  // A server that stops cleanly closes idle connections.
  server.Stop();
  server.Restart();
  EXPECT_EQ(database->PutDocument("ns", "d", EntryWith({4}, 1)), absl::OkStatus());
}

// As while the files of its TLS options are replaced, or the database is restored from a dump.
TEST(ConnectionTest, WhatWorkedBeforeMayComeBack) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  DatabaseOptions options = database.options();
  options.patience = absl::Milliseconds(50);
  const auto impatient = database.Open(options), stranger = database.Open(options);
  DatabaseOptions waiting = options;
  waiting.patience = absl::Minutes(1);
  const auto patient = database.Open(waiting);
  ASSERT_EQ(impatient->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(patient->PutDocument("ns", "b", EntryWith({1}, 1)), absl::OkStatus());
  const auto rename = [&database](const std::string& from, const std::string& to) {
    SharedServer().Sql(absl::StrCat("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '", from,
                                    "'; ALTER DATABASE ", from, " RENAME TO ", to),
                       "postgres");
  };
  rename(database.name(), "elsewhere");
  const absl::Status gone = impatient->PutDocument("ns", "c", EntryWith({1}, 1));
  EXPECT_TRUE(absl::IsUnavailable(gone)) << gone;
  EXPECT_THAT(gone.message(), HasSubstr("createdb"));
  EXPECT_TRUE(absl::IsFailedPrecondition(stranger->GetDocument("ns", "a").status())) << "a mistake, it may be";
  Thread waits("waits", [&] { EXPECT_EQ(patient->PutDocument("ns", "c", EntryWith({3}, 1)), absl::OkStatus()); });
  rename("elsewhere", database.name());
  waits.Join();
  const auto expect_wait = [&](const std::string& where, const std::string& away, const std::string& back,
                               absl::StatusCode of_stranger) {
    ASSERT_EQ(impatient->PutDocument("ns", "a", EntryWith({1}, 0)), absl::OkStatus()) << "it suspects nothing";
    SharedServer().Sql(away, where);
    const absl::Status missing = impatient->PutDocument("ns", "d", EntryWith({1}, 1));
    EXPECT_TRUE(absl::IsUnavailable(missing)) << away << ": " << missing;
    EXPECT_EQ(database.Open(options)->GetDocument("ns", "a").status().code(), of_stranger) << away;
    Thread returns("returns", [&] { EXPECT_EQ(patient->PutDocument("ns", "d", EntryWith({4}, 1)), absl::OkStatus()); });
    SharedServer().Sql(back, where);
    returns.Join();
  };
  // The database takes no connections.
  const std::string name = database.name(), alter = absl::StrCat("ALTER DATABASE ", name, " ALLOW_CONNECTIONS ");
  const std::string end =
      absl::StrCat("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '", name, "'");
  expect_wait("postgres", absl::StrCat(alter, "false; ", end), absl::StrCat(alter, "true"),
              absl::StatusCode::kUnavailable);
  // Connections stay; the tables are not there, not whole, or nothing says whose they are.
  expect_wait(name, "ALTER SCHEMA kvlink RENAME TO aside", "ALTER SCHEMA aside RENAME TO kvlink",
              absl::StatusCode::kFailedPrecondition);
  expect_wait(name, "ALTER TABLE kvlink.refs DROP CONSTRAINT refs_pkey",
              "ALTER TABLE kvlink.refs ADD PRIMARY KEY (ns, identity, id)", absl::StatusCode::kFailedPrecondition);
  expect_wait(name, "CREATE TABLE kvlink.kept AS TABLE kvlink.kvlink_schema; DELETE FROM kvlink.kvlink_schema",
              "INSERT INTO kvlink.kvlink_schema TABLE kvlink.kept; DROP TABLE kvlink.kept",
              absl::StatusCode::kFailedPrecondition);
}

// Clients see it only if the tables are right again when they look for the reason.
TEST(ConnectionTest, TheGuardSaysWhatItMisses) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const auto hosts = ParseConnectionString(database.options().connection);
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  const auto connection = Connection::Open(hosts->front(), Patience());
  ASSERT_TRUE(connection.ok()) << connection.status();
  const Query mine = GuardOf(testing::kClusterId), other = GuardOf({0x07, 0x0e});
  (*connection)->SetGuard(&mine);
  EXPECT_EQ((*connection)->Run({Query{&kClock, {}}}, Patience()).status(), absl::OkStatus());
  (*connection)->SetGuard(&other);
  const absl::Status missed = (*connection)->Run({Query{&kClock, {}}}, Patience()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(missed) && IsUnrestored(missed)) << missed;
  EXPECT_THAT(missed.message(), AllOf(HasSubstr("not those of this cluster"), Not(HasSubstr("division"))));
  EXPECT_FALSE((*connection)->broken());
}

TEST(ConnectionTest, ReadsCachedEntryWithoutDatabase) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer server;
  const OwnDatabase database(server);
  DatabaseOptions options = database.options();
  options.patience = absl::Milliseconds(50);
  options.staleness = absl::Hours(1);
  const auto catalog = database.Open(options);
  ASSERT_EQ(catalog->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_TRUE(catalog->GetDocument("ns", "a").ok());
  server.Kill();
  const auto got = catalog->GetDocuments("ns", {"a", "b"});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE((*got)[0].ok());
  EXPECT_TRUE(absl::IsUnavailable((*got)[1].status()));
}

// libpq reads its files whenever it connects.
TEST(ConnectionTest, FollowsRenewedClientCertificates) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "OpenSSL is not instrumented, and reports itself";
#endif
  KVLINK_NEEDS_POSTGRES();
  if (!testing::HaveOpenssl()) GTEST_SKIP() << "no openssl here";
  testing::ScratchDirectory scratch(/*in_memory=*/true);
  ASSERT_TRUE(testing::MakeCertificates(scratch.path()));
  const auto file = [&](const std::string& name) { return scratch.path() + "/" + name; };
  // The server has a user of its own.
  chmod(scratch.path().c_str(), 0755);
  chmod(file("ca.pem").c_str(), 0644);
  PostgresServer server({.settings = {"ssl_ca_file=" + file("ca.pem")},
                         .access = "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n",
                         .certificates = scratch.path()});
  const auto install = [&](const std::string& certificate, const std::string& key) {
    std::filesystem::copy_file(file(certificate), file("own.pem"), std::filesystem::copy_options::overwrite_existing);
    std::filesystem::copy_file(file(key), file("own.key"), std::filesystem::copy_options::overwrite_existing);
    chmod(file("own.key").c_str(), 0600);
  };
  install("stranger.pem", "stranger.key");
  DatabaseOptions options;
  options.connection = absl::StrCat(server.connection(), "?sslmode=verify-full&sslrootcert=", file("ca.pem"),
                                    "&sslcert=", file("own.pem"), "&sslkey=", file("own.key"));
  options.cluster_id = testing::kClusterId;
  options.patience = absl::Seconds(1);
  const auto catalog = *DatabaseCatalog::Open(options);
  const auto said = [&] { return std::string(catalog->GetDocument("ns", "a").status().message()); };
  EXPECT_THAT(said(), Not(HasSubstr("no KVLink tables")));
  install("client.pem", "client.key");
  EXPECT_THAT(said(), HasSubstr("no KVLink tables"));
}

TEST(ConnectionTest, FailsOverToTheStandby) {
  KVLINK_NEEDS_POSTGRES();
  PostgresServer primary;
  const OwnDatabase database(primary);
  const auto standby = primary.MakeStandby();
  DatabaseOptions options = database.options();
  options.connection = absl::StrCat("postgresql://kvlink@127.0.0.1:", standby->port(), ",127.0.0.1:", primary.port(),
                                    "/", database.name());
  options.patience = absl::Minutes(1);
  const auto catalog = database.Open(options);
  ASSERT_EQ(catalog->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  // The standby alone takes no writes; the message says so.
  DatabaseOptions alone = options;
  alone.patience = absl::ZeroDuration();
  alone.connection = standby->connection(database.name());
  const absl::Status status = database.Open(alone)->GetDocument("ns", "a").status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("takes no writes"));
  Thread writes("writes", [&] {
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(catalog->PutDocument("ns", absl::StrCat("document-", i), EntryWith({2}, 1)), absl::OkStatus());
    }
  });
  primary.Kill();
  standby->Promote();
  writes.Join();
  for (int i = 0; i < 100; ++i) {
    const auto got = catalog->GetDocument("ns", absl::StrCat("document-", i));
    EXPECT_TRUE(got.ok()) << got.status();
  }
}

// Connections to a port of this machine have these options; what they do is the kernel's.
TEST(ConnectionTest, TheKernelNoticesAVanishedHost) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const auto catalog = database.Open(database.options());
  ASSERT_EQ(catalog->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  int connections = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename().string());
    sockaddr_in peer = {};
    socklen_t size = sizeof(peer);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0 || peer.sin_family != AF_INET) continue;
    if (absl::StrCat(ntohs(peer.sin_port)) != SharedServer().port()) continue;
    ++connections;
    const auto option = [fd](int level, int name) {
      int value = 0;
      socklen_t length = sizeof(value);
      EXPECT_EQ(getsockopt(fd, level, name, &value, &length), 0);
      return value;
    };
    EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 3000);  // of what was sent and is not acknowledged, in ms
    EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPIDLE) + option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT),
              3);
  }
  EXPECT_GT(connections, 0);
}

TEST(ConnectionTest, MoreThreadsThanConnections) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  DatabaseOptions options = database.options();
  options.max_connections = 2;
  const auto catalog = database.Open(options);
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back("puts", [&, t] {
        for (int i = 0; i < 20; ++i) {
          EXPECT_EQ(catalog->PutDocument("ns", absl::StrCat(t, "-", i), EntryWith({1}, 1)), absl::OkStatus());
        }
      });
    }
  }
  EXPECT_EQ(database.Sql("SELECT count(*) FROM kvlink.documents"), "160");
  EXPECT_LE(std::stoi(database.Sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kvlink' AND "
                                   "datname = current_database()")),
            3);  // the other one is the fixture's
}

}  // namespace
}  // namespace kvlink::store::database
