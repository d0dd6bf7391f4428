// What does a catalog cost? Writes and reads documents of 500 tokens, at 1, 40 and 1,024 a call, in a cluster's
// database and in a directory. The ceiling of the database is the bare statements: the same rows in one round trip and
// one commit, without checking what exists; entries are serialised and parsed as everywhere. Everything runs on the
// same cores.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "bench/bench_common.h"
#include "store/database/connection.h"
#include "store/database/database.h"
#include "store/embedded/embedded.h"
#include "tests/support/postgres.h"

namespace kvlink::bench {
namespace {

using store::DocumentCatalog;
using store::DocumentPut;
using store::database::Connection;
using store::database::DatabaseCatalog;
using store::database::Host;
using store::database::Parameters;
using store::database::Query;
using testing::PostgresServer;

constexpr char kNamespace[] = "bench";
constexpr int64_t kTokens = 500, kSizes[] = {1024, 40, 1};
constexpr int kBlocks = 20;
constexpr double kTarget = 0.7;

std::string IdOf(int64_t number) { return absl::StrCat("corpus/document-", number); }

DocumentPut DocumentOf(int64_t number) {
  std::mt19937_64 random(static_cast<uint64_t>(number));
  DocumentPut put{IdOf(number), {}};
  put.entry.generation = 1;
  put.entry.title = absl::StrCat("Document ", number);
  CatalogPart& part = put.entry.parts.emplace_back();
  for (uint8_t& byte : part.identity.bytes) byte = static_cast<uint8_t>(random());
  part.tokens.resize(kTokens);
  for (int32_t& token : part.tokens) token = static_cast<int32_t>(random() % 128000);
  return put;
}

std::vector<DocumentPut> DocumentsOf(int64_t first, int64_t count) {
  std::vector<DocumentPut> puts;
  for (int64_t i = 0; i < count; ++i) puts.push_back(DocumentOf(first + i));
  return puts;
}

// One of the alternatives. Both functions are called by several threads.
struct Side {
  std::string name;
  std::function<void(int thread, const std::vector<DocumentPut>&)> put;
  std::function<void(int thread, const std::vector<std::string>&)> get;
};

Side SideOf(std::string name, DocumentCatalog* catalog) {
  Side side{std::move(name), {}, {}};
  side.put = [catalog](int, const std::vector<DocumentPut>& documents) {
    for (const auto& one : Must(catalog->PutDocuments(kNamespace, documents))) MustBe(one.status());
  };
  side.get = [catalog](int, const std::vector<std::string>& ids) {
    for (const auto& one : Must(catalog->GetDocuments(kNamespace, ids))) MustBe(one.status());
  };
  return side;
}

// The statements alone, with one connection per thread.
class Bare {
 public:
  Bare(const std::string& connection, int threads) : hosts_(Must(store::database::ParseConnectionString(connection))) {
    for (int i = 0; i < threads; ++i) {
      connections_.push_back(Must(Connection::Open(hosts_[0], Deadline())));
      MustBe(connections_.back()
                 ->Run({Query{&store::database::kSetSession, Parameters().Text("60000")}}, Deadline())
                 .status());
    }
  }
  Connection& connection(int thread) { return *connections_[thread]; }
  Side side() {
    return {"bare statements", [this](int thread, const auto& documents) { Put(thread, documents); },
            [this](int thread, const auto& ids) {
              const std::vector<absl::string_view> views(ids.begin(), ids.end());
              const auto rows = Must(connection(thread).Run(
                  {Query{&store::database::kGetDocuments, Parameters().Text(kNamespace).Texts(views)}}, Deadline()));
              if (rows[0].size() != static_cast<int>(ids.size())) Die("a document is not there");
              for (int row = 0; row < rows[0].size(); ++row) Must(ParseCatalogEntry(rows[0].Bytes(row, 2)));
            }};
  }

 private:
  static absl::Time Deadline() { return SteadyNow() + absl::Minutes(1); }
  void Put(int thread, const std::vector<DocumentPut>& documents) {
    std::vector<absl::string_view> ids, titles, identities, entries;
    std::vector<std::string> serialised;
    const std::vector<int64_t> ones(documents.size(), 1);
    for (const DocumentPut& one : documents) {
      ids.push_back(one.id);
      titles.push_back(one.entry.title);
      identities.emplace_back(reinterpret_cast<const char*>(one.entry.parts[0].identity.bytes.data()), 32);
      serialised.push_back(SerializeCatalogEntry(one.entry));
    }
    entries.assign(serialised.begin(), serialised.end());
    Parameters rows = Parameters()
                          .Text(kNamespace)
                          .Texts(ids)
                          .Integers(ones)
                          .Flags(std::vector<char>(documents.size(), 0))
                          .Integers(ones)
                          .Integers(ones)
                          .BytesOf(titles)
                          .BytesOf(identities)
                          .BytesOf(entries);
    MustBe(connection(thread)
               .Run({Query{&store::database::kInsertDocuments, std::move(rows)},
                     Query{&store::database::kInsertReferences,
                           Parameters().Text(kNamespace).BytesOf(identities).Texts(ids)}},
                    Deadline())
               .status());
  }
  const std::vector<Host> hosts_;
  std::vector<std::unique_ptr<Connection>> connections_;
};

struct Outcome {
  double seconds = 0;
  std::vector<double> calls;
};

// `calls` calls, distributed over the threads; call i is `call(thread, i)`, with its input made beforehand by
// `prepare`.
template <typename Input>
Outcome Measure(int threads, int64_t calls, const std::function<Input(int64_t)>& prepare,
                const std::function<void(int, const Input&)>& call) {
  std::vector<Input> inputs;
  for (int64_t i = 0; i < calls; ++i) inputs.push_back(prepare(i));
  Outcome outcome;
  Mutex mutex;
  std::atomic<int64_t> next{0};
  const double start = Now();
  {
    std::vector<Thread> running;
    for (int thread = 0; thread < threads; ++thread) {
      running.emplace_back("bench", [&, thread] {
        std::vector<double> mine;
        for (int64_t i; (i = next++) < calls;) {
          const double begin = Now();
          call(thread, inputs[i]);
          mine.push_back(Now() - begin);
        }
        MutexLock lock(&mutex);
        outcome.calls.insert(outcome.calls.end(), mine.begin(), mine.end());
      });
    }
  }
  outcome.seconds = Now() - start;
  return outcome;
}

// One side's figures, over all blocks.
struct Figures {
  std::vector<double> rates, calls;
};

void Add(const std::string& what, int64_t size, const std::vector<Side>& sides, const std::vector<Figures>& figures,
         Report* report) {
  for (size_t i = 0; i < sides.size(); ++i) {
    const std::string name = absl::StrCat(sides[i].name, ", ", what, ", ", size, " a call");
    report->Add(name, Median(figures[i].rates), "entries/s");
    report->Add(absl::StrCat(name, ", p99"), 1e3 * Quantile(figures[i].calls, 0.99), "ms");
  }
  // The first two are the database and its ceiling.
  if (sides.size() < 2) return;
  report->Add(absl::StrCat(what, ", ", size, " a call, of the bare statements"),
              MedianRatio(figures[0].rates, figures[1].rates), "", Target{kTarget, false});
}

// Writes documents from `*first` on, in `blocks` blocks of `calls` calls, each block to each side in turn.
void MeasurePuts(const std::vector<Side>& sides, int threads, int64_t size, int64_t calls, int blocks, int64_t* first,
                 Report* report) {
  std::vector<Figures> figures(sides.size());
  for (int block = 0; block < blocks; ++block) {
    for (size_t i = 0; i < sides.size(); ++i) {
      const Outcome outcome = Measure<std::vector<DocumentPut>>(
          threads, calls, [&](int64_t call) { return DocumentsOf(*first + call * size, size); }, sides[i].put);
      figures[i].rates.push_back(static_cast<double>(calls * size) / outcome.seconds);
      figures[i].calls.insert(figures[i].calls.end(), outcome.calls.begin(), outcome.calls.end());
    }
    *first += calls * size;
  }
  Add("write", size, sides, figures, report);
}

void MeasureGets(const std::vector<Side>& sides, int threads, int64_t size, int64_t calls, int64_t documents,
                 Report* report) {
  std::vector<Figures> figures(sides.size());
  std::mt19937_64 random(1);
  for (int block = 0; block < 5; ++block) {
    std::vector<std::vector<std::string>> wanted(calls);
    for (auto& ids : wanted) {
      for (int64_t i = 0; i < size; ++i) ids.push_back(IdOf(static_cast<int64_t>(random() % documents)));
      std::sort(ids.begin(), ids.end());
      ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    }
    for (size_t i = 0; i < sides.size(); ++i) {
      const Outcome outcome = Measure<std::vector<std::string>>(
          threads, calls, [&](int64_t call) { return wanted[call]; }, sides[i].get);
      figures[i].rates.push_back(static_cast<double>(calls * size) / outcome.seconds);
      figures[i].calls.insert(figures[i].calls.end(), outcome.calls.begin(), outcome.calls.end());
    }
  }
  Add("read", size, sides, figures, report);
}

int64_t BytesBelow(const std::string& directory) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

int Main(int argc, char** argv) {
  const auto flags = Flags::Parse(argc, argv, "Measures the catalog in a database and in a directory.",
                                  {{"documents", "N", "How many there are in the end, about (default 1000000)."},
                                   {"threads", "N", "Callers at a time (default 4)."},
                                   kScratchFlag});
  if (!flags.ok()) Die(flags.status().message());
  if (flags->help_wanted()) return 0;
  const int64_t documents = std::clamp<int64_t>(flags->GetInt("documents", 1000000), 1000, int64_t{1} << 32);
  const int threads = static_cast<int>(std::clamp<int64_t>(flags->GetInt("threads", 4), 1, 64));
  const Scratch scratch = Must(Scratch::Make(flags->Get("dir", "")));
  const auto embedded = Must(store::OpenEmbedded(scratch.path() + "/store", {.dram_bytes = 64 << 20}));
  std::unique_ptr<PostgresServer> server;
  std::unique_ptr<DatabaseCatalog> database, ceiling;
  std::unique_ptr<Bare> bare;
  std::vector<Side> sides;
  if (PostgresServer::Installed()) {
    server = std::make_unique<PostgresServer>(testing::PostgresOptions{
        .settings = {"shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min"}, .durable = true});
    const auto open = [&] {
      store::database::DatabaseOptions options;
      options.connection = server->connection(server->NewDatabase());
      options.max_connections = threads;
      auto catalog = Must(DatabaseCatalog::Open(options));
      MustBe(catalog->Prepare(SteadyNow() + absl::Minutes(1)));
      return std::make_pair(std::move(catalog), options.connection);
    };
    database = open().first;
    auto [prepared, connection] = open();
    ceiling = std::move(prepared);
    bare = std::make_unique<Bare>(connection, threads);
    sides = {SideOf("database", database.get()), bare->side()};
  } else {
    std::fprintf(stderr, "bench_catalog: PostgreSQL is not installed; the directory alone is measured\n");
  }
  sides.push_back(SideOf("directory", embedded.get()));

  Report report("catalog");
  report.Section(absl::StrCat("writing, ", threads, " at a time"));
  int64_t first = 0;
  for (const int64_t size : kSizes) {
    // Nearly all documents at the largest size.
    const int64_t calls = size == 1024 ? std::max<int64_t>(documents / kBlocks / size, 1)
                                       : std::max<int64_t>(documents / 200 / kBlocks / size, 4 * threads);
    MeasurePuts(sides, threads, size, calls, kBlocks, &first, &report);
  }
  report.Section("reading");
  for (const int64_t size : kSizes) {
    MeasureGets(sides, threads, size, size == 1024 ? 20 : size == 40 ? 200 : 2000, first, &report);
  }
  report.Section("size");
  if (server != nullptr) {
    const auto size = server->Sql(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relnamespace = "
        "'kvlink'::regnamespace AND relkind = 'r'",
        "kvlink_1");
    report.Add("database, bytes a document", std::atof(size.c_str()) / static_cast<double>(first), "B");
  }
  report.Add("directory, bytes a document",
             static_cast<double>(BytesBelow(scratch.path() + "/store")) / static_cast<double>(first), "B");
  report.Add("entry, bytes", static_cast<double>(SerializeCatalogEntry(DocumentOf(1).entry).size()), "B");
  return report.Finish(flags->json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
