#include "worker/ingest/ingest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/ingest/ingest_fixture.h"

namespace kvlink::ingest {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST_F(IngestTest, EveryDocumentIsCataloguedAndItsEncodingReadsBack) {
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i, " and more"));
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.added, 20);
  EXPECT_EQ(counts_.failed, 0);
  EXPECT_GT(counts_.tokens, 200);
  EXPECT_EQ(counts_.position, static_cast<int64_t>(lines.size()));
  for (int i = 0; i < 20; ++i) {
    const auto entry = store_->GetDocument("default", absl::StrCat("d", i));
    ASSERT_TRUE(entry.ok()) << entry.status();
    EXPECT_EQ(entry->title, "T");
    EXPECT_TRUE(entry->model == fingerprint_);
    ASSERT_EQ(entry->parts.size(), 1u);
    const std::string text = link::DocumentText(profile_, "T", absl::StrCat("the text of number ", i, " and more"));
    EXPECT_EQ(tokenizer_->Decode(entry->parts[0].tokens, false), text);
    const auto found = store_->Lookup("default", {entry->parts[0].identity}, Codec::kRawBf16);
    ASSERT_TRUE(found.ok());
    ASSERT_TRUE((*found)[0].present);
    const auto lease = store_->Read("default", entry->parts[0].identity, Codec::kRawBf16, (*found)[0].etag,
                                    SteadyNow() + absl::Seconds(30));
    ASSERT_TRUE(lease.ok()) << lease.status();
    for (int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE((*lease)->WaitLayer(layer, SteadyNow() + absl::Seconds(30)).ok());
    }
  }
}

TEST_F(IngestTest, EqualTextIsEncodedOnce) {
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("text ", i % 3));
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.added, 30);
  EXPECT_EQ(counts_.shared, 27);
  const auto stats = store_->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->namespaces[0].encodings, 3);
  EXPECT_EQ(stats->namespaces[0].documents, 30);
  EXPECT_EQ(stats->bytes_written, counts_.bytes);
  EXPECT_EQ(stats->bytes_written_in_place, stats->bytes_written) << "encodings were copied on their way to the disk";
}

// Notes how many tokens are encoded at a time.
class CountedEncoder final : public encode::Encoder {
 public:
  explicit CountedEncoder(std::unique_ptr<encode::Encoder> encoder) : encoder_(std::move(encoder)) {}
  const encode::EncoderOptions& options() const override { return encoder_->options(); }
  Identity IdentityOf(absl::Span<const int32_t> tokens) const override { return encoder_->IdentityOf(tokens); }
  absl::StatusOr<std::vector<encode::Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> documents,
                                                       const Check& check) override {
    auto encoded = encoder_->Encode(documents, check);
    int64_t tokens = 0;
    if (encoded.ok()) {
      for (const encode::Encoded& one : *encoded) tokens += one.manifest.tokens;
    }
    most_ = std::max(most_, tokens);
    return encoded;
  }
  int64_t most() const { return most_; }

 private:
  const std::unique_ptr<encode::Encoder> encoder_;
  int64_t most_ = 0;
};

TEST_F(IngestTest, WrappersCountInABatch) {
  encode::EncoderOptions options;
  options.batch_tokens = 128;
  options.wrapper = encode::MakeWrapper(40, 10, std::vector<float>(50 * model_->config().hidden, 0.5F));
  auto counted = std::make_unique<CountedEncoder>(*encode::Encoder::Create(model_.get(), fingerprint_, options));
  const CountedEncoder& encoder = *counted;
  encoder_ = std::move(counted);
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat(i), "");
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.encodings, 10);
  EXPECT_LE(encoder.most(), options.batch_tokens);
}

TEST_F(IngestTest, ASecondRunSkipsWhatIsCompleteAndDoesTheRest) {
  ASSERT_TRUE(Run(Line("a", "one") + Line("b", "two")).ok());
  OpenStore();
  ASSERT_TRUE(Run(Line("a", "one") + Line("b", "two changed") + Line("c", "three") + Line("d", "one")).ok());
  EXPECT_EQ(counts_.skipped, 1);
  EXPECT_EQ(counts_.added, 3);
  EXPECT_EQ(counts_.shared, 1);
  EXPECT_EQ(counts_.replaced, 1);
  const std::string now = tokenizer_->Decode(store_->GetDocument("default", "b")->parts[0].tokens, false);
  EXPECT_THAT(now, HasSubstr("two changed"));
  // An evicted encoding is made again, though the catalog names it.
  ASSERT_TRUE(store_->Remove("default", store_->GetDocument("default", "c")->parts[0].identity).ok());
  ASSERT_TRUE(Run(Line("a", "one") + Line("c", "three")).ok());
  EXPECT_EQ(counts_.skipped, 1);
  EXPECT_EQ(counts_.added, 1);
  EXPECT_EQ(counts_.shared, 0);
}

TEST_F(IngestTest, FailuresAreNamedAndDoNotStopTheOthers) {
  std::string long_text;
  for (int i = 0; i < 300; ++i) absl::StrAppend(&long_text, "word", i, " ");
  ASSERT_TRUE(Run(Line("a", "good") + "broken\n" + Line("empty", "  ") + Line("long", "text", long_text) +
                  Line("a", "again") + Line("", "no name") + Line("b", "good too"))
                  .ok());
  EXPECT_EQ(counts_.documents, 7);
  EXPECT_EQ(counts_.added, 2);
  EXPECT_EQ(counts_.failed, 5);
  EXPECT_THAT(failures_,
              UnorderedElementsAre(HasSubstr("2  not JSON at byte 1"), HasSubstr("3 empty the document is empty"),
                                   HasSubstr("shorten the title"), HasSubstr("in.jsonl:1"), HasSubstr("6  ")));
}

TEST_F(IngestTest, AnotherModelReplacesTheEntry) {
  ASSERT_TRUE(Run(Line("a", "one")).ok());
  const Identity before = store_->GetDocument("default", "a")->parts[0].identity;
  UseModel(2);
  ASSERT_TRUE(Run(Line("a", "one")).ok());
  EXPECT_EQ(counts_.added, 1);
  EXPECT_FALSE(store_->GetDocument("default", "a")->parts[0].identity == before);
}

TEST_F(IngestTest, AnOlderGenerationNeverReplacesANewerOne) {
  IngestOptions options;
  options.generation = 100;
  ASSERT_TRUE(Run(Line("a", "new"), options).ok());
  options.generation = 99;
  ASSERT_TRUE(Run(Line("a", "old"), options).ok());
  EXPECT_EQ(counts_.failed, 1);
  ASSERT_TRUE(store_->DeleteDocument("default", "a", 101).ok());
  ASSERT_TRUE(Run(Line("a", "again")).ok());  // the clock is beyond any small number
  EXPECT_EQ(counts_.added, 1);
  EXPECT_TRUE(store_->GetDocument("default", "a").ok());
}

// A host whose clock is five minutes behind the store's, or ahead of it, ingests as any other.
TEST_F(IngestTest, GenerationsAreOfTheStoresClock) {
  testing::FaultyStore other(store_.get());
  through_ = &other;
  other.AdvanceClock(300'000'000);
  const uint64_t before = *other.Clock();
  ASSERT_TRUE(Run(Line("a", "one") + Line("b", "two") + Line("c", "three")).ok());
  EXPECT_EQ(counts_.added, 3);
  const uint64_t generation = store_->GetDocument("default", "a")->generation;
  EXPECT_GT(generation, before);
  EXPECT_LT(generation, *other.Clock());
  for (const char* id : {"b", "c"}) EXPECT_EQ(store_->GetDocument("default", id)->generation, generation);
  EXPECT_EQ(other.statistics(), 1) << "they count documents, which of a large catalog takes long";
  ASSERT_TRUE(Run(Line("a", "one") + Line("c", "three")).ok());
  EXPECT_EQ(other.statistics(), 1) << "a run that writes no encoding needs none";
  // A later run supersedes it.
  ASSERT_TRUE(Run(Line("a", "one") + Line("b", "two changed")).ok());
  EXPECT_EQ(counts_.replaced, 1);
  EXPECT_EQ(counts_.skipped, 1);
  EXPECT_GT(store_->GetDocument("default", "b")->generation, generation);
  EXPECT_EQ(store_->GetDocument("default", "a")->generation, generation);
}

TEST_F(IngestTest, AStoreThatIsAwayIsWaitedFor) {
  testing::FaultyStore faulty(store_.get());
  through_ = &faulty;
  int documents = 0;
  for (const absl::Status& away :
       {absl::UnavailableError("away"), absl::DeadlineExceededError("stands still"), absl::AbortedError("lost")}) {
    faulty.FailLookups(away, 2);
    const absl::Status status = Run(Line(absl::StrCat("d", documents), absl::StrCat("text ", documents)));
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(counts_.added, 1) << away;
    ++documents;
  }
  faulty.FailLookups(absl::PermissionDeniedError("no"), 2);
  EXPECT_TRUE(absl::IsPermissionDenied(Run(Line("other", "text"))));
  faulty.FailLookups(absl::DeadlineExceededError("stands still"));
  IngestOptions options;
  options.outage = absl::Milliseconds(50);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run(Line("other", "text"), options)));
}

// Stages before the one that waits for the store wait as long.
TEST_F(IngestTest, AnOutageMayBeLongerThanTheStagesPatience) {
  testing::FaultyStore faulty(store_.get());
  through_ = &faulty;
  faulty.FailPuts(absl::UnavailableError("away"), 12);  // some seconds
  IngestOptions options;
  options.patience = absl::Milliseconds(50);
  options.outage = absl::Minutes(5);
  options.queued_bytes = 1;
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i));
  const absl::Status status = Run(lines, options);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(counts_.added, 40);
}

// A store that hangs would make each of them wait for its time limit.
TEST_F(IngestTest, NothingIsWrittenOnceTheRunHasEnded) {
  testing::FaultyStore faulty(store_.get());
  through_ = &faulty;
  constexpr int kDocuments = 40;
  std::atomic<int64_t> encoded{0};
  progress_ = [&encoded](const IngestCounts& counts) { encoded = counts.encodings; };
  faulty.OnPut([&](const Identity&) {
    // The writer takes all others at once.
    while (encoded < kDocuments) absl::SleepFor(absl::Milliseconds(1));
    absl::SleepFor(absl::Milliseconds(50));
    faulty.FailPuts(absl::UnavailableError("away"), 1);
  });
  IngestOptions options;
  options.writers = 1;
  options.outage = absl::ZeroDuration();
  std::string lines;
  for (int i = 0; i < kDocuments; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i));
  EXPECT_TRUE(absl::IsUnavailable(Run(lines, options)));
  EXPECT_EQ(store_->Stats()->namespaces[0].encodings, 1);
}

// Many more documents wait to be encoded than are in progress.
TEST_F(IngestTest, AStoppedSourceLeavesWhatWasOnlyRead) {
  constexpr int kDocuments = 2000;
  std::string lines;
  for (int i = 0; i < kDocuments; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i));
  progress_ = [this](const IngestCounts& counts) {
    if (counts.documents == kDocuments && counts.added > 0) source_->Stop();
  };
  const absl::Status status = Run(lines);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(counts_.added, 0);
  EXPECT_LT(counts_.added, kDocuments / 2);
  EXPECT_EQ(counts_.failed, 0);
  EXPECT_EQ(Ids().size(), static_cast<size_t>(counts_.added));
}

TEST_F(IngestTest, AStoppedSourceLeavesTheRestOfALongDocument) {
  std::string text;
  for (int i = 0; i < 400; ++i) absl::StrAppend(&text, "Sentence number ", i, " is this one. ");
  progress_ = [this](const IngestCounts& counts) {
    if (counts.encodings > 0) source_->Stop();
  };
  ASSERT_TRUE(Run(Line("long", text)).ok());
  EXPECT_EQ(counts_.added, 0);
  const int64_t before = counts_.encodings;
  EXPECT_GT(before, 0);
  EXPECT_EQ(store_->Stats()->namespaces[0].encodings, before);
  progress_ = nullptr;
  ASSERT_TRUE(Run(Line("long", text)).ok());
  EXPECT_EQ(counts_.added, 1);
  EXPECT_GT(counts_.encodings, before);
  EXPECT_EQ(store_->GetDocument("default", "long")->parts.size(), static_cast<size_t>(before + counts_.encodings));
}

TEST_F(IngestTest, WhatTheStoreHadNoRoomForIsCounted) {
  std::string lines;
  for (int i = 0; i < 120; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("the text of number ", i));
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.evicted, 0);
  EXPECT_EQ(counts_.corpus_bytes, counts_.bytes);
  store_.reset();
  std::filesystem::remove_all(root_ / "store");
  OpenStore(int64_t{2} << 20);
  ASSERT_TRUE(Run(lines).ok());
  EXPECT_EQ(counts_.added, 120);
  const auto stats = store_->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_GT(counts_.evicted, 0);
  // More may be evicted after the count, in the background.
  EXPECT_LE(stats->namespaces[0].encodings, 120 - counts_.evicted);
}

// As a node of a cluster removes it for a document that was deleted just before this one came.
TEST_F(IngestTest, WhatWasDeletedMeanwhileIsCounted) {
  progress_ = [this](const IngestCounts& counts) {
    if (counts.added == 0) return;
    const auto entry = store_->GetDocument("default", "a");
    ASSERT_TRUE(entry.ok()) << entry.status();
    EXPECT_TRUE(store_->Remove("default", entry->parts[0].identity).ok());
  };
  ASSERT_TRUE(Run(Line("a", "one")).ok());
  EXPECT_EQ(counts_.deleted, 1);
  EXPECT_EQ(counts_.evicted, 0);
  progress_ = nullptr;
  ASSERT_TRUE(Run(Line("a", "one")).ok());
  EXPECT_EQ(counts_.encodings, 1);
  EXPECT_EQ(counts_.deleted, 0);
}

TEST_F(IngestTest, WhatSomebodyElseIngestedMeanwhileIsComplete) {
  IngestOptions options;
  options.generation = 100;
  ASSERT_TRUE(Run(Line("a", "one"), options).ok());
  // Its encoding is gone, so that this run makes it again, and then meets an entry of a later generation.
  ASSERT_TRUE(store_->Remove("default", store_->GetDocument("default", "a")->parts[0].identity).ok());
  options.generation = 99;
  ASSERT_TRUE(Run(Line("a", "one"), options).ok());
  EXPECT_EQ(counts_.failed, 0) << failures_[0];
  EXPECT_EQ(counts_.added, 1);
}

TEST_F(IngestTest, NamespacesShareNothing) {
  ASSERT_TRUE(Run(Line("a", "one")).ok());
  IngestOptions options;
  options.ns = "other";
  ASSERT_TRUE(Run(Line("a", "one"), options).ok());
  EXPECT_EQ(counts_.added, 1);
  EXPECT_EQ(counts_.shared, 0);
  options.ns = std::string("bad\nname");
  EXPECT_EQ(Run(Line("a", "one"), options).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(IngestTest, TheCatalogIsAskedAndWrittenManyAtATime) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += Line(absl::StrCat("d", i), absl::StrCat("number ", i));
  testing::FaultyStore counted(store_.get());
  counted.DelayCatalog(absl::Milliseconds(20));  // documents gather meanwhile, two to a batch of tokens
  through_ = &counted;
  IngestOptions options;
  options.writers = 1;
  ASSERT_TRUE(Run(lines, options).ok());
  EXPECT_EQ(counts_.added, 100);
  EXPECT_LE(counted.catalog_gets(), 60);
  EXPECT_LE(counted.catalog_puts(), 60);
  const int gets = counted.catalog_gets(), puts = counted.catalog_puts();
  ASSERT_TRUE(Run(lines, options).ok());
  EXPECT_EQ(counts_.skipped, 100);
  EXPECT_LE(counted.catalog_gets() - gets, 60);
  EXPECT_EQ(counted.catalog_puts(), puts);
}

}  // namespace
}  // namespace kvlink::ingest
