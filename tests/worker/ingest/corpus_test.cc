// What makes ingest fit for large corpora: skipping without tokenising, shards, parts, pruning, rejects.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/ingest/ingest_fixture.h"
#include "worker/ingest/content.h"

namespace kvlink::ingest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Counts what it is given.
class CountingTokenizer final : public model::Tokenizer {
 public:
  explicit CountingTokenizer(std::unique_ptr<model::Tokenizer> real) : real_(std::move(real)) {}
  int64_t vocab_size() const override { return real_->vocab_size() + more_; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const override {
    ++calls_;
    return real_->Encode(text, parse_special);
  }
  std::string TokenBytes(int32_t id) const override { return real_->TokenBytes(id); }
  std::string Decode(absl::Span<const int32_t> ids, bool skip) const override { return real_->Decode(ids, skip); }
  std::optional<int32_t> TokenId(absl::string_view text) const override { return real_->TokenId(text); }
  bool IsSpecial(int32_t id) const override { return real_->IsSpecial(id); }
  std::optional<int32_t> bos() const override { return real_->bos(); }

  int TakeCalls() { return calls_.exchange(0); }
  void Grow() { ++more_; }

 private:
  const std::unique_ptr<model::Tokenizer> real_;
  mutable std::atomic<int> calls_{0};
  int64_t more_ = 0;
};

class CorpusTest : public IngestTest {
 protected:
  static std::string Lines(int begin, int end) {
    std::string lines;
    for (int i = begin; i < end; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i));
    return lines;
  }
};

TEST_F(CorpusTest, WhatIsUnchangedIsSkippedWithoutTokenising) {
  auto counting = std::make_unique<CountingTokenizer>(std::move(tokenizer_));
  CountingTokenizer* const tokenizer = counting.get();
  tokenizer_ = std::move(counting);
  ASSERT_TRUE(Run(Lines(0, 50)).ok());
  EXPECT_EQ(counts_.encodings, 50);
  EXPECT_GE(tokenizer->TakeCalls(), 50);
  ASSERT_TRUE(Run(Lines(0, 50)).ok());
  EXPECT_EQ(counts_.skipped, 50);
  EXPECT_LE(tokenizer->TakeCalls(), 1) << "the sample of the digest alone";
  // One text changed, one title changed.
  const std::string rest = Lines(2, 50);
  ASSERT_TRUE(Run(Line("d0", "other") + Line("d1", "the text of number 1", "Other") + rest).ok());
  EXPECT_EQ(counts_.skipped, 48);
  EXPECT_EQ(counts_.replaced, 2);
  EXPECT_LE(tokenizer->TakeCalls(), 3);
  // Another template, tokenizer or limit is other content, even where the tokens come out the same.
  profile_.document_template = "{title}: {text}";
  ASSERT_TRUE(Run(rest).ok());
  EXPECT_EQ(counts_.replaced, 48);
  tokenizer->Grow();
  ASSERT_TRUE(Run(rest).ok());
  EXPECT_EQ(counts_.skipped, 0);
  EXPECT_EQ(counts_.shared, 48);
  EXPECT_EQ(counts_.replaced, 0);
  IngestOptions options;
  options.chunk_tokens = 200;
  ASSERT_TRUE(Run(rest, options).ok());
  EXPECT_EQ(counts_.skipped, 0);
  EXPECT_EQ(counts_.encodings, 0);
  ASSERT_TRUE(Run(rest, options).ok());
  EXPECT_EQ(counts_.skipped, 48);
}

TEST_F(CorpusTest, AnotherSecretIsNotSkipped) {
  ASSERT_TRUE(Run(Lines(0, 5)).ok());
  encode::EncoderOptions options = encoder_->options();
  options.tenant_secret = "0123456789abcdef";
  encoder_ = *encode::Encoder::Create(model_.get(), fingerprint_, options);
  ASSERT_TRUE(Run(Lines(0, 5)).ok());
  EXPECT_EQ(counts_.skipped, 0);
  EXPECT_EQ(counts_.encodings, 5);
}

TEST_F(CorpusTest, DocumentsAreLookedUpManyAtATime) {
  constexpr int kDocuments = 400;
  ASSERT_TRUE(Run(Lines(0, kDocuments)).ok());
  testing::FaultyStore counted(store_.get());
  through_ = &counted;
  ASSERT_TRUE(Run(Lines(0, kDocuments)).ok());
  EXPECT_EQ(counts_.skipped, kDocuments);
  // A slow machine gathers fewer at a time.
  EXPECT_LE(counted.catalog_gets(), kDocuments / 10);
  EXPECT_LE(counted.asked(), kDocuments / 10 + 2);
  EXPECT_EQ(counted.catalog_puts(), 0);
}

TEST_F(CorpusTest, EveryDocumentIsInOneShard) {
  std::string lines = Lines(0, 200) + "broken\n" + "{\"text\":\"no id\"}\n" + Line("d7", "twice");
  std::multiset<std::string> failures;
  int64_t added = 0;
  for (int64_t i = 0; i < 4; ++i) {
    shard_ = {i, 4};
    ASSERT_TRUE(Run(lines).ok());
    EXPECT_EQ(source_->unnamed(), 2);
    EXPECT_GT(counts_.added, 20);
    added += counts_.added;
    failures.insert(failures_.begin(), failures_.end());
    for (const std::string& id : Ids()) {
      if (IdHash(id) % 4 == static_cast<uint64_t>(i)) continue;
      EXPECT_LT(IdHash(id) % 4, static_cast<uint64_t>(i)) << id << " is of a shard that was not ingested yet";
    }
  }
  EXPECT_EQ(added, 200);
  EXPECT_EQ(Ids().size(), 200u);
  EXPECT_EQ(failures.size(), 3u) << "each failure is told by one shard";
}

TEST_F(CorpusTest, ShardsAreNamedFromZero) {
  EXPECT_EQ(ParseShard("2/8")->index, 2);
  EXPECT_EQ(ParseShard("2/8")->count, 8);
  EXPECT_EQ(ShardOfJob(3, "2")->index, 2);
  for (const char* text : {"", "1", "8/8", "-1/8", "1/0", "1/8/2", "a/b", " 1/8", "0/65537", "1/", "/8"}) {
    EXPECT_EQ(ParseShard(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  for (const char* index : {static_cast<const char*>(nullptr), "", "3", "x"}) {
    EXPECT_EQ(ShardOfJob(3, index).status().code(), absl::StatusCode::kInvalidArgument);
  }
  // The numbers that docs/operations.md promises.
  EXPECT_EQ(IdHash("moon"), 13981229990247997166u);
  EXPECT_EQ(IdHash(""), 0x2D06800538D394C2u);
}

TEST_F(CorpusTest, ALongDocumentIsSeveralEncodingsUnderOneEntry) {
  std::string text;
  for (int i = 0; i < 12; ++i) absl::StrAppend(&text, "This is paragraph number ", i, " of the story.\\n\\n");
  ASSERT_TRUE(Run(Line("long", text) + Line("short", "one")).ok());
  EXPECT_EQ(counts_.added, 2);
  EXPECT_EQ(counts_.cut, 1);
  const auto entry = store_->GetDocument("default", "long");
  ASSERT_TRUE(entry.ok()) << entry.status();
  ASSERT_GT(entry->parts.size(), 2u);
  EXPECT_EQ(counts_.encodings, static_cast<int64_t>(entry->parts.size()) + 1);
  // Each part is what a document of its text would be, so that the two share an encoding.
  const std::string plain = nlohmann::json::parse("\"" + text + "\"").get<std::string>();
  std::string lines;
  for (size_t i = 0; i < entry->parts.size(); ++i) {
    const CatalogPart& part = entry->parts[i];
    EXPECT_LE(part.tokens.size(), 128u) << "half of the context";
    const std::string piece = plain.substr(part.begin, part.end - part.begin);
    EXPECT_TRUE(absl::StartsWith(piece, "This is paragraph")) << piece;
    EXPECT_TRUE(absl::EndsWith(piece, "of the story.")) << piece;
    const std::string quoted = nlohmann::json(piece).dump();
    lines += Line(absl::StrCat("part", i), quoted.substr(1, quoted.size() - 2));
  }
  const int64_t parts = static_cast<int64_t>(entry->parts.size());
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.shared, parts);
  EXPECT_EQ(counts_.encodings, 0);
  for (int64_t i = 0; i < parts; ++i) {
    EXPECT_TRUE(store_->GetDocument("default", absl::StrCat("part", i))->parts[0].identity == entry->parts[i].identity);
  }
  // Complete with all of its parts, and not without one.
  ASSERT_TRUE(Run(Line("long", text)).ok());
  EXPECT_EQ(counts_.skipped, 1);
  ASSERT_TRUE(store_->Remove("default", entry->parts[1].identity).ok());
  ASSERT_TRUE(Run(Line("long", text)).ok());
  EXPECT_EQ(counts_.added, 1);
  EXPECT_EQ(counts_.encodings, 1);
}

TEST_F(CorpusTest, TheContentDigestIsTheStoredFormat) {
  Identity nothing;
  nothing.bytes.fill(0xab);
  const ContentDigester digester(nothing, *tokenizer_, profile_, {256, 128});
  EXPECT_EQ(digester.Of("Title", "A text.").Hex(), "aca826898a1bdc17b8e8e6131ae67f8b6552b52cac4d2f3f4f16c1844cb04c13");
  EXPECT_NE(digester.Of("Title", "A text."), digester.Of("Titl", "eA text."));
}

// Cut alike whatever is ingested beside it, and by one batch or several.
TEST_F(CorpusTest, TheSameDocumentIsCutTheSame) {
  std::string text;
  for (int i = 0; i < 60; ++i) absl::StrAppend(&text, "Sentence ", i * 7919 % 1000, " of a paragraph without end. ");
  IngestOptions options;
  options.chunk_tokens = 100;
  ASSERT_TRUE(Run(Line("a", text), options).ok());
  const auto alone = store_->GetDocument("default", "a");
  ASSERT_TRUE(alone.ok());
  ASSERT_GT(alone->parts.size(), 10u) << "more than one pass takes";
  options.ns = "other";
  ASSERT_TRUE(Run(Lines(0, 30) + Line("a", text) + Line("b", text) + Lines(30, 60), options).ok());
  for (const char* id : {"a", "b"}) {
    const auto beside = store_->GetDocument("other", id);
    ASSERT_TRUE(beside.ok());
    ASSERT_EQ(beside->parts.size(), alone->parts.size());
    for (size_t i = 0; i < alone->parts.size(); ++i) {
      EXPECT_TRUE(beside->parts[i].identity == alone->parts[i].identity);
    }
  }
}

TEST_F(CorpusTest, AnEntryThatWouldBeTooLargeFailsBeforeItIsEncoded) {
  IngestOptions options;
  options.chunk_tokens = 30;
  std::string text;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "Number ", i, " of them.\\n\\n");
  ASSERT_TRUE(Run(Line("huge", text) + Line("a", "one"), options).ok());
  EXPECT_EQ(counts_.encodings, 1);
  EXPECT_THAT(failures_, ElementsAre(HasSubstr("raise --chunk-tokens, or split it")));
}

TEST_F(CorpusTest, PruneDeletesWhatVanishedAndNothingElse) {
  ASSERT_TRUE(Run(Lines(0, 40)).ok());
  EXPECT_EQ(*PruneAll(), 0);
  // Three vanish, one is new, one has moved: another id, the same text.
  ASSERT_TRUE(Run(Lines(3, 40) + Line("new", "new") + Line("moved", "the text of number 0")).ok());
  EXPECT_EQ(counts_.skipped, 37);
  EXPECT_EQ(counts_.encodings, 1) << "moved shares what number 0 had";
  // Somebody else puts one meanwhile.
  CatalogEntry entry = *store_->GetDocument("default", "d5");
  entry.generation = 0;
  ASSERT_TRUE(store_->PutDocument("default", "meanwhile", entry).ok());
  // And so does a run that began before this one.
  entry.generation = counts_.generation - 1;
  ASSERT_TRUE(store_->PutDocument("default", "meanwhile too", entry).ok());
  const auto pruned = PruneAll();
  ASSERT_TRUE(pruned.ok()) << pruned.status();
  EXPECT_EQ(*pruned, 3);
  EXPECT_EQ(Ids().size(), 41u);
  for (const char* id : {"d0", "d1", "d2"}) EXPECT_TRUE(absl::IsNotFound(store_->GetDocument("default", id).status()));
  EXPECT_TRUE(store_->GetDocument("default", "meanwhile").ok());
  EXPECT_TRUE(store_->GetDocument("default", "meanwhile too").ok());
  const auto moved = store_->GetDocument("default", "moved");
  ASSERT_TRUE(moved.ok());
  EXPECT_TRUE((*store_->Lookup("default", {moved->parts[0].identity}, Codec::kRawBf16))[0].present);
  // One that comes back is ingested.
  ASSERT_TRUE(Run(Lines(0, 1)).ok());
  EXPECT_EQ(counts_.added, 1);
}

// Between the listing and the deletion, a run that began earlier puts one of the documents.
TEST_F(CorpusTest, PruneKeepsWhatIsPutAtTheLastMoment) {
  ASSERT_TRUE(Run(Lines(0, 40)).ok());
  ASSERT_TRUE(Run(Lines(3, 40)).ok());
  testing::FaultyStore late(store_.get());
  through_ = &late;
  late.OnDelete([this] {
    CatalogEntry entry = *store_->GetDocument("default", "d1");
    entry.generation = counts_.generation - 1;
    ASSERT_TRUE(store_->PutDocument("default", "d1", entry).ok());
  });
  const auto pruned = PruneAll();
  ASSERT_TRUE(pruned.ok()) << pruned.status();
  EXPECT_EQ(*pruned, 2);
  EXPECT_TRUE(store_->GetDocument("default", "d1").ok());
}

TEST_F(CorpusTest, PruneWaitsForAStoreThatIsAway) {
  ASSERT_TRUE(Run(Lines(0, 40)).ok());
  ASSERT_TRUE(Run(Lines(3, 40)).ok());
  testing::FaultyStore faulty(store_.get());
  through_ = &faulty;
  faulty.FailListings(absl::UnavailableError("away"), 2);
  const auto pruned = PruneAll();
  ASSERT_TRUE(pruned.ok()) << pruned.status();
  EXPECT_EQ(*pruned, 3);
  faulty.FailListings(absl::UnavailableError("away"));
  PruneOptions impatient;
  impatient.outage = absl::ZeroDuration();
  EXPECT_TRUE(absl::IsUnavailable(PruneAll(impatient).status()));
}

TEST_F(CorpusTest, PruneKeepsToItsPrefix) {
  ASSERT_TRUE(
      Run(Line("wiki", "0") + Line("wiki/a", "1") + Line("wiki/b", "2") + Line("wikj", "3") + Line("w", "4")).ok());
  IngestOptions options;
  options.prefix = "wiki";
  ASSERT_TRUE(Run(Line("wiki/a", "1") + Line("w", "4"), options).ok());
  EXPECT_THAT(failures_, ElementsAre(HasSubstr("does not begin with 'wiki'")));
  PruneOptions prune;
  prune.prefix = "wiki";
  prune.limit_percent = 100;
  EXPECT_EQ(*PruneAll(prune), 2);
  EXPECT_THAT(Ids(), ElementsAre("w", "wiki/a", "wikj"));
}

TEST_F(CorpusTest, PruneKeepsToItsShard) {
  ASSERT_TRUE(Run(Lines(0, 60)).ok());
  PruneOptions prune;
  prune.limit_percent = 100;
  int64_t deleted = 0;
  for (int64_t i = 0; i < 3; ++i) {
    shard_ = {i, 3};
    ASSERT_TRUE(Run(Lines(30, 60)).ok());
    const auto pruned = PruneAll(prune);
    ASSERT_TRUE(pruned.ok()) << pruned.status();
    EXPECT_GT(*pruned, 0);
    deleted += *pruned;
  }
  EXPECT_EQ(deleted, 30);
  EXPECT_EQ(Ids().size(), 30u);
}

TEST_F(CorpusTest, PruneRefusesWhatItCannotKnowAndTooMuch) {
  ASSERT_TRUE(Run(Lines(0, 40)).ok());
  // A line that nobody can read may be any document.
  ASSERT_TRUE(Run(Lines(1, 40) + "broken\n").ok());
  EXPECT_THAT(std::string(PruneAll().status().message()), HasSubstr("1 documents or files of the source"));
  // A document that is bad and has an id is there.
  ASSERT_TRUE(Run(Lines(1, 40) + "{\"id\":\"d0\",\"text\":7}\n").ok());
  EXPECT_EQ(*PruneAll(), 0);
  ASSERT_TRUE(Run(Lines(5, 40)).ok());
  const absl::Status refused = PruneAll().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("5 of the 40 documents of namespace 'default' are not in the source, more than 10%"));
  ASSERT_TRUE(Run("").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(PruneAll().status()));
  EXPECT_EQ(Ids().size(), 40u);
  ASSERT_TRUE(Run(Lines(0, 40)).ok());
  source_->Stop();
  EXPECT_THAT(std::string(PruneAll().status().message()), HasSubstr("not read to its end"));
}

TEST_F(CorpusTest, RejectsAreFedAgainOnceMended) {
  const std::string path = (root_ / "rejects.jsonl").string();
  rejects_ = *RejectFile::Create(path);
  ASSERT_TRUE(Run(Line("a", "one") + "bro\xffken\n" + Line("b", "   ", "Empty") +
                  Line("c", "see", std::string(300, 't')) + Line("a", "another"))
                  .ok());
  EXPECT_FALSE(std::filesystem::exists(path)) << "not before it is complete";
  ASSERT_TRUE(rejects_->Finish().ok());
  rejects_.reset();
  EXPECT_EQ(counts_.failed, 4);
  std::ifstream file(path);
  std::map<std::string, nlohmann::json> by_line;
  std::string mended;
  for (std::string line; std::getline(file, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    const std::string where = json["where"];
    EXPECT_GT(json["position"].get<int64_t>(), 0);
    by_line[where.substr(where.rfind(':') + 1)] = json;
    if (!json.contains("id")) continue;
    json["id"] = absl::StrCat("mended ", where.substr(where.rfind(':') + 1));
    json["title"] = "Mended";
    if (json["id"] == "mended 3") json["text"] = "text";
    mended += json.dump() + "\n";
  }
  ASSERT_EQ(by_line.size(), 4u);
  EXPECT_THAT(by_line["2"]["reason"].get<std::string>(), HasSubstr("invalid UTF-8"));
  EXPECT_FALSE(by_line["2"].contains("id"));
  EXPECT_EQ(by_line["3"]["title"], "Empty");
  EXPECT_EQ(by_line["4"]["text"], "see");
  EXPECT_EQ(by_line["5"]["id"], "a");
  EXPECT_EQ(by_line["5"]["text"], "another");
  ASSERT_TRUE(Run(mended).ok());
  EXPECT_THAT(failures_, IsEmpty());
  EXPECT_EQ(counts_.added, 3);
}

TEST_F(CorpusTest, RejectsOfTwoRunsAreNotMixed) {
  const std::string path = (root_ / "rejects.jsonl").string();
  rejects_ = *RejectFile::Create(path);
  ASSERT_TRUE(Run("broken\n").ok());
  const auto second = RejectFile::Create(path);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("give each shard a file of its own"));
  ASSERT_TRUE(rejects_->Finish().ok());
  EXPECT_GT(std::filesystem::file_size(path), 0u);
  // Whoever comes after it begins anew, and leaves it alone until its own is complete.
  rejects_ = *RejectFile::Create(path);
  EXPECT_GT(std::filesystem::file_size(path), 0u);
  ASSERT_TRUE(rejects_->Finish().ok());
  EXPECT_EQ(std::filesystem::file_size(path), 0u);
}

TEST_F(CorpusTest, RejectsThatCannotBeWrittenEndTheRun) {
  EXPECT_FALSE(RejectFile::Create((root_ / "no/such/folder").string()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(RejectFile::Create(root_.string()).status()));
  std::filesystem::create_symlink("/dev/full", root_ / "full.partial");
  rejects_ = *RejectFile::Create((root_ / "full").string());
  const absl::Status status = Run("broken\n" + Lines(0, 5));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("full.partial"));
}

TEST(SeenIds, ManyIdsAreFoundInRunsOnDisk) {
  SeenIds seen(/*run=*/100);
  for (int i = 0; i < 1234; ++i) ASSERT_TRUE(seen.Add(absl::StrCat("id ", i)).ok());
  ASSERT_TRUE(seen.Finish().ok());
  for (int i = 0; i < 1234; ++i) ASSERT_TRUE(seen.Contains(absl::StrCat("id ", i))) << i;
  for (int i = 1234; i < 5000; ++i) ASSERT_FALSE(seen.Contains(absl::StrCat("id ", i))) << i;
  SeenIds none(100);
  ASSERT_TRUE(none.Finish().ok());
  EXPECT_FALSE(none.Contains("id"));
}

TEST(SeenIds, SaysWhereThereIsNoRoom) {
  SeenIds seen(/*run=*/2);
  setenv("TMPDIR", "/dev/null", 1);
  ASSERT_TRUE(seen.Add("a").ok());
  ASSERT_TRUE(seen.Add("b").ok());
  const absl::Status status = seen.Add("c");
  unsetenv("TMPDIR");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("$TMPDIR"));
}

}  // namespace
}  // namespace kvlink::ingest
