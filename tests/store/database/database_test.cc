// Documents, namespaces, the schema: the behaviour that the contract of store.h does not cover.
#include "store/database/database.h"

#include <atomic>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/thread.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/database/entries_cache.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::EntryWith;
using ::kvlink::testing::kClusterId;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::SharedServer;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(DatabaseTest, GreaterEntryWinsAtEqualGenerations) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  CatalogEntry less = EntryWith({1}, 7), greater = EntryWith({2}, 7);
  if (SerializeCatalogEntry(less) > SerializeCatalogEntry(greater)) std::swap(less, greater);
  ASSERT_EQ(database->PutDocument("ns", "a", less), absl::OkStatus());
  ASSERT_EQ(database->PutDocument("ns", "a", greater), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(database->PutDocument("ns", "a", less)));
  EXPECT_EQ(database->GetDocument("ns", "a")->parts[0].identity, greater.parts[0].identity);
  // As in the embedded catalog, a tombstone of the same generation is greater than any document.
  ASSERT_EQ(database->DeleteDocument("ns", "a", 7), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(database->PutDocument("ns", "a", greater)));
  EXPECT_TRUE(absl::IsNotFound(database->GetDocument("ns", "a").status()));
}

TEST(DatabaseTest, SecondPutOfOneIdSeesTheFirst) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  const auto put = database->PutDocuments(
      "ns", {{"a", EntryWith({1}, 5)}, {"b", EntryWith({2}, 1)}, {"a", EntryWith({3}, 4)}, {"a", EntryWith({4}, 0)}});
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(*(*put)[0], 5u);
  EXPECT_THAT((*put)[2].status().message(),
              HasSubstr("document a: generation 4 does not replace the stored generation 5"));
  EXPECT_GT(*(*put)[3], 5u);
  EXPECT_EQ(database->GetDocument("ns", "a")->parts[0].identity, testing::IdentityOf(4));
  // An entry that existed only within the batch leaves no reference and no drop.
  EXPECT_EQ(database.Sql("SELECT string_agg(id, ',' ORDER BY id) FROM kvlink.refs"), "a,b");
  EXPECT_EQ(database.Sql("SELECT count(*) FROM kvlink.drop_log"), "0");
}

TEST(EntriesCacheTest, SlowReadDoesNotReplaceLaterOne) {
  EntriesCache cache(absl::Hours(1));
  const absl::Time now = SteadyNow();
  cache.Keep("ns", "a", EntryWith({2}, 2), now, cache.epoch());
  cache.Keep("ns", "a", EntryWith({1}, 1), now - absl::Seconds(1), cache.epoch());
  ASSERT_TRUE(cache.Find("ns", "a").has_value());
  EXPECT_EQ(cache.Find("ns", "a")->generation, 2u);
  cache.Keep("ns", "a", EntryWith({3}, 3), now, cache.epoch());
  EXPECT_EQ(cache.Find("ns", "a")->generation, 3u);
}

// More entries than one answer of the server holds.
TEST(DatabaseTest, ReadsManyLargeEntries) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  std::vector<std::string> ids;
  for (uint64_t i = 0; i < 14; ++i) {
    ids.push_back(absl::StrCat("document-", i));
    CatalogEntry entry = EntryWith({i}, 1);
    entry.parts[0].tokens.assign(700000, static_cast<int32_t>(1000000 + i));
    ASSERT_EQ(database->PutDocument("ns", ids.back(), entry), absl::OkStatus());
  }
  ids.push_back("absent");
  const auto entries = database->GetDocuments("ns", ids);
  ASSERT_TRUE(entries.ok()) << entries.status();
  for (size_t i = 0; i < 14; ++i) {
    ASSERT_TRUE((*entries)[i].ok()) << (*entries)[i].status();
    EXPECT_EQ((*entries)[i]->parts[0].identity, testing::IdentityOf(i));
  }
  EXPECT_TRUE(absl::IsNotFound((*entries)[14].status()));
}

TEST(DatabaseTest, KeepsEveryGenerationAndTitle) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  CatalogEntry entry = EntryWith({1}, UINT64_MAX);
  entry.title = std::string("zero \0 quote ' percent % \xf0\x9f\x8c\x99", 29);
  ASSERT_EQ(database->PutDocument("n's \\ \"", "i'd \\ {x,y}", entry), absl::OkStatus());
  const auto got = database->GetDocument("n's \\ \"", "i'd \\ {x,y}");
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->generation, UINT64_MAX);
  EXPECT_EQ(got->title, entry.title);
  const auto listed = database->ListDocuments("n's \\ \"", "", 10);
  ASSERT_TRUE(listed.ok() && listed->size() == 1) << listed.status();
  EXPECT_EQ((*listed)[0].generation, UINT64_MAX);
  EXPECT_EQ((*listed)[0].title, entry.title);
  EXPECT_EQ((*listed)[0].tokens, 3);
}

TEST(DatabaseTest, ListsInByteOrder) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  std::vector<DocumentPut> puts;
  const std::vector<std::string> ids = {"B", "a", "a/1", "a1", "b", "z", "\xc3\xa4"};  // in byte order
  for (const std::string& id : ids) puts.push_back({id, EntryWith({1}, 1)});
  std::swap(puts[0], puts[5]);
  ASSERT_TRUE(database->PutDocuments("ns", puts).ok());
  ASSERT_EQ(database->DeleteDocument("ns", "a1", 2), absl::OkStatus());
  std::vector<std::string> listed;
  for (std::string after;;) {
    const auto page = database->ListDocuments("ns", after, 2);
    ASSERT_TRUE(page.ok()) << page.status();
    if (page->empty()) break;
    for (const DocumentInfo& one : *page) listed.push_back(one.id);
    after = page->back().id;
  }
  EXPECT_THAT(listed, ::testing::ElementsAre("B", "a", "a/1", "b", "z", "\xc3\xa4"));
}

TEST(DatabaseTest, ListsPastTombstones) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  std::vector<DocumentPut> puts;
  std::vector<DocumentDeletion> deletions;
  for (int i = 1000; i < 2000; ++i) {
    puts.push_back({absl::StrCat(i), EntryWith({1}, 1)});
    if (1100 <= i && i < 1900) deletions.push_back({absl::StrCat(i), 2});
  }
  ASSERT_TRUE(database->PutDocuments("ns", puts).ok());
  ASSERT_TRUE(database->DeleteDocuments("ns", deletions).ok());
  const auto ids = [&](const std::string& after, int64_t limit) {
    std::vector<std::string> ids;
    const auto listed = database->ListDocuments("ns", after, limit);
    EXPECT_TRUE(listed.ok()) << listed.status();
    if (!listed.ok()) return ids;
    for (const DocumentInfo& one : *listed) ids.push_back(one.id);
    return ids;
  };
  EXPECT_THAT(ids("1097", 4), ::testing::ElementsAre("1098", "1099", "1900", "1901"));
  EXPECT_THAT(ids("1500", 1), ::testing::ElementsAre("1900"));
  EXPECT_EQ(ids("", 1000).size(), 200u);
  EXPECT_EQ(ids("", 200).size(), 200u);
  EXPECT_EQ(ids("1999", 10).size(), 0u);
}

TEST(DatabaseTest, SplitsLargeCalls) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  std::vector<DocumentPut> puts;
  std::vector<std::string> ids;
  for (uint64_t i = 0; i < 2500; ++i) {
    ids.push_back(absl::StrCat("document-", i));
    puts.push_back({ids.back(), EntryWith({i, i / 2 + 10000}, 1)});
  }
  const auto put = database->PutDocuments("ns", puts);
  ASSERT_TRUE(put.ok()) << put.status();
  ASSERT_EQ(put->size(), 2500u);
  const auto got = database->GetDocuments("ns", ids);
  ASSERT_TRUE(got.ok() && got->size() == 2500u) << got.status();
  for (size_t i = 0; i < got->size(); ++i) {
    ASSERT_TRUE((*got)[i].ok()) << (*got)[i].status();
    EXPECT_EQ((*got)[i]->parts[0].identity, testing::IdentityOf(i));
  }
  const auto stats = database->Stats(Patience());
  ASSERT_TRUE(stats.ok()) << stats.status();
  ASSERT_EQ(stats->namespaces.size(), 1u);
  EXPECT_EQ(stats->namespaces[0].documents, 2500);
  EXPECT_EQ(database.Sql("SELECT count(*) FROM kvlink.refs"), "5000");
  const auto deleted = database->DeleteNamespace("ns");
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ(deleted->documents, 2500);
  EXPECT_EQ(deleted->encodings, 3750);
  EXPECT_EQ(database.Sql("SELECT (SELECT count(*) FROM kvlink.documents), (SELECT count(*) FROM kvlink.refs), "
                         "(SELECT count(*) FROM kvlink.drop_log)"),
            "0|0|3751");
}

// Documents may have thousands of parts each, and a transaction has to end in time.
TEST(DatabaseTest, SplitsDeletionsByTheirReferences) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  constexpr uint64_t kDocuments = 5, kParts = 4096;
  std::vector<DocumentPut> puts;
  std::vector<DocumentDeletion> deletions;
  for (uint64_t i = 0; i < kDocuments; ++i) {
    std::vector<uint64_t> parts(kParts);
    std::iota(parts.begin(), parts.end(), i * kParts);
    puts.push_back({absl::StrCat("document-", i), EntryWith(parts, 1)});
    deletions.push_back({puts.back().id, 2});
  }
  for (const char* ns : {"documents", "namespace"}) ASSERT_TRUE(database->PutDocuments(ns, puts).ok());
  const auto deleted = database->DeleteDocuments("documents", deletions);
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_THAT(*deleted, ::testing::ElementsAreArray(std::vector<absl::Status>(kDocuments)));
  EXPECT_EQ(database->DeleteNamespace("namespace")->encodings, kDocuments * kParts);
  for (const char* ns : {"documents", "namespace"}) {
    EXPECT_EQ(database.Sql(absl::StrCat("SELECT count(identity), count(DISTINCT transaction) FROM kvlink.drop_log "
                                        "WHERE ns = '",
                                        ns, "'")),
              absl::StrCat(kDocuments * kParts, "|2"))
        << ns;
  }
  EXPECT_EQ(database.Sql("SELECT (SELECT count(*) FROM kvlink.documents), (SELECT count(*) FROM kvlink.refs)"),
            absl::StrCat(kDocuments, "|0"));
}

TEST(DatabaseTest, ReplacesADamagedEntryAndReportsItUntilThen) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 3)), absl::OkStatus());
  database.Sql("UPDATE kvlink.documents SET entry = substr(entry, 1, 20)");
  EXPECT_TRUE(absl::IsDataLoss(database->GetDocument("ns", "a").status()));
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 3)), absl::OkStatus());
  EXPECT_TRUE(database->GetDocument("ns", "a").ok());
}

TEST(DatabaseTest, RefusesInvalidArguments) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  EXPECT_TRUE(absl::IsInvalidArgument(database->PutDocuments("", {{"a", EntryWith({1}, 1)}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(database->PutDocuments("ns", {{"a\n", EntryWith({1}, 1)}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(database->GetDocuments("ns", {"\xff"}).status()));
  CatalogEntry too_many;
  too_many.parts.resize(5000);
  const auto put = database->PutDocuments("ns", {{"a", too_many}, {"b", EntryWith({1}, 1)}});
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(absl::IsInvalidArgument((*put)[0].status()));
  EXPECT_EQ(*(*put)[1], 1u);
}

TEST(DatabaseTest, LimitsOfNamespacesHaveRevisions) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  EXPECT_EQ(database->PutNamespace({"b", 100, 10, {}}, Patience())->revision, 1u);
  const auto changed = database->PutNamespace({"b", 200, {}, {}}, Patience());
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(changed->revision, 2u);
  EXPECT_EQ(changed->capacity_bytes, 200);
  EXPECT_EQ(changed->pinned_bytes, 10) << "limits not given stay";
  EXPECT_EQ(database->PutNamespace({"b", 300, 10, 9}, Patience())->revision, 9u);
  EXPECT_EQ(database->PutNamespace({"b", 300, 10, 9}, Patience())->revision, 9u);  // as after a lost answer
  const absl::Status stale = database->PutNamespace({"b", 400, 10, 9}, Patience()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(stale));
  EXPECT_THAT(stale.message(), HasSubstr("revision 9 does not replace the current revision 9"));
  EXPECT_TRUE(absl::IsInvalidArgument(database->PutNamespace({"b", -1, {}, {}}, Patience()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(database->PutNamespace({"b", 1, {}, 0}, Patience()).status()));
  ASSERT_TRUE(database->PutNamespace({"last", {}, {}, INT64_MAX}, Patience()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(database->PutNamespace({"last", 1, {}, {}}, Patience()).status()));
  ASSERT_TRUE(database->DeleteNamespace("last").ok());
  ASSERT_TRUE(database->PutNamespace({"a", 1, 0, 5}, Patience()).ok());
  const auto all = database->ListNamespaces(Patience());
  ASSERT_TRUE(all.ok() && all->size() == 2) << all.status();
  EXPECT_EQ((*all)[0].name, "a");
  EXPECT_EQ((*all)[0].revision, 5u);
  EXPECT_EQ((*all)[1].capacity_bytes, 300);
  ASSERT_TRUE(database->DeleteNamespace("b").ok());
  EXPECT_EQ(database->ListNamespaces(Patience())->size(), 1u);
}

TEST(DatabaseTest, TheCacheAnswersWithinItsStaleness) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  DatabaseOptions options = database.options();
  options.staleness = absl::Hours(1);
  const auto cached = database.Open(options);
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  ASSERT_EQ(cached->GetDocument("ns", "a")->generation, 1u);
  ASSERT_EQ(database->PutDocument("ns", "a", EntryWith({2}, 2)), absl::OkStatus());
  EXPECT_EQ(cached->GetDocument("ns", "a")->generation, 1u);
  EXPECT_EQ(database->GetDocument("ns", "a")->generation, 2u);
  // It sees its own puts and deletions.
  ASSERT_EQ(cached->PutDocument("ns", "a", EntryWith({3}, 3)), absl::OkStatus());
  EXPECT_EQ(cached->GetDocument("ns", "a")->generation, 3u);
  ASSERT_EQ(cached->DeleteDocument("ns", "a", 4), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(cached->GetDocument("ns", "a").status()));
}

TEST(DatabaseTest, ReportsWrongTables) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  DatabaseOptions other = database.options();
  other.cluster_id = {0xbb};
  for (const absl::Status& status :
       {database.Open(other)->GetDocument("ns", "a").status(), database.Open(other)->Prepare(Patience())}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("cluster c1050000"), HasSubstr("not to bb000000")));
  }
  database.Sql("UPDATE kvlink.kvlink_schema SET version = 99");
  for (const absl::Status& status :
       {database.Open()->GetDocument("ns", "a").status(), database.Open()->Prepare(Patience())}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("version 99"), HasSubstr("version 1"), HasSubstr("newer build")));
  }
  DatabaseOptions empty = database.options();
  empty.connection = SharedServer().connection(SharedServer().NewDatabase());
  const absl::Status status = database.Open(empty)->PutDocument("ns", "a", EntryWith({1}, 1));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("no KVLink tables"), HasSubstr("restore")));
}

// Tables that were only made are not the catalog of a cluster that had nodes.
TEST(DatabaseTest, IsUsedOnceANodeOrADocumentIsThere) {
  KVLINK_NEEDS_POSTGRES();
  const auto used = [](const OwnDatabase& database) {
    const auto answer = database->Used(Patience());
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() && *answer;
  };
  const OwnDatabase of_nodes, of_documents;
  EXPECT_FALSE(used(of_nodes));
  ASSERT_TRUE(of_nodes->Register({1}, Patience()).ok());
  EXPECT_TRUE(used(of_nodes));
  EXPECT_FALSE(used(of_documents));
  ASSERT_EQ(of_documents->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  EXPECT_TRUE(used(of_documents));
}

TEST(DatabaseTest, PreparesConcurrently) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  DatabaseOptions empty = database.options();
  empty.connection = SharedServer().connection(SharedServer().NewDatabase());
  std::atomic<int> prepared{0};
  {
    std::vector<Thread> threads;
    for (int i = 0; i < 6; ++i) {
      threads.emplace_back("prepare", [&] {
        const absl::Status status = database.Open(empty)->Prepare(Patience());
        EXPECT_EQ(status, absl::OkStatus());
        prepared += status.ok() ? 1 : 0;
      });
    }
  }
  EXPECT_EQ(prepared, 6);
  EXPECT_EQ(database.Open(empty)->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
}

TEST(DatabaseTest, NamesMissingPrivileges) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  database.Sql("DROP ROLE IF EXISTS poor");
  database.Sql("CREATE ROLE poor LOGIN");
  DatabaseOptions poor = database.options();
  poor.connection = absl::StrCat(poor.connection, "?user=poor");
  const absl::Status status = database.Open(poor)->GetDocument("ns", "a").status();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("grant the user"));
  database.Sql(
      "GRANT USAGE ON SCHEMA kvlink TO poor; GRANT USAGE ON ALL SEQUENCES IN SCHEMA kvlink TO poor; "
      "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA kvlink TO poor");
  const auto with_rights = database.Open(poor);
  EXPECT_EQ(with_rights->Prepare(Patience()), absl::OkStatus());
  EXPECT_EQ(with_rights->PutDocument("ns", "a", EntryWith({1}, 1)), absl::OkStatus());
  EXPECT_EQ(with_rights->DeleteDocument("ns", "a", 0), absl::OkStatus());
  database.Sql("DROP OWNED BY poor");
  poor.connection = absl::StrCat(SharedServer().connection(SharedServer().NewDatabase()), "?user=poor");
  EXPECT_TRUE(absl::IsPermissionDenied(database.Open(poor)->Prepare(Patience())));
}

// Errors of servers that are full, have conflicts or stop. A trigger raises them in the test.
TEST(DatabaseTest, MapsServerErrorsToCodes) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  database.Sql(
      "CREATE TABLE public.errors (state text, times bigint); CREATE SEQUENCE public.said; "
      "CREATE FUNCTION public.say() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE e public.errors; BEGIN "
      "SELECT * INTO e FROM public.errors; IF nextval('public.said') <= e.times THEN RAISE 'as asked' USING "
      "ERRCODE = e.state; END IF; RETURN NEW; END $$; CREATE TRIGGER say BEFORE INSERT ON kvlink.documents FOR "
      "EACH ROW EXECUTE FUNCTION public.say()");
  DatabaseOptions options = database.options();
  options.patience = absl::Milliseconds(50);
  const auto catalog = database.Open(options);
  int number = 0;
  const auto put_with = [&](const std::string& state, int times) {
    database.Sql(absl::StrCat("DELETE FROM public.errors; INSERT INTO public.errors VALUES ('", state, "', ", times,
                              "); ALTER SEQUENCE public.said RESTART"));
    return catalog->PutDocument("ns", absl::StrCat("document-", number++), EntryWith({1}, 1));
  };
  const auto full = put_with("53100", 1);
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(full.message(), HasSubstr("no disk space"));
  for (const char* in_the_way : {"40001", "40P01", "23505"}) {
    EXPECT_EQ(put_with(in_the_way, 3), absl::OkStatus()) << in_the_way;
  }
  EXPECT_TRUE(absl::IsAborted(put_with("40P01", 1000)));
  EXPECT_EQ(put_with("57P01", 1), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(put_with("57P01", 1000)));
  EXPECT_TRUE(absl::IsUnavailable(put_with("25006", 1000)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(put_with("57014", 1)));
  const auto other = put_with("22000", 1);
  EXPECT_EQ(other.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(other.message(), AllOf(HasSubstr("as asked"), HasSubstr("22000")));
  EXPECT_EQ(put_with("00000", 0), absl::OkStatus());
}

TEST(DatabaseTest, RefusesPasswordInConnectionString) {
  for (const char* text : {"postgresql://kvlink:secret@127.0.0.1/x", "host=127.0.0.1 password=secret",
                           "postgresql://127.0.0.1/x?password=secret", "nonsense secret"}) {
    const absl::Status status = DatabaseCatalog::Open({.connection = text, .cluster_id = kClusterId}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), Not(HasSubstr("secret")));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(
      DatabaseCatalog::Open({.connection = "host=a,b,c port=1,2", .cluster_id = kClusterId}).status()));
}

}  // namespace
}  // namespace kvlink::store::database
