// What completions and manual pages make of placeholders and texts. tests/integration runs them in a shell.
#include "base/cli/help/completions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/cli/help/manual.h"

namespace kvlink::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ProgramHelp Help() {
  CommandHelp ask{"[list | weight NODE N | check [FILE]]",
                  "Says it's .so:\n\n  kvlink ask \\ here\n\n.dots and 'quotes' begin lines.",
                  {{"codec", "raw-bf16|q8", "How; see [docs].", "q8"},
                   {"data", "NAME:FILE", "What isn't text. More.", "", true},
                   {"socket", "PATH|none", "Where."},
                   {"question", "TEXT", "Which."},
                   {"quiet", "", "Print nothing."}},
                  ""};
  return {"kvlink-x", "Does things:\n\n  kvlink-x ask\n\n", "KVLINK_X sets x.\n", {{"ask", "ask a question", ask}}};
}

TEST(Completions, PlaceholdersSayWhatFollows) {
  const std::string bash = BashCompletions(Help());
  EXPECT_THAT(
      bash,
      AllOf(HasSubstr("'ask --codec') words='raw-bf16 q8' ;;"), HasSubstr("'ask --data') words='' files=1 ;;"),
            HasSubstr("'ask --socket') words='none' files=1 ;;"), HasSubstr("'ask --question') words='' ;;"),
            Not(HasSubstr("'ask --quiet'))")), HasSubstr("words='--codec --data --socket --question --quiet --help'"),
            HasSubstr("words='list weight check'; files=1"), HasSubstr("complete -F _kvlink_x kvlink-x\n")));
}

TEST(Completions, TextsStayWithinTheirQuotes) {
  EXPECT_THAT(
      ZshCompletions(Help()),
      AllOf(HasSubstr("'--codec=[How]:raw-bf16|q8:(raw-bf16 q8)'"),
            HasSubstr("'*--data=[What isn'\\''t text]:NAME\\:FILE:_files'"), HasSubstr("'--quiet[Print nothing]'"),
            HasSubstr("'1: :(list weight check)'"), HasSubstr("compdef _kvlink_x kvlink-x")));
  EXPECT_THAT(FishCompletions(Help()),
              AllOf(HasSubstr("-l data -r -F -d 'What isn\\'t text'"), HasSubstr("-l codec -x -a 'raw-bf16 q8'"),
                    HasSubstr("-n '__kvlink_x_at ask 2' -a 'list weight check'")));
}

TEST(Manual, RoffFindsNothingOfItsOwn) {
  const Page page = CommandPage(Help(), Help().commands[0]);
  EXPECT_EQ(page.name, "kvlink-x-ask");
  EXPECT_THAT(page.text,
              AllOf(HasSubstr(".TH \"KVLINK-X-ASK\" \"1\""), HasSubstr("kvlink\\-x\\-ask \\- ask a question"),
                    HasSubstr("Says it\\(aqs .so:"), HasSubstr(".nf\nkvlink ask \\e here\n.fi"),
                    HasSubstr("\n\\&.dots and \\(aqquotes\\(aq begin lines."),
                    HasSubstr(".TP\n\\fB\\-\\-codec\\fR \\fIraw\\-bf16|q8\\fR\nHow; see [docs]. (default q8)")));
  const Page whole = ProgramPage(Help());
  EXPECT_THAT(whole.text,
              AllOf(HasSubstr("kvlink\\-x \\- does things\n"), HasSubstr("ask a question; see kvlink\\-x\\-ask(1)"),
                    HasSubstr(".SH EXIT STATUS"), HasSubstr("KVLINK_X sets x.")));
}

}  // namespace
}  // namespace kvlink::cli
