// How the server finds rows: checks the plan of every statement over large tables, with default settings and with those
// of our sessions, and over tables that the server believes to be empty, with those of our sessions.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "store/database/statements.h"
#include "tests/store/database/own_database.h"
#include "tests/support/seed.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::OwnDatabase;

// For each table, the condition that must be looked up in its index.
constexpr std::pair<const char*, const char*> kKeys[] = {
    {"documents", "(id "}, {"refs", "(identity = "}, {"drop_log", "transaction, "}};

constexpr char kOurSettings[] =
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; ";

// Each document has a part of its own and one shared with nine others; every tenth is a tombstone. Each part of a
// document's own has a row in the drop log.
void Fill(const OwnDatabase& database, int64_t documents) {
  const std::string count = absl::StrCat(documents);
  database.Sql(absl::StrCat(
      "INSERT INTO kvlink.documents (ns, id, generation, written_at, tokens, tombstone, title, identities, entry) "
      "SELECT 'ns-' || i % 3, 'document-' || i, i, i, 500, i % 10 = 0, 'A title', sha256(i::text::bytea), "
      "decode(repeat('00', 200), 'hex') FROM generate_series(1, ",
      count, ") i"));
  database.Sql(
      absl::StrCat("INSERT INTO kvlink.refs SELECT 'ns-' || i % 3, sha256(i::text::bytea), 'document-' || i "
                   "FROM generate_series(1, ",
                   count, ") i"));
  database.Sql(
      absl::StrCat("INSERT INTO kvlink.refs SELECT 'ns-' || i % 3, sha256((i / 30)::text::bytea), 'document-' "
                   "|| i FROM generate_series(1, ",
                   count, ") i ON CONFLICT DO NOTHING"));
  database.Sql(
      absl::StrCat("INSERT INTO kvlink.drop_log SELECT (1000 + i / 10)::text::xid8, i, 'ns', "
                   "sha256(i::text::bytea) FROM generate_series(1, ",
                   count, ") i"));
  database.Sql(
      "INSERT INTO kvlink.consumers SELECT substr(sha256(i::text::bytea), 1, 16), '1000', i, now() "
      "FROM generate_series(1, 100) i");
}

std::string PlanOf(const OwnDatabase& database, const Statement& statement, const std::string& settings) {
  const std::string sql = statement.sql;
  int parameters = 0;
  for (int n = 1; absl::StrContains(sql, absl::StrCat("$", n)); ++n) parameters = n;
  std::string nulls;
  for (int i = 0; i < parameters; ++i) absl::StrAppend(&nulls, i == 0 ? "(" : ", ", "NULL");
  if (parameters > 0) nulls += ")";
  return database.Sql(absl::StrCat(settings, "SET plan_cache_mode = force_generic_plan; PREPARE it AS ", sql,
                                   "; EXPLAIN EXECUTE it", nulls));
}

void CheckPlans(const OwnDatabase& database, const std::string& settings) {
  for (const Statement* const statement : PreparedStatements()) {
    SCOPED_TRACE(statement->name);
    const std::string plan = PlanOf(database, *statement, settings);
    // Else a page might pass over any number of rows.
    EXPECT_FALSE(statement == &kListDocuments && absl::StrContains(plan, "Filter")) << plan;
    const std::vector<std::string> lines = absl::StrSplit(plan, '\n');
    for (size_t i = 0; i < lines.size(); ++i) {
      for (const char* const refused : {"Hash", "hashed", "Materialize", "Join Filter"}) {
        EXPECT_FALSE(absl::StrContains(lines[i], refused)) << plan;
      }
      for (const auto& [table, key] : kKeys) {
        // A plan names a table as in " on documents d  (cost=...".
        if (!absl::StrContains(lines[i], absl::StrCat(" on ", table, " ")) || absl::StrContains(lines[i], "Conflict")) {
          continue;
        }
        EXPECT_FALSE(absl::StrContains(lines[i], "Seq Scan") || absl::StrContains(lines[i], "Bitmap")) << plan;
        if (!absl::StrContains(lines[i], "Index")) continue;
        // By the whole key, or from a position within it.
        ASSERT_LT(i + 1, lines.size()) << plan;
        EXPECT_TRUE(absl::StrContains(lines[i + 1], "Index Cond")) << plan;
        EXPECT_TRUE(absl::StrContains(lines[i + 1], key)) << plan;
      }
    }
  }
}

TEST(PlanTest, EveryStatementUsesAnIndex) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  Fill(database, testing::Soak() ? 1000000 : 50000);
  database.Sql("ANALYZE kvlink.documents, kvlink.refs, kvlink.drop_log, kvlink.consumers");
  CheckPlans(database, "");
  CheckPlans(database, kOurSettings);
}

// A plan made when the tables were new stays in use until the server analyzes them; they may be large by then.
TEST(PlanTest, UsesIndexesWithStatisticsOfEmptyTables) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  CheckPlans(database, kOurSettings);
}

}  // namespace
}  // namespace kvlink::store::database
