// kvlink eval as a command: its table, its results file, and what it refuses.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/little_endian.h"
#include "tests/integration/cli_workplace.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class CliEvalTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    TinyModelOptions options;
    options.layers = 2;
    options.context = 4096;  // a token of its tokenizer is about a byte
    model_ = MakeModel("long", options);
  }
  Finished Eval(const std::vector<std::string>& arguments) const {
    std::vector<std::string> words = {"--memory",          "64M", "--threads",    "1", "--documents", "2",
                                      "--document-tokens", "50",  "--max-tokens", "4"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return Run("eval", words);
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
};

TEST_F(CliEvalTest, ResultsAccumulateInAFile) {
  const std::string results = Path("results.jsonl");
  const std::vector<std::string> some = {"--kinds",   "lookup,compare", "--count",   "2",
                                         "--linkers", "concat",         "--results", results};
  const Finished first = Eval(some);
  EXPECT_EQ(first.status, 0) << first.errors;
  EXPECT_THAT(first.output, AllOf(HasSubstr("lookup"), HasSubstr("compare"), HasSubstr("all"), HasSubstr("closed-book"),
                                  Not(HasSubstr("full"))));
  EXPECT_THAT(first.errors, Not(HasSubstr("questions"))) << "progress is for terminals";
  const std::string after_first = Read("results.jsonl");
  EXPECT_EQ(std::count(after_first.begin(), after_first.end(), '\n'), 1 + 4 * 2) << after_first;

  EXPECT_EQ(Eval(some).output, first.output);
  EXPECT_EQ(Read("results.jsonl"), after_first);

  const Finished more = Eval({"--kinds", "lookup,compare", "--count", "2", "--linkers", "concat,full", "--results",
                              results, "--json", Path("table.json")});
  EXPECT_EQ(more.status, 0) << more.errors;
  EXPECT_THAT(more.output, HasSubstr("full"));
  const std::string after_more = Read("results.jsonl");
  EXPECT_EQ(after_more.substr(0, after_first.size()), after_first);
  EXPECT_EQ(std::count(after_more.begin(), after_more.end(), '\n'), 1 + 4 * 3);
  const auto json = nlohmann::json::parse(Read("table.json"), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["cells"].size(), 9u);
  EXPECT_EQ(json["settings"]["documents"], "2");
  const Finished printed = Eval(
      {"--kinds", "lookup,compare", "--count", "2", "--linkers", "concat,full", "--results", results, "--json", "-"});
  EXPECT_EQ(printed.output, Read("table.json")) << printed.errors;

  const Finished other = Eval({"--seed", "2", "--results", results});
  ExpectRefused(other, "eval", {results, "seed was 1 and is 2"});
  EXPECT_EQ(other.status, 4);
  ExpectRefused(Eval({"--results", results, "--profile", "kvlink-llama-5"}), "eval", {"kvlink-llama-5"});
  EXPECT_EQ(Read("results.jsonl"), after_more);
}

TEST_F(CliEvalTest, QuestionsOfAFileAreAskedOfStoredDocuments) {
  const std::string questions = Write("questions.jsonl",
                                      "{\"question\": \"How many?\", \"documents\": [\"d0\", \"d1\"], \"answers\": "
                                      "[\"0\", \"none\"]}\n"
                                      "{\"question\": \"Why?\", \"documents\": [\"d1\"]}\n");
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  const std::vector<std::string> words = {"--max-tokens", "4",   "--threads",   "1",
                                          "--memory",     "64M", "--questions", questions};
  const Finished answered = Run("eval", words);
  EXPECT_EQ(answered.status, 0) << answered.errors;
  EXPECT_THAT(answered.output, AllOf(HasSubstr("EM"), HasSubstr("file"), Not(HasSubstr("choice"))));
  EXPECT_THAT(answered.errors, IsEmpty());
  ExpectRefused(Run("eval", {"--questions", questions, "--count", "3"}), "eval", {"--questions", "--count"});
  ExpectRefused(Run("eval", {"--questions", questions, "--order", "last"}), "eval", {"--questions", "--order"});
  ExpectRefused(Run("eval", {"--questions", Path("nothing")}), "eval", {"nothing"});
  ExpectRefused(Run("eval", {"--questions", Write("bad", "{\"question\": \"q\", \"documents\": [], \"answers\": 3}")}),
                "eval", {"bad:1", "\"answers\" must be a string or a list"});
  ExpectRefused(Run("eval", {"--questions", Write("lost", "{\"question\": \"q\", \"documents\": [\"nobody\"]}")}),
                "eval", {"question 1", "'nobody'"});
}

TEST_F(CliEvalTest, AProfileNamesTheLinkerOfRequestsThatNameNone) {
  const std::string profile = Write("p.json", R"({"name": "p", "linker": "prophet-10"})");
  const Finished measured = Eval({"--kinds", "lookup", "--count", "1", "--profile", profile});
  EXPECT_EQ(measured.status, 0) << measured.errors;
  EXPECT_THAT(measured.output, AllOf(HasSubstr("concat"), HasSubstr("full"), HasSubstr("prophet-10")));
  const std::string full = Write("full.json", R"({"name": "p", "linker": "full"})");
  const std::vector<std::string> ask = {"--file", Write("a.txt", "All of it."), "--max-tokens", "2", "--profile", full};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), ask.begin(), ask.end());
    more.push_back("What?");
    return Run("ask", more);
  };
  EXPECT_THAT(with({}).errors, HasSubstr("no encodings"));
  EXPECT_THAT(with({"--linker", "concat"}).errors, HasSubstr("encodings: 1"));
}

TEST_F(CliEvalTest, PublicDataIsAskedWithSeveralCodecs) {
  const std::string questions =
      Write("hotpot.json",
            "[{\"_id\": \"1\", \"question\": \"Where?\", \"answer\": \"Ulm\", \"supporting_facts\": [[\"B\", 0]], "
            "\"context\": [[\"A\", [\"One.\"]], [\"B\", [\"It is Ulm.\", \" Yes.\"]]]}, {\"_id\": \"2\"}]");
  const std::string chats = Write("chat.jsonl",
                                  "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": "
                                  "\"assistant\", \"content\": \"b\"}]}\n"
                                  "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
                                  "\"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n");
  const std::vector<std::string> words = {"--memory",     "64M",
                                          "--threads",    "1",
                                          "--max-tokens", "4",
                                          "--data",       "hotpotqa:" + questions,
                                          "--data",       "chat:" + chats,
                                          "--codecs",     "raw-bf16, q8",
                                          "--linkers",    "concat,full",
                                          "--json",       Path("table.json")};
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 1))}).status, 0);  // without a store there is a note as well
  ExpectRefused(Run("eval", words), "eval", {questions, "element 2", "\"question\": missing, expected a string"});
  std::vector<std::string> skipping = words;
  skipping.insert(skipping.end(), {"--skip-damaged", "1"});
  const Finished answered = Run("eval", skipping);
  EXPECT_EQ(answered.status, 0) << answered.errors;
  EXPECT_THAT(answered.output, AllOf(HasSubstr("hotpotqa"), HasSubstr("chat"), HasSubstr("q8"), HasSubstr("raw-bf16"),
                                     HasSubstr("ROUGE-L"), HasSubstr("perplexity"), HasSubstr("recomputed")));
  EXPECT_THAT(answered.errors, AllOf(HasSubstr("[skipped: " + questions + ", element 2"),
                                     HasSubstr("left out: 1 examples without documents")));
  const auto json = nlohmann::json::parse(Read("table.json"), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["settings"]["questions"], "data");
  EXPECT_EQ(json["cells"].size(), 3u * 2 * 3) << "two kinds and all, two codecs, two linkers and closed-book";
  for (const auto& cell : json["cells"]) {
    EXPECT_EQ(cell["bytes_read"] > 0, cell["linker"] == "concat") << cell;
    EXPECT_EQ(cell.contains("exact"), cell["kind"] != "chat") << cell;
  }
}

// The head of a results file says nothing of the seed that invents needles; earlier builds wrote none.
TEST_F(CliEvalTest, NeedlesOfAnotherSeedAreOtherItems) {
  std::string text;
  while (text.size() < 2000) text += "Some words. ";
  const auto ask = [&, file = Write("text", text)](const std::string& seed) {
    return Run("eval", {"--memory",
                        "64M",
                        "--threads",
                        "1",
                        "--max-tokens",
                        "2",
                        "--documents",
                        "2",
                        "--document-tokens",
                        "50",
                        "--linkers",
                        "concat",
                        "--count",
                        "1",
                        "--data",
                        "needle:" + file,
                        "--results",
                        Path("results.jsonl"),
                        "--seed",
                        seed});
  };
  for (const char* seed : {"1", "1", "2"}) {
    const Finished finished = ask(seed);
    EXPECT_EQ(finished.status, 0) << finished.errors;
  }
  const std::string bytes = Read("results.jsonl");
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), '\n'), 1 + 2 * 2) << bytes;
  EXPECT_THAT(bytes.substr(0, bytes.find('\n')), Not(HasSubstr("seed")));
}

TEST_F(CliEvalTest, ARunThatWaitsForDataCanBeTerminated) {
  const std::string temporary = Path("temporary"), pipe = Path("text"), results = Path("results.jsonl");
  ASSERT_TRUE(std::filesystem::create_directory(temporary));
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  Subprocess process(
      {KVLINK_BINARY, "eval", "--model", model_, "--memory", "64M", "--threads", "1", "--data", "text:" + pipe,
       "--documents", "2", "--max-tokens", "4", "--document-tokens", "50", "--results", results},
      {.environment = {absl::StrCat("TMPDIR=", temporary)}});
  const Descriptor data = AwaitReader(pipe, process);
  // A passage and the beginning of another.
  std::string text;
  while (text.size() < 500) text += "Some words. ";
  ASSERT_EQ(write(data.get(), text.data(), text.size()), static_cast<ssize_t>(text.size())) << process.errors();
  const auto lines = [&] {
    const std::string bytes = Read("results.jsonl");
    return std::count(bytes.begin(), bytes.end(), '\n');
  };
  for (const absl::Time deadline = Patience(); lines() < 1 + 3 && SteadyNow() < deadline;)
    absl::SleepFor(absl::Milliseconds(10));
  ASSERT_EQ(lines(), 1 + 3) << process.errors();
  absl::SleepFor(absl::Milliseconds(100));  // it has nothing left to do but to wait
  EXPECT_FALSE(std::filesystem::is_empty(temporary)) << "what is to be left behind";
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 130) << process.errors();
  EXPECT_THAT(process.errors(), HasSubstr("run the command again to continue"));
  EXPECT_TRUE(std::filesystem::is_empty(temporary));
}

TEST_F(CliEvalTest, ExamplesThatTheWrapperMakesTooLongAreLeftOut) {
  constexpr int64_t kHeader = 400;
  const int64_t bytes = kHeader * TinyModelOptions().hidden * 2;
  const std::string header = absl::StrCat(R"({"wrapper_header":{"dtype":"BF16","shape":[)", kHeader, ",",
                                          TinyModelOptions().hidden, R"(],"data_offsets":[0,)", bytes, "]}}");
  std::string file;
  AppendField(uint64_t{header.size()}, &file);
  Write("w.safetensors", absl::StrCat(file, header, std::string(static_cast<size_t>(bytes), '\0')));
  const std::string profile =
      Write("p.json", absl::StrCat(R"({"name": "p", "wrapper": {"file": "w.safetensors", "header": )", kHeader, "}}"));
  const std::string article(1600, 'a');
  const std::string questions =
      Write("hotpot.json",
            absl::StrCat(R"([{"question": "Where?", "answer": "Ulm", "supporting_facts": [], "context": [["A", [")",
                         article, R"("]], ["B", [")", article, R"("]]]}])"));
  const Finished refused = Run("eval", {"--memory", "64M", "--threads", "1", "--max-tokens", "4", "--profile", profile,
                                        "--linkers", "packet", "--data", "hotpotqa:" + questions});
  EXPECT_GE(refused.status, 2) << refused.errors;
  EXPECT_THAT(refused.errors, HasSubstr("nothing to ask; left out: 1 examples too long for the model's context"));
}

TEST_F(CliEvalTest, NamesOfLettersHaveResultsOfTheirOwn) {
  const auto ask = [&](const std::string& names) {
    return Eval({"--kinds", "lookup", "--count", "1", "--linkers", "concat", "--split", "tune", "--names", names,
                 "--results", Path(names)});
  };
  for (const char* names : {"syllables", "letters"}) EXPECT_EQ(ask(names).status, 0) << ask(names).errors;
  const auto head = [&](const std::string& name) { return Read(name).substr(0, Read(name).find('\n')); };
  EXPECT_THAT(head("syllables"), Not(HasSubstr("names"))) << "results of builds without the choice go on";
  EXPECT_THAT(head("letters"), HasSubstr(R"("names":"letters")"));
  ExpectRefused(Eval({"--names", "letters"}), "eval", {"--names letters", "--split tune"});
}

TEST_F(CliEvalTest, WhatWasTypedWrongIsNamed) {
  ExpectRefused(Eval({"--linkers", "concat,everything"}), "eval", {"--linkers", "everything", "concat"});
  ExpectRefused(Eval({"--kinds", "lookup,"}), "eval", {"--kinds", "lookup, hops-inside"});
  ExpectRefused(Eval({"--order", "best"}), "eval", {"--order", "best", "middle"});
  ExpectRefused(Eval({"--split", "train"}), "eval", {"--split", "tune, test"});
  ExpectRefused(Eval({"--documents", "33"}), "eval", {"--documents", "2 to 32"});
  ExpectRefused(Eval({"--document-tokens", "10"}), "eval", {"--document-tokens", "50 to 8000"});
  ExpectRefused(Eval({"questions.jsonl"}), "eval", {"'questions.jsonl'", "--questions"});
  ExpectRefused(Eval({"--json", Path("no/table.json")}), "eval", {"no/table.json"});
  ExpectRefused(Eval({"--results", root_.string()}), "eval", {root_.string()});
  ExpectRefused(Eval({"--codecs", "q8,q9"}), "eval", {"--codecs", "q9"});
  ExpectRefused(Eval({"--codecs", "q8", "--codec", "q4"}), "eval", {"--codecs", "--codec"});
  ExpectRefused(Eval({"--data", "dev.json"}), "eval", {"--data", "'dev.json'", "NAME:FILE"});
  ExpectRefused(Eval({"--data", "hotpot:dev.json"}), "eval", {"--data", "'hotpot'", "hotpotqa, 2wiki"});
  ExpectRefused(Eval({"--data", "xsum:" + Path("none.json")}), "eval", {"none.json"});
  ExpectRefused(Eval({"--data", "xsum:x", "--kinds", "lookup"}), "eval", {"--data", "--kinds"});
  ExpectRefused(Eval({"--data", "xsum:x", "--questions", "y"}), "eval", {"--questions", "--data"});
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 1))}).status, 0);  // without a store there is a note as well
  ExpectRefused(Eval({"--count", "1", "--linkers", "links"}), "eval", {"question lookup-0", "no link tokens"});
  ExpectRefused(Eval({"--count", "1", "--documents", "32"}), "eval", {"question lookup-0", "no room"});
}

}  // namespace
}  // namespace kvlink::testing
