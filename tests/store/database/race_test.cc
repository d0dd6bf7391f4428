// Many clients change the same few documents, chosen by a seed, while a consumer reads the log; the server may be
// killed meanwhile. Triggers that only this test installs record what happened in the server.
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "gtest/gtest.h"
#include "store/database/database.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::store::database {
namespace {

using ::kvlink::testing::Consume;
using ::kvlink::testing::EntryWith;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::IdentityOf;
using ::kvlink::testing::NodeOf;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::PostgresServer;

constexpr int kClients = 6, kDocuments = 8, kIdentities = 8;

// Records which transactions removed references, in the order of the locks, and refuses generations that go back.
constexpr char kWitness[] = R"sql(
CREATE TABLE public.removals (sequence bigserial, identity bytea, transaction xid8);
CREATE FUNCTION public.removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.removals (identity, transaction) VALUES (OLD.identity, pg_current_xact_id()); RETURN NULL; END $$;
CREATE TRIGGER removed AFTER DELETE ON kvlink.refs FOR EACH ROW EXECUTE FUNCTION public.removed();
CREATE FUNCTION public.forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.generation < OLD.generation THEN RAISE 'generation % after %', NEW.generation, OLD.generation; END IF;
RETURN NEW; END $$;
CREATE TRIGGER forward BEFORE UPDATE ON kvlink.documents FOR EACH ROW EXECUTE FUNCTION public.forward();
)sql";

// The greatest acknowledged generation of each document.
class Acknowledged {
 public:
  void Add(const std::string& id, uint64_t generation) {
    MutexLock lock(&mutex_);
    greatest_[id] = std::max(greatest_[id], generation);
  }
  std::map<std::string, uint64_t> greatest() {
    MutexLock lock(&mutex_);
    return greatest_;
  }

 private:
  Mutex mutex_;
  std::map<std::string, uint64_t> greatest_ ABSL_GUARDED_BY(mutex_);
};

std::string IdOf(uint64_t number) { return absl::StrCat("document-", number); }

// Changes up to five documents. Without faults, the only error allowed is that a stored generation is greater.
void Change(DatabaseCatalog& catalog, std::mt19937_64& random, std::atomic<uint64_t>& generations, bool faults,
            Acknowledged& acknowledged) {
  std::vector<DocumentPut> puts;
  for (uint64_t i = 0, count = 1 + random() % 5; i < count; ++i) {
    std::vector<uint64_t> identities;
    for (uint64_t part = 0, parts = random() % 4; part < parts; ++part) identities.push_back(random() % kIdentities);
    // The latest, one of the latest, or one that the store assigns.
    const uint64_t generation = random() % 4 == 0 ? 0 : generations++ - random() % 3;
    puts.push_back({IdOf(random() % kDocuments), EntryWith(identities, generation)});
    puts.back().entry.tombstone = identities.empty();
  }
  const auto put = catalog.PutDocuments("ns", puts);
  if (!put.ok()) {
    EXPECT_TRUE(faults && (absl::IsUnavailable(put.status()) || absl::IsDeadlineExceeded(put.status())))
        << put.status();
    return;
  }
  for (size_t i = 0; i < puts.size(); ++i) {
    if ((*put)[i].ok()) {
      acknowledged.Add(puts[i].id, *(*put)[i]);
    } else {
      EXPECT_TRUE(absl::IsFailedPrecondition((*put)[i].status())) << (*put)[i].status();
    }
  }
}

std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n', absl::SkipEmpty()); }

// The references match the documents; the transaction that removed the last reference wrote a drop; no acknowledged
// generation was lost.
void CheckDatabase(const OwnDatabase& database, Acknowledged& acknowledged) {
  std::set<std::string> references;
  std::vector<std::string> ids;
  for (uint64_t i = 0; i < kDocuments; ++i) ids.push_back(IdOf(i));
  const auto entries = database->GetDocuments("ns", ids);
  ASSERT_TRUE(entries.ok()) << entries.status();
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!(*entries)[i].ok()) continue;
    for (const CatalogPart& part : (*entries)[i]->parts)
      references.insert(absl::StrCat(part.identity.Hex(), " ", ids[i]));
  }
  const auto stored = Lines(database.Sql("SELECT encode(identity, 'hex') || ' ' || id FROM kvlink.refs"));
  EXPECT_EQ(std::set<std::string>(stored.begin(), stored.end()), references);
  EXPECT_EQ(
      database.Sql("SELECT count(*) FROM (SELECT DISTINCT ON (identity) identity, transaction FROM public.removals "
                   "ORDER BY identity, sequence DESC) last "
                   "WHERE NOT EXISTS (SELECT FROM kvlink.refs r WHERE r.identity = last.identity) AND NOT EXISTS "
                   "(SELECT FROM kvlink.drop_log l WHERE (l.identity, l.transaction) = (last.identity, "
                   "last.transaction))"),
      "0");
  EXPECT_EQ(database.Sql("SELECT count(*) FROM (SELECT FROM kvlink.drop_log GROUP BY transaction, identity HAVING "
                         "count(*) > 1) twice"),
            "0");
  EXPECT_EQ(database.Sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"), "0");
  for (const auto& [id, generation] : acknowledged.greatest()) {
    const std::string there =
        database.Sql(absl::StrCat("SELECT generation FROM kvlink.documents WHERE id = '", id, "'"));
    EXPECT_GE(std::stoull("0" + there), generation) << id;
  }
}

// The consumer saw drops in the order of the log, none twice, and has seen a drop of every identity without
// references.
void CheckSeen(const OwnDatabase& database, const std::vector<Drop>& seen) {
  const auto log =
      Lines(database.Sql("SELECT encode(identity, 'hex') FROM kvlink.drop_log ORDER BY transaction, sequence"));
  size_t next = 0;
  std::map<std::string, size_t> last_seen, last;
  for (const Drop& drop : seen) {
    const std::string hex = drop.identity->Hex();
    while (next < log.size() && log[next] != hex) ++next;
    ASSERT_LT(next, log.size()) << "a drop was seen twice, or out of order";
    last_seen[hex] = next++;
  }
  for (size_t i = 0; i < log.size(); ++i) last[log[i]] = i;
  const auto referred = Lines(database.Sql("SELECT DISTINCT encode(identity, 'hex') FROM kvlink.refs"));
  for (const std::string& hex : referred) last.erase(hex);
  for (const auto& [hex, place] : last) {
    EXPECT_TRUE(last_seen.contains(hex)) << hex << " was dropped, and the consumer does not know";
    // Drops of one identity look the same, so it only counts that one was seen.
  }
}

void Race(const OwnDatabase& database, uint64_t seed, bool faults, int changes,
          const std::function<void()>& meanwhile) {
  database.Sql(kWitness);
  DatabaseOptions options = database.options();
  options.patience = absl::Seconds(30);
  options.max_connections = 2;
  auto position = *database->Register(NodeOf(1), Patience());
  std::atomic<uint64_t> generations{10};
  std::atomic<bool> done{false};
  Acknowledged acknowledged;
  std::vector<Drop> seen;
  Thread consumer("consumer", [&] {
    const auto log = database.Open(options);
    while (!done) {
      const auto batch = log->ReadDrops(position, 3, Patience());
      if (!batch.ok()) {
        EXPECT_TRUE(faults) << batch.status();
        continue;
      }
      seen.insert(seen.end(), batch->drops.begin(), batch->drops.end());
      position = batch->end;
    }
  });
  {
    std::vector<Thread> clients;
    for (int client = 0; client < kClients; ++client) {
      clients.emplace_back("client", [&, client] {
        std::mt19937_64 random(seed * 1000 + client);
        const auto catalog = database.Open(options);
        for (int i = 0; i < changes; ++i) Change(*catalog, random, generations, faults, acknowledged);
      });
    }
    meanwhile();
  }
  done = true;
  consumer.Join();
  for (const Drop& drop : Consume(*database.Open(), NodeOf(1), &position)) seen.push_back(drop);
  CheckDatabase(database, acknowledged);
  CheckSeen(database, seen);
}

TEST(RaceTest, ManyClientsChangeTheSameDocuments) {
  KVLINK_NEEDS_POSTGRES();
  for (int i = 0; i < FaultSeeds(); ++i) {
    const uint64_t seed = testing::TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Race(OwnDatabase(), seed, /*faults=*/false, 60, [] {});
    if (::testing::Test::HasFailure()) break;
  }
}

// Documents that share their parts are deleted concurrently: the last deletion must write the drops.
TEST(RaceTest, LastOfConcurrentDeletionsWritesDrop) {
  KVLINK_NEEDS_POSTGRES();
  const OwnDatabase database;
  database.Sql(kWitness);
  // Adds time between removing a reference and checking whether any is left.
  database.Sql(
      "CREATE FUNCTION public.dally() RETURNS trigger LANGUAGE plpgsql AS $$ "
      "BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$");
  database.Sql("CREATE TRIGGER dally AFTER DELETE ON kvlink.refs FOR EACH STATEMENT EXECUTE FUNCTION public.dally()");
  Acknowledged acknowledged;
  for (int round = 0; round < 5; ++round) {
    std::vector<DocumentPut> puts;
    for (int i = 0; i < kClients; ++i) puts.push_back({IdOf(i), EntryWith({1, 2, 3}, 0)});
    ASSERT_TRUE(database->PutDocuments("ns", puts).ok());
    {
      std::vector<Thread> clients;
      for (int i = 0; i < kClients; ++i) {
        clients.emplace_back("client",
                             [&, i] { EXPECT_EQ(database->DeleteDocument("ns", IdOf(i), 0), absl::OkStatus()); });
      }
    }
    CheckDatabase(database, acknowledged);
    EXPECT_EQ(database.Sql("SELECT count(*) FROM kvlink.drop_log"), absl::StrCat(3 * (round + 1)));
  }
}

TEST(RaceTest, ServerIsKilledDuringCommits) {
  KVLINK_NEEDS_POSTGRES();
  for (int i = 0; i < (FaultSeeds() + 2) / 3; ++i) {
    const uint64_t seed = testing::TestSeed() + i;
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    PostgresServer server({.settings = {"max_connections=60"}});
    std::mt19937_64 random(seed);
    Race(OwnDatabase(server), seed, /*faults=*/true, 150, [&] {
      for (int kill = 0; kill < 3; ++kill) {
        absl::SleepFor(absl::Milliseconds(20 + random() % 150));
        server.Kill();
        server.Restart();
      }
    });
    if (::testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace kvlink::store::database
