// The drop log: its contents, their order, and which calls wait for which nodes.
#include "store/database/drop_log.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"
#include "tests/support/subprocess.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::Consume;
using ::kvlink::testing::EntryWith;
using ::kvlink::testing::IdentityOf;
using ::kvlink::testing::NodeOf;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::SharedServer;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Runs a program of PostgreSQL and returns its output.
std::string RunOn(const OwnDatabase& database, std::vector<std::string> command, const std::string& input = "") {
  command.insert(command.begin(), "/usr/bin/env");
  command.push_back(SharedServer().connection(database.name()));
  const auto finished = testing::RunToEnd(command, {.input = input});
  EXPECT_EQ(finished.status, 0) << finished.errors;
  return finished.output;
}

std::vector<Identity> IdentitiesIn(const std::vector<Drop>& drops) {
  std::vector<Identity> identities;
  for (const Drop& drop : drops) identities.push_back(drop.identity.value_or(Identity()));
  return identities;
}

TEST(DropLogTest, LogsIdentitiesWithoutReferences) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_TRUE(database->PutDocuments("ns", {{"a", EntryWith({1, 2}, 1)}, {"b", EntryWith({2, 3}, 1)}}).ok());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  // Replaced: 1 is dropped, b still refers to 2.
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({4}, 2)), absl::OkStatus());
  auto drops = Consume(*database.Open(), NodeOf(1), &position);
  EXPECT_THAT(IdentitiesIn(drops), ElementsAre(IdentityOf(1)));
  EXPECT_EQ(drops[0].ns, "ns");
  ASSERT_EQ(database->DeleteDocument("ns", "b", 0), absl::OkStatus());
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)),
              ::testing::UnorderedElementsAre(IdentityOf(2), IdentityOf(3)));
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  ASSERT_TRUE(database->DeleteNamespace("ns").ok());
  drops = Consume(*database.Open(), NodeOf(1), &position);
  ASSERT_EQ(drops.size(), 2u);
  EXPECT_EQ(drops[0].identity, IdentityOf(4));
  EXPECT_EQ(drops[1].identity, std::nullopt);
  EXPECT_EQ(*database->PositionOf(NodeOf(1), Patience()), position);
}

TEST(DropLogTest, SkipsIdentityReferencedAgain) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  ASSERT_EQ(database->PutDocument("ns", "b", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->PutDocument("other", "b", EntryWith({1}, 1)), absl::OkStatus());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  ASSERT_EQ(database->DeleteDocument("ns", "b", 2), absl::OkStatus());
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)), ElementsAre(IdentityOf(1)));
}

TEST(DropLogTest, SkipsNamespaceThatHasDocumentsAgain) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_TRUE(database->PutDocuments("ns", {{"a", EntryWith({1}, 1)}, {"b", EntryWith({2}, 1)}}).ok());
  ASSERT_TRUE(database->DeleteNamespace("ns").ok());
  ASSERT_EQ(database->PutDocument("ns", "c", EntryWith({2, 3}, 1)), absl::OkStatus());
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)), ElementsAre(IdentityOf(1)));
  // If the new documents were deleted too, the namespace is dropped.
  ASSERT_TRUE(database->DeleteNamespace("ns").ok());
  ASSERT_EQ(database->PutDocument("ns", "c", EntryWith({2}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "c", 2), absl::OkStatus());
  const auto drops = Consume(*database.Open(), NodeOf(1), &position);
  EXPECT_EQ(std::count_if(drops.begin(), drops.end(), [](const Drop& drop) { return !drop.identity.has_value(); }), 1);
}

// The state after the whole cluster was off for longer than the retention.
TEST(DropLogTest, KeepsConsumersThatHaveReadTheWholeLog) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto one = *database->Register(NodeOf(1), Patience()), two = *database->Register(NodeOf(2), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  EXPECT_EQ(Consume(*database.Open(), NodeOf(1), &one).size(), 1u);
  EXPECT_EQ(Consume(*database.Open(), NodeOf(2), &two).size(), 1u);
  ASSERT_EQ(database->Trim(absl::Hours(1), Patience()).value_or(0), 1);
  absl::SleepFor(absl::Milliseconds(20));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(database->Trim(absl::Milliseconds(1), Patience()).ok());
  EXPECT_EQ(database->PositionOf(NodeOf(1), Patience()).status(), absl::OkStatus());
  EXPECT_EQ(database->PositionOf(NodeOf(2), Patience()).status(), absl::OkStatus());
}

// Readers must not pass a transaction that took its number first and commits last.
TEST(DropLogTest, WaitsForOpenTransactions) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_TRUE(database->PutDocuments("ns", {{"a", EntryWith({1}, 1)}, {"b", EntryWith({2}, 1)}}).ok());
  testing::Subprocess slow(
      {"/usr/bin/psql", "--host", SharedServer().socket_directory(), "--port", SharedServer().port(),
       "--username=kvlink", "--dbname", database.name()},
      {.input = "BEGIN; INSERT INTO kvlink.drop_log (transaction, ns, identity) VALUES "
                "(pg_current_xact_id(), 'slow', decode(repeat('77', 32), 'hex')); SELECT 'taken';\n",
       .keep_input_open = true});
  while (slow.output().find("taken") == std::string::npos) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  const DropPosition end = *database->End(Patience());
  EXPECT_LT(position, end);
  const NodeId nodes[] = {NodeOf(1)};
  const absl::Status early = database->WaitForConsumers(end, nodes, SteadyNow() + absl::Seconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(early)) << early;
  EXPECT_THAT(std::string(early.message()), HasSubstr("01010101"));
  slow.Kill();  // rolled back: its row never appears
  while (SharedServer().Sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") != "0") {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)), ElementsAre(IdentityOf(1)));
  EXPECT_EQ(database->WaitForConsumers(end, nodes, Patience()), absl::OkStatus());
}

TEST(DropLogTest, WaitsForAllConsumers) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto one = *database->Register(NodeOf(1), Patience()), two = *database->Register(NodeOf(2), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  const DropPosition end = *database->End(Patience());
  const std::vector<NodeId> nodes = {NodeOf(1), NodeOf(2)};
  EXPECT_EQ(Consume(*database.Open(), NodeOf(1), &one).size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(database->WaitForConsumers(end, nodes, SteadyNow())));
  Thread late("late", [&] { EXPECT_EQ(Consume(*database.Open(), NodeOf(2), &two).size(), 1u); });
  EXPECT_EQ(database->WaitForConsumers(end, nodes, Patience()), absl::OkStatus());
  late.Join();
  EXPECT_TRUE(absl::IsOutOfRange(database->WaitForConsumers(end, {NodeOf(9)}, Patience())));
  // A node that joined meanwhile may hold encodings the others had yet to remove; a removed node is not waited for.
  for (const int node : {3, 4}) {
    ASSERT_EQ(database->Register(NodeOf(static_cast<uint8_t>(node)), Patience()).status(), absl::OkStatus());
  }
  const auto set = [&database](int node, const char* what) {
    database.Sql(absl::StrCat("UPDATE kvlink.consumers SET ", what, " WHERE node_id = decode(repeat('0", node,
                              "', 16), 'hex')"));
  };
  for (const int node : {3, 4}) set(node, "transaction = '1'");
  set(4, "updated = updated - interval '2 minutes'");
  const absl::Status behind = database->WaitForConsumers(end, nodes, SteadyNow() + absl::Seconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(behind)) << behind;
  EXPECT_THAT(std::string(behind.message()), AllOf(HasSubstr("03030303"), Not(HasSubstr("04040404"))));
  ASSERT_EQ(database->StorePosition(NodeOf(3), end, Patience()), absl::OkStatus());
  EXPECT_EQ(database->WaitForConsumers(end, nodes, Patience()), absl::OkStatus());
  // A stored position does not go back.
  EXPECT_EQ(database->StorePosition(NodeOf(1), DropPosition{}, Patience()), absl::OkStatus());
  EXPECT_EQ(*database->PositionOf(NodeOf(1), Patience()), one);
}

TEST(DropLogTest, TrimsBelowSlowestConsumer) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  const auto begin = *database->Register(NodeOf(1), Patience());
  auto fast = *database->Register(NodeOf(2), Patience());
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({i}, i + 1)), absl::OkStatus());
  }
  EXPECT_EQ(Consume(*database.Open(), NodeOf(2), &fast, 2).size(), 9u);
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 0);
  auto slow = begin;
  const auto part = database->ReadDrops(slow, 4, Patience());
  ASSERT_TRUE(part.ok() && part->drops.size() == 4 && !part->caught_up) << part.status();
  ASSERT_EQ(database->StorePosition(NodeOf(1), part->end, Patience()), absl::OkStatus());
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 4);
  EXPECT_TRUE(absl::IsOutOfRange(database->ReadDrops(begin, 10, Patience()).status()));
  // A node that registers now begins at the slowest position.
  EXPECT_EQ(*database->Register(NodeOf(3), Patience()), part->end);
  // When the clock jumps, all nodes seem silent. A node still silent at the next trim is forgotten, and rows it has not
  // read may be trimmed.
  const auto jump = [&database] {
    database.Sql("UPDATE kvlink.consumers SET updated = updated - make_interval(hours => 2)");
  };
  jump();
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 0);
  ASSERT_EQ(database->StorePosition(NodeOf(1), part->end, Patience()), absl::OkStatus());
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 0);
  EXPECT_EQ(database->PositionOf(NodeOf(1), Patience()).status(), absl::OkStatus());
  jump();
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 0);
  ASSERT_EQ(database->StorePosition(NodeOf(2), fast, Patience()), absl::OkStatus());
  ASSERT_EQ(database->Forget(NodeOf(3), Patience()), absl::OkStatus());
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 5);
  for (const absl::Status& status :
       {database->PositionOf(NodeOf(1), Patience()).status(), database->StorePosition(NodeOf(1), part->end, Patience()),
        database->ReadDrops(part->end, 10, Patience()).status()}) {
    EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
  }
  EXPECT_TRUE(database->ReadDrops(fast, 10, Patience())->caught_up);
}

// The state after a dump was loaded into a new server, whose transactions begin at small numbers.
TEST(DropLogTest, ContinuesWithPositionsOfAnotherServer) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  ASSERT_TRUE(database->Register(NodeOf(1), Patience()).ok() && database->Register(NodeOf(2), Patience()).ok());
  for (const char* table : {"consumers", "drop_log_trimmed"}) {
    database.Sql(absl::StrCat("UPDATE kvlink.", table, " SET transaction = '999999999999'"));
  }
  const auto there = *database->PositionOf(NodeOf(1), Patience());
  EXPECT_TRUE(absl::IsOutOfRange(database->ReadDrops(there, 10, Patience()).status()));
  const DropPosition end = *database->End(Patience());
  EXPECT_TRUE(absl::IsDeadlineExceeded(database->WaitForConsumers(end, {NodeOf(2)}, SteadyNow())));
  auto position = *database->Register(NodeOf(1), Patience());
  EXPECT_LE(position, *database->End(Patience()));
  EXPECT_TRUE(database->Trim(absl::Hours(1), Patience()).ok());
  // Else nodes would seem to have missed rows once the transactions of this server come to that number.
  EXPECT_EQ(database.Sql("SELECT transaction, sequence FROM kvlink.drop_log_trimmed"), "0|0");
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)), ElementsAre(IdentityOf(1)));
  ASSERT_EQ(database->StorePosition(NodeOf(2), position, Patience()), absl::OkStatus());
  EXPECT_EQ(*database->PositionOf(NodeOf(2), Patience()), position);
  EXPECT_EQ(database->WaitForConsumers(end, {NodeOf(1), NodeOf(2)}, Patience()), absl::OkStatus());
}

// The dump is older than the node, and is loaded into the server it came from.
TEST(DropLogTest, ResumesNodeThatDumpDoesNotContain) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  const std::string dump = RunOn(database, {"pg_dump", "--schema=kvlink"});
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  const DropPosition before = position;
  database.Sql("DROP SCHEMA kvlink CASCADE");
  RunOn(database, {"psql", "--quiet", "--set=ON_ERROR_STOP=1"}, dump);
  EXPECT_TRUE(absl::IsOutOfRange(database->PositionOf(NodeOf(1), Patience()).status()));
  const auto resumed = database->Resume(NodeOf(1), before, Patience());
  ASSERT_EQ(resumed.status(), absl::OkStatus());
  EXPECT_EQ(*resumed, before);
  EXPECT_EQ(database->StorePosition(NodeOf(1), before, Patience()), absl::OkStatus()) << "it is known";
  // Drops since then are read, even by a node that had already read further when it noticed.
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({2}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &position)), ElementsAre(IdentityOf(2)));
  auto further = *database->Resume(NodeOf(2), *database->End(Patience()), Patience());
  EXPECT_TRUE(absl::IsOutOfRange(database->PositionOf(NodeOf(2), Patience()).status())) << "first it goes back";
  EXPECT_EQ(*database->Resume(NodeOf(2), further, Patience()), further);
  EXPECT_EQ(*database->PositionOf(NodeOf(2), Patience()), further);
  EXPECT_GT(further, before);
  EXPECT_LT(further, position);
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(2), &further)), ElementsAre(IdentityOf(2)));
  // No longer once they were trimmed, and not to a position that was never reached.
  EXPECT_EQ(*database->Trim(absl::Hours(1), Patience()), 1);
  ASSERT_EQ(database->Forget(NodeOf(1), Patience()), absl::OkStatus());
  for (const DropPosition& lost : {before, position, DropPosition{position.transaction + 1000000, 0}}) {
    EXPECT_TRUE(absl::IsOutOfRange(database->Resume(NodeOf(1), lost, Patience()).status()));
  }
  EXPECT_TRUE(absl::IsOutOfRange(database->PositionOf(NodeOf(1), Patience()).status()));
}

// The dump contains the node, which went on reading the old tables.
TEST(DropLogTest, TellsKnownNodeThatTablesWereRestored) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  EXPECT_EQ(*database->PositionOf(NodeOf(1), Patience()), position);
  const std::string dump = RunOn(database, {"pg_dump", "--schema=kvlink"});
  database.Sql("DROP SCHEMA kvlink CASCADE");
  RunOn(database, {"psql", "--quiet", "--set=ON_ERROR_STOP=1"}, dump);
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  const DropPosition read = *database->End(Patience());
  EXPECT_TRUE(absl::IsOutOfRange(database->PositionOf(NodeOf(1), Patience()).status()));
  auto back = *database->Resume(NodeOf(1), read, Patience());
  EXPECT_LT(back, read);
  ASSERT_EQ(*database->Resume(NodeOf(1), back, Patience()), back);
  EXPECT_EQ(*database->PositionOf(NodeOf(1), Patience()), back);
  EXPECT_THAT(IdentitiesIn(Consume(*database.Open(), NodeOf(1), &back)), ElementsAre(IdentityOf(1)));
}

TEST(DropLogTest, ForgetsNodesAfterRestoredBackup) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  auto position = *database->Register(NodeOf(1), Patience());
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(database->DeleteDocument("ns", "a", 2), absl::OkStatus());
  // A position from a database that was ahead of this one.
  EXPECT_TRUE(absl::IsOutOfRange(database->ReadDrops({position.transaction + 1000000, 0}, 10, Patience()).status()));
  ASSERT_EQ(database->ForgetConsumers(Patience()), absl::OkStatus());
  EXPECT_TRUE(absl::IsOutOfRange(database->PositionOf(NodeOf(1), Patience()).status()));
  EXPECT_TRUE(absl::IsOutOfRange(database->ReadDrops(position, 10, Patience()).status()));
  position = *database->Register(NodeOf(1), Patience());
  EXPECT_THAT(Consume(*database.Open(), NodeOf(1), &position), IsEmpty());
  EXPECT_TRUE(absl::IsInvalidArgument(database->ReadDrops(position, 0, Patience()).status()));
}

}  // namespace
}  // namespace kvlink::store::database
