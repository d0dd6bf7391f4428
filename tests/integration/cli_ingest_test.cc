// The binary's main job: ingest, resume, survive, inspect, verify.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdio>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/cli_workplace.h"
#include "tests/support/gzip.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(CliTest, IngestInspectVerifyAndASecondRunDoesNothing) {
  const std::string input = Write("in.jsonl", Lines(0, 8));
  const Finished first = Run("ingest", {input});
  EXPECT_EQ(first.status, 0) << first.errors;
  EXPECT_EQ(first.errors, "");
  EXPECT_THAT(first.output, HasSubstr("8 documents: 8 added, 0 already complete, 0 failed"));
  const Finished second = Run("ingest", {input});
  EXPECT_EQ(second.status, 0);
  EXPECT_THAT(second.output, HasSubstr("8 documents: 0 added, 8 already complete, 0 failed"));
  EXPECT_THAT(second.output, HasSubstr("0 tokens encoded"));

  const nlohmann::json store = Inspect({"store"});
  ASSERT_EQ(store["namespaces"].size(), 1u);
  EXPECT_EQ(store["namespaces"][0]["documents"], 8);
  EXPECT_EQ(store["namespaces"][0]["encodings"], 8);
  EXPECT_EQ(store["namespaces"][0]["pinned_bytes"], 0);  // pins last as long as the process
  EXPECT_EQ(store["namespaces"][0]["codecs"][0]["codec"], "raw-bf16");
  EXPECT_EQ(CheckCatalogued(), 8);
  const nlohmann::json document = Inspect({"document", "d3", "--units"});
  EXPECT_EQ(document["title"], "Number 3");
  const nlohmann::json& encoding = document["parts"][0]["encodings"][0];
  EXPECT_EQ(encoding["layers"], 2);
  EXPECT_EQ(encoding["unit_checksums"].size(), 4u);  // 2 layers of 2 heads, fewer than 512 tokens
  EXPECT_EQ(Inspect({"model"})["fingerprint"], document["model"]);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"store"}, {"documents"}, {"document", "d3"}, {"model"}}) {
    const Finished text = Run("inspect", words);
    EXPECT_EQ(text.status, 0) << text.errors;
    EXPECT_NE(text.output, "");
  }
  const Finished verify = Run("verify", {});
  EXPECT_EQ(verify.status, 0) << verify.errors;
  EXPECT_THAT(verify.output, HasSubstr("8 encodings"));
}

TEST_F(CliTest, EveryCodecAndNamespaceStandsOnItsOwn) {
  const std::string input = Write("in.jsonl", Lines(0, 3));
  for (const char* codec : {"raw-bf16", "raw-f32", "q8", "q4"}) {
    const Finished finished = Run("ingest", {input, "--codec", codec});
    EXPECT_EQ(finished.status, 0) << finished.errors;
  }
  EXPECT_EQ(Run("ingest", {input, "--namespace", "other"}).status, 0);
  const nlohmann::json store = Inspect({"store"});
  ASSERT_EQ(store["namespaces"].size(), 2u);
  EXPECT_EQ(store["namespaces"][0]["encodings"], 12);
  EXPECT_EQ(store["namespaces"][0]["documents"], 3);
  EXPECT_EQ(store["namespaces"][1]["encodings"], 3);
  EXPECT_EQ(Inspect({"document", "d1"})["parts"][0]["encodings"].size(), 4u);
}

TEST_F(CliTest, ReadsStandardInputCompressedAndDirectories) {
  const std::string compressed = Gzip(Lines(0, 4));
  const Finished piped = Run("ingest", {"-"}, {.input = compressed});
  EXPECT_EQ(piped.status, 0) << piped.errors;
  EXPECT_THAT(piped.output, HasSubstr("4 added"));
  Write("docs/a.txt", "A text in a file.");
  Write("docs/b/c.md", "Another one, deeper.");
  const Finished walked = Run("ingest", {Path("docs")});
  EXPECT_EQ(walked.status, 0) << walked.errors;
  EXPECT_THAT(walked.output, HasSubstr("2 added"));
  EXPECT_EQ(Inspect({"document", "b/c.md"})["title"], "c");
}

TEST_F(CliTest, KilledAtAnyMomentItResumes) {
  std::mt19937_64 random(TestSeed());
  const int documents = 150;
  const std::string input = Write("in.jsonl", Lines(0, documents));
  const std::vector<std::string> arguments = {input, "-", "--batch-tokens", "64"};
  // Kills fall within the duration of a whole run on this machine.
  const absl::Time begin = SteadyNow();
  ASSERT_EQ(Run("ingest", arguments).status, 0);
  const int64_t whole = absl::ToInt64Microseconds(SteadyNow() - begin);
  const int rounds = Soak() ? 100 : 2;
  int interrupted = 0;
  for (int round = 0; round < rounds; ++round) {
    fs::remove_all(store_);
    for (int kill = 0; kill < 3; ++kill) {
      // After the file it waits for more on standard input, so that it never ends by itself.
      Subprocess process(Command("ingest", arguments), {.keep_input_open = true});
      absl::SleepFor(absl::Microseconds(random() % whole));
      ASSERT_TRUE(process.running()) << process.errors();
      process.Kill();
      process.Wait();
    }
    if (fs::exists(fs::path(store_) / "STORE")) {
      const Finished verify = Run("verify", {});
      EXPECT_EQ(verify.status, 0) << verify.output << verify.errors;
      const int catalogued = CheckCatalogued();
      if (catalogued > 0) {
        // Every text differs, so every document has an encoding of its own.
        EXPECT_LE(catalogued, Inspect({"store"})["namespaces"][0]["encodings"].get<int>());
      }
      interrupted += catalogued < documents;
    }
    const Finished resumed = Run("ingest", {input});
    EXPECT_EQ(resumed.status, 0) << resumed.errors;
    EXPECT_EQ(Inspect({"store"})["namespaces"][0]["documents"], documents);
    EXPECT_EQ(Inspect({"store"})["namespaces"][0]["encodings"], documents);
  }
  std::printf("%d of %d rounds left documents for the last run\n", interrupted, rounds);
}

TEST_F(CliTest, AFullDiskLosesNothingAndIsResumed) {
  ASSERT_EQ(Run("ingest", {Write("few.jsonl", Lines(0, 3))}).status, 0);
  // Files may grow to half a megabyte: the segment file hits that first.
  const std::string input = Write("in.jsonl", Lines(0, 200));
  const Finished full = Run("ingest", {input}, {.file_size_limit = 512 << 10});
  EXPECT_EQ(full.status, 7) << full.errors;
  EXPECT_THAT(full.errors, HasSubstr("File too large"));
  EXPECT_THAT(full.errors, HasSubstr("run the command again to continue"));
  const Finished verify = Run("verify", {});
  EXPECT_EQ(verify.status, 0) << verify.output << verify.errors;
  const int catalogued = CheckCatalogued();
  EXPECT_GE(catalogued, 3);
  EXPECT_LT(catalogued, 200);
  const Finished resumed = Run("ingest", {input});
  EXPECT_EQ(resumed.status, 0) << resumed.errors;
  EXPECT_EQ(CheckCatalogued(), 200);
}

TEST_F(CliTest, AFullDiskEndsIngestWhileItsInputIsIdle) {
  ASSERT_EQ(Run("ingest", {Write("few.jsonl", Lines(0, 3))}).status, 0);
  Subprocess process(Command("ingest", {"-"}),
                     {.input = Lines(0, 200), .keep_input_open = true, .file_size_limit = 512 << 10});
  const absl::Time deadline = SteadyNow() + absl::Seconds(120);
  while (process.running() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
  ASSERT_FALSE(process.running()) << "it waits for input: " << process.errors();
  EXPECT_EQ(process.Wait(), 7);
  EXPECT_THAT(process.errors(), HasSubstr("File too large"));
  EXPECT_THAT(process.errors(), HasSubstr("run the command again to continue"));
}

TEST_F(CliTest, FilesThatMayHardlyGrowEndIngestWithALine) {
  ASSERT_EQ(Run("ingest", {Write("few.jsonl", Lines(0, 3))}).status, 0);
  const std::string input = Write("in.jsonl", Lines(3, 6));
  const std::string there = store_;
  const std::pair<std::string, int64_t> trials[] = {{there, 4 << 10}, {Path("new"), 32 << 10}, {Path("newer"), 4 << 10}};
  for (const auto& [store, limit] : trials) {
    store_ = store;
    const Finished full = Run("ingest", {input}, {.file_size_limit = limit});
    EXPECT_EQ(full.status, 7) << full.errors;
    EXPECT_THAT(full.errors, HasSubstr("File too large"));
    EXPECT_THAT(full.errors, HasSubstr("run the command again to continue"));
  }
  store_ = there;
  EXPECT_EQ(Run("verify", {}).status, 0);
  EXPECT_EQ(Run("ingest", {input}).status, 0);
  EXPECT_EQ(CheckCatalogued(), 6);
}

TEST_F(CliTest, AStoreIsOneProcessAtATime) {
  Subprocess holder(Command("ingest", {"-"}), {.input = Lines(0, 1), .keep_input_open = true});
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  while (!fs::exists(fs::path(store_) / "STORE") && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
  ExpectRefused(Run("ingest", {Write("in.jsonl", Lines(1, 2))}), "ingest", {store_, "in use", "process"});
  ExpectRefused(Run("inspect", {"store"}), "inspect", {store_, "in use"});
  ExpectRefused(Run("verify", {}), "verify", {store_, "in use"});
  holder.CloseInput();
  EXPECT_EQ(holder.Wait(), 0) << holder.errors();
  EXPECT_EQ(Run("inspect", {"store"}).status, 0);
}

TEST_F(CliTest, AnotherModelsDocumentsAreIngestedAgain) {
  const std::string input = Write("in.jsonl", Lines(0, 2));
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  const nlohmann::json before = Inspect({"document", "d0"});
  TinyModelOptions other;
  other.seed = 2;
  other.layers = 2;
  model_ = MakeModel("other", other);
  EXPECT_THAT(Run("ingest", {input}).output, HasSubstr("2 added"));
  const nlohmann::json after = Inspect({"document", "d0"});
  EXPECT_NE(before["model"], after["model"]);
  EXPECT_NE(before["parts"][0]["identity"], after["parts"][0]["identity"]);
  EXPECT_EQ(Run("verify", {}).status, 0);
}

TEST_F(CliTest, ADamagedEncodingIsFoundDroppedAndMadeAgain) {
  const std::string input = Write("in.jsonl", Lines(0, 4));
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  // The nonzero bytes of segment files, after their headers, belong to encodings.
  int flipped = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(store_) / "segments")) {
    if (!entry.is_regular_file()) continue;
    const int file = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file, 0);
    std::vector<unsigned char> bytes(4 << 20);
    const ssize_t n = pread(file, bytes.data(), bytes.size(), 0);
    for (ssize_t at = 65536; at < n && flipped == 0; ++at) {
      if (bytes[at] == 0) continue;
      const unsigned char other = bytes[at] ^ 0x20;
      ASSERT_EQ(pwrite(file, &other, 1, at), 1);
      ++flipped;
    }
    close(file);
  }
  ASSERT_EQ(flipped, 1);
  const Finished verify = Run("verify", {});
  EXPECT_EQ(verify.status, 6);
  EXPECT_THAT(verify.output, HasSubstr("damaged: namespace default, document 'd"));
  EXPECT_THAT(verify.output, HasSubstr("1 of 4 documents have no encoding"));
  EXPECT_THAT(verify.errors, HasSubstr("ingest"));
  EXPECT_THAT(Run("ingest", {input}).output, HasSubstr("1 added, 3 already complete"));
  EXPECT_EQ(Run("verify", {}).status, 0);
  EXPECT_EQ(CheckCatalogued(), 4);
}

}  // namespace
}  // namespace kvlink::testing
