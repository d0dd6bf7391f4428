// Four processes ingest a corpus into one node, or a cluster of three, and are killed at random throughout: in the end
// the catalog equals the corpus, and no durable encoding was computed again. Then they ingest the corpus unchanged, and
// again with small changes.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <sstream>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "store/cli/place.h"
#include "tests/integration/node_process.h"
#include "tests/support/etcd_cluster.h"
#include "tests/support/postgres.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"
#include "worker/link/profile.h"

namespace kvlink::testing {
namespace {

constexpr int kShards = 4;

// Ids and texts, all different. Some are longer than the context.
using Corpus = std::map<std::string, std::string>;

std::string TextOf(int number, int version) {
  std::string text = absl::StrCat("There are ", number * 7919, " grains in glass ", number, ", version ", version, ".");
  for (int i = 0; number % 40 == 7 && i < 12; ++i) {
    absl::StrAppend(&text, "\n\nParagraph ", i, " of ", number, " says that more is to come, and then more.");
  }
  return text;
}

struct Totals {
  int64_t added = 0, skipped = 0, failed = 0, pruned = 0;
};

enum class Place : uint8_t { kNode, kCluster };

class IngestShards : public ::testing::TestWithParam<Place> {
 protected:
  static bool InCluster() { return GetParam() == Place::kCluster; }
  void SetUp() override {
    if (InCluster() && !EtcdCluster::Installed()) GTEST_SKIP() << "no etcd here (Debian's etcd-server)";
    if (InCluster() && !PostgresServer::Installed()) GTEST_SKIP() << "no PostgreSQL here (Debian's postgresql)";
    TinyModelOptions options;
    options.layers = 2;
    options.context = 512;
    model_ = scratch_.path() + "/model";
    ASSERT_TRUE(WriteTinyModel(model_, options).ok());
    tokenizer_ = *model::OpenTokenizer(model_);
    std::vector<std::string> arguments;
    if (InCluster()) {
      etcd_ = std::make_unique<EtcdCluster>(1);
      postgres_ = std::make_unique<PostgresServer>();
      // Both copies are acknowledged: a lookup finds the encoding, whichever owner answers first.
      const Finished made = RunToEnd({KVLINK_BINARY, "cluster", "create", "--cluster", etcd_->endpoints(), "--copies",
                                      "2", "--acknowledged", "2", "--database", postgres_->connection()});
      ASSERT_EQ(made.status, 0) << made.errors;
      arguments = {"--cluster", etcd_->endpoints(), "--memory", "64M"};
    }
    for (int i = 0; i < (InCluster() ? 3 : 1); ++i) {
      nodes_.push_back(std::make_unique<NodeProcess>(absl::StrCat(scratch_.path(), "/store", i), arguments));
      ASSERT_TRUE(nodes_.back()->Start());
    }
  }

  std::string PlaceWord() const { return InCluster() ? "etcd://" + etcd_->endpoints() : nodes_[0]->address(); }

  void Write(const Corpus& corpus) const {
    std::ofstream file(input_, std::ios::binary);
    for (const auto& [id, text] : corpus) {
      file << nlohmann::json({{"id", id}, {"title", "Glass"}, {"text", text}}).dump() << "\n";
    }
  }

  std::unique_ptr<Subprocess> StartShard(int shard, bool prune) const {
    std::vector<std::string> words = {
        INGEST_SHARD_PROCESS, PlaceWord(), model_, input_, absl::StrCat(shard, "/", kShards), log_};
    if (prune) words.push_back("prune");
    return std::make_unique<Subprocess>(words);
  }

  // Runs all shards concurrently to their end, with `kills` kills per shard within `span`.
  Totals RunAll(bool prune, int kills, absl::Duration span, std::mt19937_64& random) {
    std::vector<std::unique_ptr<Subprocess>> shards;
    for (int i = 0; i < kShards; ++i) shards.push_back(StartShard(i, prune));
    for (int kill = 0; kill < kills * kShards; ++kill) {
      absl::SleepFor(absl::ToInt64Microseconds(span) / kShards * absl::Microseconds(1) *
                     (static_cast<double>(random() % 1000) / 500));
      const int shard = static_cast<int>(random() % kShards);
      killed_ += shards[shard]->running() ? 1 : 0;
      shards[shard]->Kill();
      shards[shard]->Wait();
      shards[shard] = StartShard(shard, prune);
    }
    Totals totals;
    for (const auto& shard : shards) {
      EXPECT_EQ(shard->Wait(), 0) << shard->errors();
      Totals one;
      std::istringstream(shard->output()) >> one.added >> one.skipped >> one.failed >> one.pruned;
      totals.added += one.added;
      totals.skipped += one.skipped;
      totals.failed += one.failed;
      totals.pruned += one.pruned;
    }
    EXPECT_EQ(totals.failed, 0);
    return totals;
  }

  // Lines of the log from the `from`th on.
  std::vector<std::pair<char, std::string>> ReadLog(size_t from = 0) const {
    std::ifstream file(log_);
    std::vector<std::pair<char, std::string>> lines;
    for (std::string line; std::getline(file, line);) lines.emplace_back(line[0], line.substr(2));
    lines.erase(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(std::min(from, lines.size())));
    return lines;
  }

  // Expects the documents of the catalog to be those of the corpus, made from its texts, with all their encodings.
  void ExpectCatalogIs(const Corpus& corpus) {
    cli::StoreFlags flags;
    if (InCluster()) {
      flags.cluster.cluster = etcd_->endpoints();
    } else {
      flags.store = PlaceWord();
    }
    const auto opened = cli::OpenStore(flags, cli::StoreUse::kExisting);
    ASSERT_TRUE(opened.ok()) << opened.status();
    const link::LinkProfile profile = *link::LoadLinkProfile("untuned");
    std::string after;
    auto expected = corpus.begin();
    for (;;) {
      const auto page = opened->store->ListDocuments("default", after, 500);
      ASSERT_TRUE(page.ok()) << page.status();
      if (page->empty()) break;
      after = page->back().id;
      std::vector<std::string> ids;
      for (const store::DocumentInfo& document : *page) ids.push_back(document.id);
      const auto entries = opened->store->GetDocuments("default", ids);
      ASSERT_TRUE(entries.ok()) << entries.status();
      std::vector<Identity> identities;
      for (size_t i = 0; i < ids.size(); ++i, ++expected) {
        ASSERT_NE(expected, corpus.end()) << ids[i] << " is in no corpus";
        ASSERT_EQ(ids[i], expected->first);
        ASSERT_TRUE((*entries)[i].ok()) << (*entries)[i].status();
        for (const CatalogPart& part : (*entries)[i]->parts) {
          const std::string text = expected->second.substr(part.begin, part.end - part.begin);
          ASSERT_EQ(tokenizer_->Decode(part.tokens, false), link::DocumentText(profile, "Glass", text));
          identities.push_back(part.identity);
        }
      }
      const auto found = opened->store->Lookup("default", identities, Codec::kRawBf16);
      ASSERT_TRUE(found.ok()) << found.status();
      for (const store::Found& one : *found) ASSERT_TRUE(one.present);
    }
    EXPECT_EQ(expected, corpus.end()) << expected->first << " is not in the catalog";
  }

  const ScratchDirectory scratch_;
  const std::string input_ = scratch_.path() + "/corpus.jsonl", log_ = scratch_.path() + "/log";
  std::string model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<EtcdCluster> etcd_;
  std::unique_ptr<PostgresServer> postgres_;
  std::vector<std::unique_ptr<NodeProcess>> nodes_;
  int killed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Places, IngestShards, ::testing::Values(Place::kNode, Place::kCluster),
                         [](const auto& info) { return info.param == Place::kNode ? "OneNode" : "ThreeNodes"; });

TEST_P(IngestShards, KilledAtRandomTheyLeaveTheCorpusAndEncodeNothingAgain) {
  std::mt19937_64 random(TestSeed());
  const int documents = Soak() ? 20000 : InCluster() ? 200 : 400;
  Corpus corpus;
  for (int i = 0; i < documents; ++i) corpus[absl::StrCat("d", i)] = TextOf(i, 0);
  Write(corpus);
  RunAll(/*prune=*/false, /*kills=*/Soak() ? 20 : InCluster() ? 2 : 4, absl::Milliseconds(Soak() ? 600 : 150), random);
  ExpectCatalogIs(corpus);
  absl::flat_hash_set<std::string> durable;
  absl::flat_hash_map<std::string, int> encoded;
  int again = 0;
  for (const auto& [what, identity] : ReadLog()) {
    if (what == 'P') durable.insert(identity);
    if (what != 'E') continue;
    EXPECT_FALSE(durable.contains(identity)) << "encoded again, though it was durable";
    again += encoded[identity]++ > 0 ? 1 : 0;
  }
  // The most encodings that a killed shard had computed but not stored: those waiting for each writer and in the queue
  // before them, at least 8 KiB each, and one batch.
  constexpr int kInFlight = 4 * (128 / 8) + 8;
  EXPECT_LE(again, killed_ * kInFlight);
  std::printf("%d shards killed; %zu encodings, %d of them begun again\n", killed_, encoded.size(), again);

  // Nothing changed.
  const size_t before = ReadLog().size();
  Totals totals = RunAll(/*prune=*/true, 0, absl::ZeroDuration(), random);
  EXPECT_EQ(totals.skipped, documents);
  EXPECT_EQ(totals.pruned, 0);
  EXPECT_EQ(ReadLog().size(), before);

  // Of every hundred documents one changes, one vanishes, and one moves to another id; shards are killed meanwhile.
  for (int i = 0; i < documents; i += 100) {
    corpus[absl::StrCat("d", i)] = TextOf(i, 1);
    corpus.erase(absl::StrCat("d", i + 1));
    corpus[absl::StrCat("moved ", i + 2)] = corpus[absl::StrCat("d", i + 2)];
    corpus.erase(absl::StrCat("d", i + 2));
  }
  Write(corpus);
  RunAll(/*prune=*/true, /*kills=*/1, absl::Milliseconds(100), random);
  // A shard may have looked for the encoding of a moved document after another had pruned the old one.
  RunAll(/*prune=*/true, 0, absl::ZeroDuration(), random);
  ExpectCatalogIs(corpus);
  std::set<std::string> changed;
  for (const auto& [what, identity] : ReadLog(before)) changed.insert(identity);
  std::printf("%zu encodings after %d documents of %d had changed and as many had moved\n", changed.size(),
              documents / 100, documents);
  EXPECT_GE(changed.size(), static_cast<size_t>(documents / 100));
  EXPECT_LE(changed.size(), static_cast<size_t>(2 * documents / 100)) << "the changed ones, and moved ones at most";
}

}  // namespace
}  // namespace kvlink::testing
