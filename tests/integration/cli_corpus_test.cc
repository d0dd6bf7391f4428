// The binary on corpora: shards, parts of long documents, pruning, rejects.
#include <gmock/gmock.h>

#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_workplace.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string Line(const std::string& id, const std::string& title, const std::string& text) {
  return nlohmann::json({{"id", id}, {"title", title}, {"text", text}}).dump() + "\n";
}

TEST_F(CliTest, APartAnswersAsADocumentOfItsTextWould) {
  const std::string text =
      "The first paragraph says that there are seven bridges in the town, and that nobody walks over all of them.\n\n"
      "The second one says that a baker on the north bank knows better, and bakes eight loaves.\n\n"
      "The third one is about the weather, which is what it is.";
  const std::string id = "a=b@2-3#1";
  ASSERT_EQ(Run("ingest", {Write("long.jsonl", Line(id, "Town", text)), "--chunk-tokens", "110"}).status, 0);
  const nlohmann::json parts = Inspect({"document", id})["parts"];
  ASSERT_EQ(parts.size(), 3u) << parts;
  std::string lines;
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t begin = parts[i]["begin"], end = parts[i]["end"];
    lines += Line(absl::StrCat("p", i + 1), "Town", text.substr(begin, end - begin));
  }
  EXPECT_THAT(Run("ingest", {Write("parts.jsonl", lines)}).output, HasSubstr("3 shared an encoding"));
  const auto ask = [&](std::vector<std::string> documents) {
    documents.insert(documents.end(), {"--question", "How many bridges?", "--max-tokens", "12", "--quiet"});
    const Finished finished = Run("ask", documents);
    EXPECT_EQ(finished.status, 0) << finished.errors;
    return finished.output;
  };
  const std::string whole = ask({"--doc", id});
  EXPECT_EQ(whole, ask({"--doc", "p1", "--doc", "p2", "--doc", "p3"}));
  EXPECT_EQ(whole, ask({"--parts", id + "=1-"}));
  const std::string behind = ask({"--parts", id + "=2-3"});
  EXPECT_EQ(behind, ask({"--doc", "p2", "--doc", "p3"}));
  EXPECT_EQ(behind, ask({"--doc", "p2", "--parts", id + "=3"}));
  ExpectRefused(Run("ask", {"--parts", id + "=2-4", "why"}), "ask", {id, "has 3 parts; there is no part 4"});
  ExpectRefused(Run("ask", {"--parts", id, "why"}), "ask", {"not a range of parts"});
  const Finished questions = Run(
      "ask",
      {"--questions",
       Write(
           "q.jsonl",
           nlohmann::json({{"question", "How many bridges?"}, {"documents", {{{"id", id}, {"parts", "2-"}}}}}).dump()),
       "--max-tokens", "12"});
  EXPECT_EQ(questions.status, 0) << questions.errors;
  EXPECT_THAT(questions.output, HasSubstr(behind.substr(0, behind.size() - 1)));
  EXPECT_THAT(Run("inspect", {"document", id}).output, HasSubstr("part 3"));
}

TEST_F(CliTest, ShardsShareACorpus) {
  Write("docs/a.jsonl", Lines(0, 40) + "broken\n");
  for (int i = 0; i < 20; ++i) Write(absl::StrCat("docs/text", i, ".txt"), absl::StrCat("The text of file ", i, "."));
  const std::string input = Path("docs");
  int failed = 0;
  for (const char* shard : {"0/3", "1/3"}) {
    const Finished finished = Run("ingest", {input, "--shard", shard});
    EXPECT_THAT(finished.output, HasSubstr(absl::StrCat("shard ", shard, ": ")));
    failed += finished.status;
  }
  const Finished last = Run("ingest", {input, "--shards", "3"}, {.environment = {"JOB_COMPLETION_INDEX=2"}});
  EXPECT_THAT(last.output, HasSubstr("shard 2/3: "));
  EXPECT_EQ(failed + last.status, 1) << "one of them has the broken line";
  EXPECT_EQ(CheckCatalogued(), 60);
  EXPECT_THAT(Run("ingest", {input}).output, HasSubstr("0 added, 60 already complete, 1 failed"));
  ExpectRefused(Run("ingest", {input, "--shards", "3"}), "ingest", {"JOB_COMPLETION_INDEX is not set"});
  ExpectRefused(Run("ingest", {input, "--shard", "3/3"}), "ingest", {"0/N to N-1/N"});
  ExpectRefused(Run("ingest", {input, "--shard", "0/3", "--shards", "3"}), "ingest", {"cannot be combined"});
}

TEST_F(CliTest, PruneDeletesWhatTheSourceHasNoMore) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 30))}).status, 0);
  const Finished pruned = Run("ingest", {Write("in.jsonl", Lines(1, 31)), "--prune"});
  EXPECT_EQ(pruned.status, 0) << pruned.errors;
  EXPECT_THAT(pruned.output, HasSubstr("1 documents that are no longer in the source were deleted"));
  EXPECT_EQ(CheckCatalogued(), 30);
  const Finished broken = Run("ingest", {Write("in.jsonl", Lines(2, 31) + "broken\n"), "--prune"});
  EXPECT_EQ(broken.status, 4);
  EXPECT_THAT(broken.errors, HasSubstr("nothing was pruned: 1 documents or files of the source could not be read"));
  const std::string half = Write("in.jsonl", Lines(16, 31));
  ExpectRefused(Run("ingest", {half, "--prune"}), "ingest",
                {"15 of the 30 documents of namespace 'default'", "raise --prune-limit"});
  EXPECT_EQ(CheckCatalogued(), 30);
  EXPECT_EQ(Run("ingest", {half, "--prune", "--prune-limit", "50"}).status, 0);
  EXPECT_EQ(CheckCatalogued(), 15);
  EXPECT_EQ(Run("ingest", {half, "--prune", "--prefix", "other", "--quiet"}).status, 1) << "no id begins so";
  EXPECT_EQ(CheckCatalogued(), 15);
  ExpectRefused(Run("ingest", {half, "--prune-limit", "50"}), "ingest", {"--prune-limit requires --prune"});
}

TEST_F(CliTest, RejectsAreWrittenAsideUntilTheRunIsComplete) {
  const std::string file = Write("in.jsonl", Lines(0, 2) + "broken\n" + Line("empty", "Empty", ""));
  const std::string rejects = Write("rejects.jsonl", "of the run before\n");
  EXPECT_EQ(Run("ingest", {file, "--rejects", rejects, "--stop-at-first-failure"}).status, 1);
  EXPECT_EQ(Contents(rejects), "of the run before\n") << "the run has not seen all of its input";
  EXPECT_THAT(Contents(rejects + ".partial"), HasSubstr("in.jsonl:3"));
  const Finished whole = Run("ingest", {file, "--rejects", rejects});
  EXPECT_EQ(whole.status, 1);
  EXPECT_THAT(whole.errors, HasSubstr("in.jsonl:4: document 'empty'"));
  EXPECT_EQ(CheckCatalogued(), 2);
  EXPECT_THAT(Contents(rejects), AllOf(HasSubstr("in.jsonl:3"), HasSubstr("\"id\":\"empty\"")));
  // A rejects file does not hold all that the input does, so it must not replace one.
  ExpectRefused(Run("ingest", {file, "--rejects", file}), "ingest", {file, "is an input"});
  ExpectRefused(Run("ingest", {Path("."), "--rejects", rejects}), "ingest", {rejects, "lies in one"});
  ExpectRefused(Run("ingest", {file, "--rejects", Path("no/such/file")}), "ingest", {Path("no/such/file.partial")});
}

}  // namespace
}  // namespace kvlink::testing
