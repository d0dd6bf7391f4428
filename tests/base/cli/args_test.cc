#include "base/cli/args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "base/cli/progress.h"
#include "base/thread.h"

namespace kvlink::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Typed {
  bool flag = false;
  std::string text = "default";
  int64_t number = 5;
  int64_t bytes = 1024;
  double rate = 0;
  std::string choice = "a";
  int64_t threads = 0;
  std::vector<std::string> operands;
  absl::Status status;
};

Typed Parse(std::vector<std::string> words) {
  Typed typed;
  Arguments arguments("test", "INPUT", "Summary.");
  arguments.Flag("flag", "A flag.", &typed.flag);
  arguments.Text("text", "TEXT", "A text.", &typed.text);
  arguments.Integer("number", "N", "A number.", 1, 10, &typed.number);
  arguments.Bytes("bytes", "Bytes.", &typed.bytes);
  arguments.Number("rate", "X", "A rate.", &typed.rate);
  arguments.Choice("choice", {"a", "b"}, "A choice.", &typed.choice);
  arguments.Threads(&typed.threads);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  typed.status = arguments.Parse(pointers);
  typed.operands = arguments.operands();
  return typed;
}

TEST(Arguments, ReadsEveryKind) {
  const Typed typed = Parse({"in", "--flag", "--text=x=y", "--number", "10", "--bytes", "2G", "--rate=1e3", "--choice",
                             "b", "-", "--", "--flag"});
  ASSERT_TRUE(typed.status.ok()) << typed.status;
  EXPECT_TRUE(typed.flag);
  EXPECT_EQ(typed.text, "x=y");
  EXPECT_EQ(typed.number, 10);
  EXPECT_EQ(typed.bytes, int64_t{2} << 30);
  EXPECT_EQ(typed.rate, 1000);
  EXPECT_EQ(typed.choice, "b");
  EXPECT_THAT(typed.operands, ElementsAre("in", "-", "--flag"));
  EXPECT_EQ(Parse({}).text, "default");
}

TEST(Arguments, ErrorsAreOneLineAndSayWhatToType) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--flga"}, "did you mean --flag? kvlink test --help lists the options"},
      {{"--nothinglikeit"}, "; kvlink test --help lists the options"},
      {{"-x"}, "options begin with --"},
      {{"--text"}, "--text needs a value"},
      {{"--flag=1"}, "--flag takes no value"},
      {{"--number", "11"}, "from 1 to 10"},
      {{"--number", "5x"}, "from 1 to 10"},
      {{"--bytes", "many"}, "512M"},
      {{"--bytes", "-1"}, "512M"},
      {{"--bytes", "99999999999T"}, "512M"},
      {{"--bytes", "inf"}, "512M"},
      {{"--rate", "0"}, "above 0"},
      {{"--rate", "nan"}, "above 0"},
      {{"--choice", "c"}, "not one of a, b"},
      {{"--threads", "-1"}, "not an integer from 0 to"},
      {{"--threads", "1000000"}, "cores this process may use"},
      {{"--choice", "evil\n\x1b[2J"}, "not one of a, b"},
  };
  for (const auto& [words, message] : cases) {
    const absl::Status status = Parse(words).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words[0];
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
    EXPECT_EQ(status.message().find('\x1b'), absl::string_view::npos);
  }
}

TEST(Arguments, AsManyThreadsAsCores) {
  EXPECT_EQ(Parse({"--threads", "1"}).threads, 1);
  EXPECT_EQ(Parse({"--threads", absl::StrCat(AvailableProcessors())}).threads, AvailableProcessors());
  EXPECT_FALSE(Parse({"--threads", absl::StrCat(AvailableProcessors() + 1)}).status.ok());
}

TEST(Arguments, HelpIsHandedOver) {
  CommandHelp help;
  {
    const HelpInto into(&help);
    EXPECT_TRUE(Parse({"--help"}).status.ok());
  }
  EXPECT_EQ(help.operands, "INPUT");
  EXPECT_EQ(help.summary, "Summary.");
  ASSERT_EQ(help.options.size(), 7u);
  EXPECT_EQ(help.options[0].name, "flag");
  EXPECT_EQ(help.options[0].placeholder, "");
  EXPECT_EQ(help.options[1].default_text, "default");
  EXPECT_EQ(help.options[5].placeholder, "a|b");
  EXPECT_THAT(help.note, HasSubstr("BYTES may end in K"));
}

TEST(Arguments, HelpIsWrappedAndTellsUnits) {
  std::string text;
  int64_t bytes = 1024;
  Arguments arguments("test", "INPUT", "Summary.");
  std::string words;
  for (int i = 0; i < 60; ++i) words += "word ";
  arguments.Text("text", "TEXT", words + "end.", &text);
  EXPECT_EQ(arguments.Help().find("BYTES"), std::string::npos);
  arguments.Bytes("bytes", "Bytes.", &bytes);
  const std::string help = arguments.Help();
  EXPECT_THAT(help, HasSubstr("BYTES may end in K, M, G or T"));
  EXPECT_THAT(help, HasSubstr("  --text TEXT    word word"));
  EXPECT_THAT(help, HasSubstr("\n                 word word"));
  EXPECT_THAT(help, HasSubstr("word end.\n  --bytes BYTES  Bytes. (default 1 KiB)\n"));
  for (const absl::string_view line : absl::StrSplit(help, '\n')) EXPECT_LE(line.size(), 100u) << line;
  // A value below the minimum is no default.
  int64_t no_bytes = -1, no_number = 0;
  Arguments without("test", "", "Summary.");
  without.Bytes("bytes", "Bytes.", &no_bytes);
  without.Integer("number", "N", "A number.", 1, 10, &no_number);
  EXPECT_EQ(without.Help().find("default"), std::string::npos) << without.Help();
}

TEST(Arguments, BytesGoBothWays) {
  EXPECT_EQ(*ParseBytes("1"), 1);
  EXPECT_EQ(*ParseBytes("1.5k"), 1536);
  EXPECT_EQ(*ParseBytes("64GiB"), int64_t{64} << 30);
  EXPECT_EQ(*ParseBytes("64GB"), int64_t{64} << 30);
  EXPECT_FALSE(ParseBytes("").ok());
  EXPECT_FALSE(ParseBytes("G").ok());
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1 KiB");
  EXPECT_EQ(FormatBytes(23040), "22.5 KiB");
  EXPECT_EQ(FormatBytes(5.5e9), "5.12 GiB");
}

TEST(Arguments, NearestIsNearOrNothing) {
  EXPECT_EQ(Nearest("ingets", {"ask", "ingest"}), "ingest");
  EXPECT_EQ(Nearest("zzzzzzzz", {"ask", "ingest"}), "");
}

TEST(Progress, ClockIsShort) {
  EXPECT_EQ(FormatClock(absl::Seconds(5)), "0:05");
  EXPECT_EQ(FormatClock(absl::Seconds(3723)), "1:02:03");
  EXPECT_EQ(FormatClock(-absl::Seconds(3)), "0:00");
}

TEST(Progress, ALineFitsTheTerminal) {
  for (const int columns : {1, 20, 40, 61, 62, 80, 200}) {
    for (const double done : {-1.0, 0.0, 0.42, 1.5}) {
      const std::string line = ProgressLine(done, "12345 documents  1000 tokens/s", absl::Seconds(100), columns);
      EXPECT_LE(line.size(), static_cast<size_t>(columns)) << line;
    }
  }
  EXPECT_EQ(ProgressLine(0.5, "6 documents", absl::Seconds(100), 0),
            "[############............]  50%  6 documents  1:40 left");
  EXPECT_EQ(ProgressLine(0.5, "6 documents", absl::Seconds(100), 40), " 50%  6 documents  1:40 left");
  EXPECT_EQ(ProgressLine(-1, "6 documents", absl::Seconds(100), 0), "6 documents  1:40");
}

}  // namespace
}  // namespace kvlink::cli
