// Messages and exit statuses of commands: they are true, and go to the right stream.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/integration/cli_workplace.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CliWordsTest : public CliTest {
 protected:
  // Runs a command through a shell, with redirections.
  Finished Shell(const std::string& command, const std::vector<std::string>& arguments,
                 const std::string& redirections) const {
    std::string line;
    for (const std::string& word : Command(command, arguments)) absl::StrAppend(&line, "'", word, "' ");
    return RunToEnd({"/bin/sh", "-c", absl::StrCat(line, redirections)});
  }
};

TEST_F(CliWordsTest, ExitStatusesTellWhatKindOfFailureItWas) {
  const std::string input = Write("in.jsonl", Lines(0, 2));
  EXPECT_EQ(Run("ingest", {input, "--nothinglikeit"}).status, 2);
  EXPECT_EQ(RunToEnd({KVLINK_BINARY}).status, 2);
  EXPECT_EQ(Run("ingest", {Path("nothing")}).status, 3);
  EXPECT_EQ(Run("inspect", {"store"}).status, 3);
  ASSERT_EQ(Run("ingest", {input}).status, 0);
  EXPECT_EQ(Run("inspect", {"document", "nobody"}).status, 3);
  EXPECT_EQ(RunToEnd({KVLINK_BINARY, "status", "--store", "127.0.0.1:1"}).status, 5);
  const Finished partly = Run("ingest", {input, Write("bad.jsonl", "{}\n")});
  EXPECT_EQ(partly.status, 1);
  TinyModelOptions other;
  other.seed = 2;
  model_ = MakeModel("other", other);
  EXPECT_EQ(Run("ask", {"--doc", "d0", "why?"}).status, 4);
  const Finished version = RunToEnd({KVLINK_BINARY, "version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_THAT(version.output, HasSubstr("kvlink "));
}

TEST_F(CliWordsTest, AConversationThatFillsTheContextEndsWell) {
  TinyModelOptions small;
  small.context = 256;
  model_ = MakeModel("small", small);
  std::string questions;
  for (int i = 0; i < 40; ++i) questions += "How many grains are there?\n";
  const Finished chat =
      Shell("ask", {"--max-tokens", "4", "--chat"}, absl::StrCat("< ", Write("questions", questions)));
  EXPECT_EQ(chat.status, 0) << chat.errors;
  EXPECT_THAT(chat.errors, HasSubstr("the context is full"));
}

TEST_F(CliWordsTest, AMistypedAddressIsNoDirectoryAndOnlyIngestCreates) {
  const std::string input = Write("in.jsonl", Lines(0, 1));
  for (const char* typo : {"http://127.0.0.1:7400", "127.0.0.1:99999", ":7400", "localhost"}) {
    store_ = typo;
    for (const char* command : {"ingest", "verify"}) {
      const std::vector<std::string> words =
          command == std::string("ingest") ? std::vector<std::string>{input} : std::vector<std::string>{};
      const Finished refused = Run(command, words);
      ExpectRefused(refused, command, {typo, "HOST:PORT"});
      EXPECT_EQ(refused.status, 2);
    }
    EXPECT_FALSE(fs::exists(typo)) << typo;
  }
  store_ = Path("new");
  ExpectRefused(Run("ask", {"--doc", "d0", "why?"}), "ask", {store_, "no store"});
  ExpectRefused(Run("verify", {}), "verify", {store_, "no store"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "ask", "--store", store_, "--model", Path("nope"), "hi"}), "ask", {"nope"});
  const Finished answered = Run("ask", {"--file", input, "--max-tokens", "2", "why?"});
  EXPECT_EQ(answered.status, 0) << answered.errors;
  EXPECT_THAT(answered.errors, HasSubstr("will not be saved"));
  EXPECT_FALSE(fs::exists(store_));
  EXPECT_THAT(Run("ingest", {input}).output, HasSubstr(absl::StrCat("created a new store in ", store_)));
  EXPECT_THAT(Run("ingest", {input}).output, Not(HasSubstr("created")));
}

TEST_F(CliWordsTest, WhatWasEvictedAgainIsNoSuccess) {
  // Each document, 2 layers of about 40 tokens, takes a block of 64 KiB; a store of 2 MiB holds about thirty.
  const Finished crowded = Run("ingest", {Write("in.jsonl", Lines(0, 120)), "--capacity", "2M"});
  EXPECT_EQ(crowded.status, 7) << crowded.output << crowded.errors;
  EXPECT_THAT(crowded.output, HasSubstr("120 added"));
  EXPECT_THAT(crowded.errors, AllOf(HasSubstr("evicted during the run"), HasSubstr("the capacity is 2 MiB")));
  const Finished remembered = Run("ingest", {Write("more.jsonl", Lines(200, 320))});
  EXPECT_EQ(remembered.status, 7) << remembered.output << remembered.errors;
  EXPECT_THAT(remembered.errors, AllOf(HasSubstr("more than the store's capacity"), Not(HasSubstr("is 0 B"))));
}

TEST_F(CliWordsTest, ReplacedIsToldFromAdded) {
  const Finished first = Run("ingest", {Write("a/readme.txt", "One text of some words.")});
  EXPECT_THAT(first.output, AllOf(HasSubstr("1 added"), Not(HasSubstr("replaced"))));
  const Finished second = Run("ingest", {Write("b/readme.txt", "Another text under the same name.")});
  EXPECT_EQ(second.status, 0) << second.errors;
  EXPECT_THAT(second.output, AllOf(HasSubstr("1 added"), HasSubstr("1 replaced an earlier version")));
  const Finished both = Run("ingest", {Path("a/readme.txt"), Path("b/readme.txt")});
  EXPECT_EQ(both.status, 1);
  EXPECT_THAT(both.errors,
              AllOf(HasSubstr("'readme.txt'"), HasSubstr("duplicate id"), HasSubstr(Path("a/readme.txt"))));
}

TEST_F(CliWordsTest, AnInterruptedIngestSaysHowFarItCame) {
  Subprocess process(Command("ingest", {"-"}), {.input = Lines(0, 5), .keep_input_open = true});
  const absl::Time deadline = SteadyNow() + absl::Seconds(120);
  // Waits until it has read its input: the handler must be installed before ^C.
  while (!fs::exists(fs::path(store_) / "STORE") && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
  absl::SleepFor(absl::Seconds(1));
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130) << process.errors();
  EXPECT_THAT(process.output(), HasSubstr("5 documents: "));
  EXPECT_THAT(process.errors(), AllOf(HasSubstr("interrupted"), HasSubstr("run the command again to continue")));
}

TEST_F(CliWordsTest, OutputThatCannotBeWrittenIsAnError) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"documents", "--json"}, {"store"}, {"--help"}, {"model"}}) {
    const Finished full = Shell("inspect", words, ">/dev/full");
    EXPECT_EQ(full.status, 1) << words[0];
    EXPECT_THAT(full.errors, HasSubstr("No space left on device")) << words[0];
  }
  EXPECT_EQ(Shell("ask", {"--doc", "d0", "--max-tokens", "2", "why?"}, ">/dev/full").status, 1);
  EXPECT_EQ(RunToEnd({"/bin/sh", "-c", absl::StrCat("'", KVLINK_BINARY, "' --help >/dev/full")}).status, 1);
}

TEST_F(CliWordsTest, ClosedStreamsAreNotTheStoresFiles) {
  const std::string input = Write("in.jsonl", Lines(0, 2));
  EXPECT_EQ(Shell("ingest", {input}, "<&- >&- 2>&-").status, 0);
  EXPECT_EQ(Shell("ask", {"--doc", "d0", "--max-tokens", "2", "why?"}, "<&- >&- 2>&-").status, 0);
  // Nor does a file that a library opens before main become standard input: reading it would never end.
  EXPECT_EQ(Shell("ingest", {"-"}, "<&-").status, 0);
  std::ifstream lock(store_ + "/LOCK");
  const std::string held{std::istreambuf_iterator<char>(lock), std::istreambuf_iterator<char>()};
  EXPECT_EQ(held.find_first_not_of("0123456789\n"), std::string::npos) << held;
  EXPECT_EQ(Run("verify", {}).status, 0);
}

TEST_F(CliWordsTest, MemoryThatRunsOutIsALine) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "A sanitizer's shadow memory does not fit below the limit.";
#endif
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  std::string line = "ulimit -v 400000; exec ";
  for (const std::string& word : Command("ask", {"--doc", "d0", "--memory", "2G", "why?"})) {
    absl::StrAppend(&line, "'", word, "' ");
  }
  const Finished finished = RunToEnd({"/bin/sh", "-c", line});
  EXPECT_LT(finished.status, 128) << finished.errors;
  if (finished.status != 0) {
    EXPECT_THAT(finished.errors, HasSubstr("kvlink"));
  }
}

TEST_F(CliWordsTest, WithoutDescriptorsNobodyIsToldToWait) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "UBSan asks through a pipe whether memory can be read.";
#endif
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  std::string line = "ulimit -n 10; exec ";
  for (const std::string& word : Command("verify", {})) absl::StrAppend(&line, "'", word, "' ");
  const Finished refused = RunToEnd({"/bin/sh", "-c", line});
  EXPECT_EQ(refused.status, 5) << refused.errors;
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("ulimit -n"), Not(HasSubstr("--wait"))));
}

TEST_F(CliWordsTest, AskSaysWhatItAnswersFrom) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  EXPECT_THAT(Run("ask", {"--max-tokens", "2", "why?"}).errors, AllOf(HasSubstr("no document"), HasSubstr("--doc")));
  EXPECT_THAT(Run("ask", {"--doc", "d0", "--max-tokens", "2", "why?"}).errors, Not(HasSubstr("no document")));
  ExpectRefused(Run("ask", {"--question", "why?", "because"}), "ask", {"because"});
  ExpectRefused(Run("ask", {"   "}), "ask", {"empty"});
  const Finished piped = RunToEnd(Command("ask", {"--doc", "d0", "--max-tokens", "2", "-"}), {.input = "why?\n"});
  EXPECT_EQ(piped.status, 0) << piped.errors;
  // An error is not preceded by an empty line.
  EXPECT_EQ(Run("ask", {"--doc", "nobody", "why?"}).output, "");

  const std::string questions = Write("questions.jsonl",
                                      "{\"question\":\"why?\",\"documents\":[\"d0\"],\"answer\":\"because\"}\n"
                                      "{\"question\":\"why?\",\"documents\":[\"nobody\"]}\n"
                                      "{\"question\":\"why?\",\"documents\":[\"d1\"],\"answer\":\"because\"}\n");
  const Finished all = Run("ask", {"--questions", questions, "--max-tokens", "2"});
  EXPECT_EQ(all.status, 1);
  EXPECT_THAT(all.errors, AllOf(HasSubstr("question 2"), HasSubstr("'nobody'"), HasSubstr("1 of 3 questions")));
  EXPECT_THAT(all.output, AllOf(HasSubstr("expected"), HasSubstr("of 2.")));
  const Finished quiet = Run("ask", {"--questions", questions, "--max-tokens", "2", "--quiet"});
  EXPECT_THAT(quiet.output, AllOf(Not(HasSubstr("why?")), Not(HasSubstr("documents"))));
}

TEST_F(CliWordsTest, AnAskThatIsInterruptedEarlyLeavesNoStore) {
  const std::string pipe = Path("model.gguf"), temporary = Path("temporary");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);  // a model that takes long to load
  ASSERT_TRUE(fs::create_directory(temporary));
  Subprocess process({KVLINK_BINARY, "ask", "--model", pipe, "--store", Path("none"), "--file",
                      Write("note.txt", "Some words."), "why?"},
                     {.environment = {absl::StrCat("TMPDIR=", temporary)}});
  absl::SleepFor(absl::Seconds(1));
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130) << process.errors();
  EXPECT_TRUE(fs::is_empty(temporary));
}

// Until an ask has made its temporary store.
void AwaitStore(const std::string& temporary, const Subprocess& process) {
  const absl::Time deadline = Patience();
  while (fs::is_empty(temporary) && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_FALSE(fs::is_empty(temporary)) << process.errors();
}

TEST_F(CliWordsTest, AnAskThatIsTerminatedLeavesNoStore) {
  const std::string temporary = Path("temporary");
  ASSERT_TRUE(fs::create_directory(temporary));
  Subprocess process(Command("ask", {"--chat"}),
                     {.keep_input_open = true, .environment = {absl::StrCat("TMPDIR=", temporary)}});
  AwaitStore(temporary, process);
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0) << process.errors();
  EXPECT_TRUE(fs::is_empty(temporary));
}

TEST_F(CliWordsTest, AnAskThatWaitsForDocumentsCanBeTerminated) {
  const std::string temporary = Path("temporary");
  ASSERT_TRUE(fs::create_directory(temporary));
  const std::string pipe = Path("documents.jsonl");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  Subprocess process(Command("ask", {"--file", pipe, "why?"}), {.environment = {absl::StrCat("TMPDIR=", temporary)}});
  const Descriptor idle = AwaitReader(pipe, process);
  EXPECT_FALSE(fs::is_empty(temporary)) << "what is to be left behind";
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 130) << process.errors();
  EXPECT_TRUE(fs::is_empty(temporary));
}

TEST_F(CliWordsTest, PlanSaysWhereItsRateComesFrom) {
  EXPECT_THAT(Run("plan", {}).output, AllOf(HasSubstr("assumed from 6.4e+14 FLOP/s"), HasSubstr("--measure")));
  EXPECT_THAT(Run("plan", {"--prefill-rate", "802"}).output, HasSubstr("802 tokens/s (as given)"));
  const Finished measured = Run("plan", {"--measure", "--document-tokens", "64"});
  EXPECT_EQ(measured.status, 0) << measured.errors;
  EXPECT_THAT(measured.output, HasSubstr("measured on this machine"));
  ExpectRefused(Run("plan", {"--measure", "--flops", "1e12"}), "plan", {"--measure"});
}

TEST_F(CliWordsTest, DocumentsAreListedToTheEndOrItIsSaid) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 5))}).status, 0);
  const Finished some = Run("inspect", {"documents", "--limit", "3"});
  EXPECT_EQ(std::count(some.output.begin(), some.output.end(), '\n'), 3);
  EXPECT_THAT(some.errors, HasSubstr("--limit 0 shows all"));
  const Finished exact = Run("inspect", {"documents", "--limit", "5"});
  EXPECT_EQ(exact.errors, "");
  EXPECT_EQ(Inspect({"documents"}).size(), 5u);
  EXPECT_EQ(Inspect({"documents", "--limit", "2"}).size(), 2u);
}

TEST_F(CliWordsTest, HostilePathsReachNoTerminal) {
  const Finished refused = Run("ingest", {Path("a\x1b[2Jb\nc\xe2\x80\xae.txt")});
  ExpectRefused(refused, "ingest", {"\\x1b[2J", "\\u202e"});
}

}  // namespace
}  // namespace kvlink::testing
