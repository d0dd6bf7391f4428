// Completions in a real shell, and manual pages through a real formatter, of the commands as they are.
#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/integration/cli_workplace.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

class CliHelpTest : public CliTest {
 protected:
  static bool Installed(const std::string& program) {
    return RunToEnd({"/bin/sh", "-c", absl::StrCat("command -v ", program)}).status == 0;
  }
  // What bash offers for the last of the words. The words are split as bash splits a line: at = and : as well.
  std::vector<std::string> Complete(const std::vector<std::string>& words) const {
    std::vector<std::string> quoted;
    for (const std::string& word : words) quoted.push_back(absl::StrCat("'", word, "'"));
    const Finished finished = RunToEnd(
        {"/bin/bash", "-c",
         absl::StrCat("cd '", root_.string(), "' && source <('", KVLINK_BINARY, "' completions bash) && COMP_WORDS=(",
                      absl::StrJoin(quoted, " "), ") COMP_CWORD=", words.size() - 1,
                      " && _kvlink && printf '%s\\n' \"${COMPREPLY[@]}\"")});
    EXPECT_EQ(finished.status, 0) << finished.errors;
    EXPECT_EQ(finished.errors, "");
    return absl::StrSplit(finished.output, '\n', absl::SkipEmpty());
  }
};

TEST_F(CliHelpTest, BashCompletesCommandsOptionsValuesAndFiles) {
  Write("docs/a b.txt", "A text.");
  Write("data.jsonl", "{}");
  EXPECT_THAT(Complete({"kvlink", "in"}), ElementsAre("ingest", "inspect"));
  EXPECT_THAT(Complete({"kvlink", ""}), IsSupersetOf({"ask", "doctor", "completions", "man"}));
  EXPECT_THAT(Complete({"kvlink", "ask", "--co"}), ElementsAre("--codec", "--compute", "--compare"));
  EXPECT_THAT(Complete({"kvlink", "ask", "--codec", "q"}), ElementsAre("q8", "q4"));
  EXPECT_THAT(Complete({"kvlink", "ask", "--codec", "=", "q"}), ElementsAre("q8", "q4"));
  EXPECT_THAT(Complete({"kvlink", "ask", "--codec", "="}), Contains("raw-f32"));
  EXPECT_THAT(Complete({"kvlink", "ask", "--question", ""}), ElementsAre());
  EXPECT_THAT(Complete({"kvlink", "ingest", "d"}), AllOf(Contains("docs"), Contains("data.jsonl")));
  EXPECT_THAT(Complete({"kvlink", "ingest", "docs/a"}), ElementsAre("docs/a b.txt"));
  EXPECT_THAT(Complete({"kvlink", "ingest", "--quiet", "da"}), ElementsAre("data.jsonl"));
  EXPECT_THAT(Complete({"kvlink", "ingest", "--model", "da"}), ElementsAre("data.jsonl"));
  EXPECT_THAT(Complete({"kvlink", "eval", "--data", "needle", ":", "da"}), ElementsAre("data.jsonl"));
  EXPECT_THAT(Complete({"kvlink", "inspect", "doc"}), AllOf(Contains("documents"), Contains("document")));
  EXPECT_THAT(Complete({"kvlink", "members", ""}), IsSupersetOf({"list", "weight", "zone", "remove"}));
  EXPECT_THAT(Complete({"kvlink", "completions", ""}), ElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(Complete({"kvlink", "man", "dr"}), ElementsAre("drain"));
  EXPECT_THAT(Complete({"kvlink", "store", "--data", "n"}), ElementsAre("none"));
}

// Whatever --help lists is completed.
TEST_F(CliHelpTest, NoCommandAndNoOptionIsMissing) {
  for (const std::string& command : Complete({"kvlink", ""})) {
    const Finished help = RunToEnd({KVLINK_BINARY, command, "--help"});
    ASSERT_EQ(help.status, 0) << command;
    std::set<std::string> listed;
    for (const absl::string_view line : absl::StrSplit(help.output.substr(help.output.find("Options:")), '\n')) {
      if (line.substr(0, 4) != "  --") continue;
      listed.emplace(line.substr(2, line.find(' ', 2) - 2));
    }
    std::set<std::string> offered;
    for (const std::string& option : Complete({"kvlink", command, "--"})) offered.insert(option);
    EXPECT_EQ(offered.erase("--help"), 1u) << command;
    EXPECT_EQ(offered, listed) << command;
  }
}

TEST_F(CliHelpTest, OtherShellsTakeTheirScripts) {
  for (const auto& [shell, check] :
       {std::pair<std::string, std::string>("zsh", "zsh -n"), {"fish", "fish --no-execute"}}) {
    const Finished script = RunToEnd({KVLINK_BINARY, "completions", shell});
    EXPECT_EQ(script.status, 0) << script.errors;
    EXPECT_THAT(script.output, AllOf(HasSubstr("raw-bf16 raw-f32 q8 q4"), HasSubstr("doctor")));
    if (!Installed(shell)) continue;  // Debian's zsh and fish
    const Finished checked = RunToEnd({"/bin/sh", "-c", absl::StrCat(check, " ", Write("script", script.output))});
    EXPECT_EQ(checked.status, 0) << checked.errors;
    EXPECT_EQ(checked.errors, "");
  }
  ExpectRefused(RunToEnd({KVLINK_BINARY, "completions", "csh"}), "completions", {"bash, zsh or fish"});
}

TEST_F(CliHelpTest, ManualPagesAreFormattedWithoutWarnings) {
  const SubprocessOptions set = {.environment = {"KVLINK_STORE=/mine/store", "KVLINK_MODEL=/mine/model"}};
  const std::string pages = Path("man1");
  ASSERT_EQ(RunToEnd({KVLINK_BINARY, "man", "--directory", pages}, set).status, 0);
  const Finished one = RunToEnd({KVLINK_BINARY, "man", "ask"}, set);
  EXPECT_EQ(one.status, 0) << one.errors;
  EXPECT_THAT(one.output, AllOf(HasSubstr(".SH OPTIONS"), HasSubstr("\\fB\\-\\-doc\\fR \\fIID\\fR")));
  EXPECT_THAT(one.output, AllOf(HasSubstr("\\(ti/.local/share/kvlink"), Not(HasSubstr("/mine"))))
      << "a page is of no user";
  EXPECT_TRUE(fs::exists(pages + "/kvlink.1") && fs::exists(pages + "/kvlink-man.1"));
  ExpectRefused(RunToEnd({KVLINK_BINARY, "man", "aks"}), "man", {"'aks'", "lists the commands"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "man", "--directory", Write("file", "") + "/x"}), "man", {"--directory"});
  if (!Installed("groff")) GTEST_SKIP() << "no groff here: the pages are not formatted";
  int formatted = 0;
  for (const auto& page : fs::directory_iterator(pages)) {
    const Finished text =
        RunToEnd({"/bin/sh", "-c", absl::StrCat("groff -man -ww -Tascii '", page.path().string(), "'")});
    EXPECT_EQ(text.status, 0) << page.path();
    EXPECT_EQ(text.errors, "") << page.path();
    EXPECT_THAT(text.output, HasSubstr("everything was done")) << page.path();
    ++formatted;
  }
  EXPECT_GT(formatted, 15);
}

}  // namespace
}  // namespace kvlink::testing
