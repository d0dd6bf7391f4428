// Restoring a dump under clients that keep their connections, and rights that users have or lack.
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/database/database.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::EntryWith;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::testing::HasSubstr;

// A user who is not a superuser and has those rights to the tables.
class User {
 public:
  User(const OwnDatabase& database, const std::string& rights)
      : database_(database), name_(absl::StrCat("user_of_", database.name())) {
    database.Sql(absl::StrCat("CREATE ROLE ", name_, " LOGIN; GRANT USAGE ON SCHEMA kvlink TO ", name_, "; GRANT ",
                              rights, " ON ALL TABLES IN SCHEMA kvlink TO ", name_,
                              "; GRANT USAGE ON ALL SEQUENCES IN SCHEMA kvlink TO ", name_));
  }
  const std::string& name() const { return name_; }
  std::unique_ptr<DatabaseCatalog> Open(absl::Duration patience = absl::ZeroDuration()) const {
    DatabaseOptions options = database_.options();
    options.connection = absl::StrCat(options.connection, "?user=", name_);
    options.patience = patience;
    return database_.Open(options);
  }

 private:
  const OwnDatabase& database_;
  const std::string name_;
};

constexpr char kAll[] = "SELECT, INSERT, UPDATE, DELETE";

// The statements of a dump of the tables, in order.
std::vector<std::string> Dump(const OwnDatabase& database) {
  const testing::Finished dumped = testing::RunToEnd(
      {"/usr/bin/pg_dump", "--schema=kvlink", "--inserts", testing::SharedServer().connection(database.name())});
  EXPECT_EQ(dumped.status, 0) << dumped.errors;
  std::string sql;
  for (const absl::string_view line : absl::StrSplit(dumped.output, '\n', absl::SkipEmpty())) {
    if (!absl::StartsWith(line, "--") && line[0] != '\\') absl::StrAppend(&sql, line, "\n");
  }
  return absl::StrSplit(sql, ";\n", absl::SkipEmpty());
}

// At every step of it: a table that is empty, or without its key, is worse than none.
TEST(RestorationTest, ClientsWaitUntilADumpIsWhole) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, kAll);
  DatabaseOptions impatient = database.options();
  impatient.patience = absl::ZeroDuration();
  // Each of them finds out only at its step.
  std::vector<std::unique_ptr<DatabaseCatalog>> owners, users;
  for (int i = 0; i < 20; ++i) {
    owners.push_back(database.Open(impatient));
    if (i < 12) users.push_back(user.Open());
  }
  for (const auto* const clients : {&owners, &users}) {
    for (const auto& client : *clients) {
      ASSERT_EQ(client->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
    }
  }
  const auto patient = user.Open(absl::Minutes(1));
  ASSERT_EQ(patient->PutDocument("ns", "b", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_TRUE(database->PutNamespace({"ns", 100, 10, {}}, Patience()).ok());
  const std::vector<std::string> statements = Dump(database);
  database.Sql("DROP SCHEMA kvlink CASCADE");
  Thread waits("waits", [&] { EXPECT_EQ(patient->DeleteDocument("ns", "b", 2), absl::OkStatus()); });
  std::string batch;
  int looked = 0;
  for (const std::string& statement : absl::MakeConstSpan(statements).first(statements.size() - 1)) {
    absl::StrAppend(&batch, statement, ";");
    const bool granted = absl::StrContains(statement, "GRANT"), whole = absl::StrContains(statement, "refs_pkey");
    // Whatever comes between them is not seen by clients.
    if (!granted && !absl::StrContains(statement, "INSERT INTO") && !absl::StrContains(statement, "CONSTRAINT"))
      continue;
    database.Sql(std::exchange(batch, ""));
    ++looked;
    // The owner of the tables needs no grants, which come last.
    auto& unaware = granted ? users : owners;
    ASSERT_FALSE(unaware.empty());
    const absl::Status put = unaware.back()->PutDocument("ns", granted ? "d" : "c", EntryWith({2}, 1));
    EXPECT_EQ(put.code(), whole ? absl::StatusCode::kOk : absl::StatusCode::kUnavailable) << statement << ": " << put;
    // From here on this one knows, and reads nothing either.
    const absl::Status got = unaware.back()->GetDocument("ns", "a").status();
    EXPECT_TRUE(absl::IsUnavailable(got) || (got.ok() && (whole || granted))) << statement << ": " << got;
    EXPECT_EQ(database.Open(impatient)->Prepare(Patience()).ok(), whole || granted) << statement;
    unaware.pop_back();
  }
  database.Sql(batch + statements.back());
  EXPECT_GE(looked, 3 * 7 - 1) << "rows, keys and rights of the tables";
  waits.Join();
  EXPECT_EQ(users.back()->PutDocument("ns", "d", EntryWith({2}, 1)), absl::OkStatus());
  EXPECT_TRUE(users.back()->GetDocument("ns", "a").ok());
  EXPECT_EQ(database.Sql("SELECT string_agg(id, ',' ORDER BY id) FROM kvlink.refs"), "a,c,d");
  EXPECT_EQ(database.Sql("SELECT count(*) FROM kvlink.drop_log"), "0") << "a refers to what b referred to";
}

// A pause could not mend it. The user's other statements go on, over the same connection.
TEST(RestorationTest, ARightThatWasNeverThereIsNamedAtOnce) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, "SELECT");
  const auto refused = [](DatabaseCatalog& catalog) {
    const absl::Status status = catalog.PutDocument("ns", "a", EntryWith({1}, 1));
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("grant the user"));
  };
  refused(*user.Open(absl::Minutes(1)));
  const auto catalog = user.Open(absl::Minutes(1));
  EXPECT_TRUE(absl::IsNotFound(catalog->GetDocument("ns", "a").status()));
  const std::string whose = absl::StrCat(" FROM pg_stat_activity WHERE usename = '", user.name(), "'");
  const auto backends = [&] { return database.Sql("SELECT string_agg(pid::text, ',')" + whose); };
  while (backends().find(',') != std::string::npos) absl::SleepFor(absl::Milliseconds(10));  // of the first one
  const std::string backend = backends();
  for (int i = 0; i < 3; ++i) refused(*catalog);
  EXPECT_TRUE(absl::IsNotFound(catalog->GetDocument("ns", "a").status()));
  EXPECT_EQ(backends(), backend);
}

// As in the moment before a dump is whole: what is refused may have been granted by the time rights are counted.
TEST(RestorationTest, ARefusalThatAGrantOvertakesIsNotFinal) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, kAll);
  std::vector<std::unique_ptr<DatabaseCatalog>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(user.Open(absl::Minutes(1)));
  // A new document, whose reference is inserted.
  const auto put = [&clients](int client, int number) {
    const std::string id = absl::StrCat(client, "-", number);
    const absl::Status status = clients[client]->PutDocument("ns", id, EntryWith({1}, 1));
    EXPECT_EQ(status, absl::OkStatus()) << id;
    return status.ok();
  };
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(put(i, 0));
  std::atomic<bool> over{false};
  Thread grants("grants", [&] {
    database.Sql(absl::StrCat("DO $$ BEGIN FOR i IN 1..2000 LOOP REVOKE INSERT ON kvlink.refs FROM ", user.name(),
                              "; COMMIT; GRANT INSERT ON kvlink.refs TO ", user.name(), "; COMMIT; END LOOP; END $$"));
    over = true;
  });
  std::vector<Thread> puts;
  for (int i = 0; i < 4; ++i) {
    puts.emplace_back("puts", [&, i] {
      for (int number = 1; !over && put(i, number);) ++number;
    });
  }
  for (Thread& thread : puts) thread.Join();
  grants.Join();
}

TEST(RestorationTest, OnlyRightsToTheTablesCount) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User reader(database, "SELECT");
  database.Sql(absl::StrCat("CREATE TABLE kvlink.notes (); GRANT ALL ON kvlink.notes TO ", reader.name()));
  const auto client = reader.Open();
  ASSERT_TRUE(absl::IsNotFound(client->GetDocument("ns", "a").status()));
  database.Sql("DROP TABLE kvlink.notes");
  const absl::Status refused = client->PutDocument("ns", "a", EntryWith({1}, 1));
  EXPECT_TRUE(absl::IsPermissionDenied(refused)) << refused;
}

TEST(RestorationTest, OneRightDoesNotMakeUpForAnother) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, kAll);
  database.Sql(absl::StrCat("REVOKE DELETE ON kvlink.drop_log FROM ", user.name()));
  const auto client = user.Open();
  ASSERT_EQ(client->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  database.Sql(absl::StrCat("GRANT DELETE ON kvlink.drop_log TO ", user.name(), "; REVOKE INSERT ON kvlink.refs FROM ",
                            user.name()));
  const absl::Status missing = client->PutDocument("ns", "b", EntryWith({2}, 1));
  EXPECT_TRUE(absl::IsUnavailable(missing)) << missing;
}

// As while a password is renewed, or the service that the server asks about them is away.
TEST(RestorationTest, AUserWhomTheServerKnewMayComeBack) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, kAll);
  const auto client = user.Open(), patient = user.Open(absl::Minutes(1));
  ASSERT_EQ(client->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(patient->PutDocument("ns", "b", EntryWith({1}, 1)), absl::OkStatus());
  database.Sql(absl::StrCat("ALTER ROLE ", user.name(), " NOLOGIN"));
  database.Sql(
      absl::StrCat("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '", user.name(), "'"));
  const absl::Status away = client->PutDocument("ns", "c", EntryWith({1}, 1));
  EXPECT_TRUE(absl::IsUnavailable(away)) << away;
  EXPECT_THAT(std::string(away.message()), HasSubstr("refuses this user"));
  const absl::Status stranger = user.Open()->GetDocument("ns", "a").status();
  EXPECT_TRUE(absl::IsUnauthenticated(stranger)) << stranger;
  Thread returns("returns", [&] { EXPECT_EQ(patient->PutDocument("ns", "c", EntryWith({1}, 1)), absl::OkStatus()); });
  database.Sql(absl::StrCat("ALTER ROLE ", user.name(), " LOGIN"));
  returns.Join();
}

TEST(RestorationTest, ARightThatWasThereMayComeBack) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  const User user(database, kAll);
  const auto client = user.Open(), patient = user.Open(absl::Minutes(1));
  ASSERT_EQ(client->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(patient->PutDocument("ns", "b", EntryWith({1}, 1)), absl::OkStatus());
  const auto expect_wait = [&](const std::string& what, const std::string& where) {
    database.Sql(absl::StrCat("REVOKE ", what, " ON ", where, " FROM ", user.name()));
    const absl::Status missing = client->PutDocument("ns", "c", EntryWith({2}, 0));
    EXPECT_TRUE(absl::IsUnavailable(missing)) << what << " " << where << ": " << missing;
    EXPECT_THAT(std::string(missing.message()), HasSubstr("grant the user"));
    Thread returns("returns", [&] { EXPECT_EQ(patient->PutDocument("ns", "c", EntryWith({2}, 0)), absl::OkStatus()); });
    database.Sql(absl::StrCat("GRANT ", what, " ON ", where, " TO ", user.name()));
    returns.Join();
  };
  expect_wait("INSERT", "TABLE kvlink.refs");
  expect_wait("SELECT", "TABLE kvlink.kvlink_schema");
  expect_wait("USAGE", "SCHEMA kvlink");
  // The user may not even connect.
  const std::string connect = absl::StrCat("CONNECT ON DATABASE ", database.name());
  database.Sql(absl::StrCat("REVOKE ", connect, " FROM PUBLIC; SELECT pg_terminate_backend(pid) FROM pg_stat_activity ",
                            "WHERE usename = '", user.name(), "'"));
  const absl::Status away = client->PutDocument("ns", "d", EntryWith({1}, 1));
  EXPECT_TRUE(absl::IsUnavailable(away)) << away;
  const absl::Status stranger = user.Open()->GetDocument("ns", "a").status();
  EXPECT_TRUE(absl::IsPermissionDenied(stranger)) << stranger;
  Thread returns("returns", [&] { EXPECT_EQ(patient->PutDocument("ns", "d", EntryWith({1}, 1)), absl::OkStatus()); });
  database.Sql(absl::StrCat("GRANT ", connect, " TO PUBLIC"));
  returns.Join();
}

}  // namespace
}  // namespace kvlink::store::database
