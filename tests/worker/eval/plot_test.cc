// The script that draws a table, and what gnuplot makes of it where it is installed.
#include "worker/eval/plot.h"

#include <filesystem>
#include <string>
#include <vector>

#include "base/cli/gnuplot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Cell Point(const std::string& kind, const std::string& codec, const std::string& linker, double seconds, double value) {
  Cell cell;
  cell.kind = kind;
  cell.order = "generated";
  cell.codec = codec;
  cell.linker = linker;
  cell.first_token_seconds = seconds;
  cell.choice_recovery = Recovery{value, std::nullopt};
  return cell;
}

TEST(Plot, ShowsEachLinkerAndCodecOnce) {
  std::vector<Cell> cells = {Point("lookup", "q8", "concat", 0.7, 0.3), Point("all", "q8", "concat", 0.01, 0),
                             Point("all", "q8", "it's", 0.0125, 0.5), Point("all", "q4", "links", 0.02, 0.75),
                             Point("all", "q4", "closed-book", 0.005, 0)};
  cells[3].choice_recovery->interval = Interval{0.5, 0.9};
  cells[4].choice_recovery.reset();
  const auto script = RecoveryPlot(cells);
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_THAT(*script, AllOf(HasSubstr("recovery of choice"),
                             HasSubstr("$series0 << END\n10.000 0.000 0.000 0.000\n"
                                       "12.500 50.000 50.000 50.000\nEND\n"),
                             HasSubstr("20.000 75.000 50.000 90.000\n"),
                             HasSubstr("set label 'it''s' at 12.500,50.000"), HasSubstr("title 'q8'"),
                             HasSubstr("title 'q4'"), Not(HasSubstr("closed-book")), Not(HasSubstr("700.0"))));
  cells[1].exact_recovery = cells[1].choice_recovery;
  EXPECT_THAT(*RecoveryPlot(cells), HasSubstr("recovery of EM"));
  if (!cli::FindGnuplot().ok()) GTEST_SKIP() << cli::FindGnuplot();
  const testing::ScratchDirectory directory;
  const absl::Status drawn = cli::DrawPng(*script, 640, 480, directory.path() + "/plot.png");
  EXPECT_TRUE(drawn.ok()) << drawn;
  EXPECT_GT(std::filesystem::file_size(directory.path() + "/plot.png"), 1000u);
}

TEST(Plot, ShowsQualityByOrder) {
  std::vector<Cell> cells;
  for (const char* order : {"first", "last"}) {
    for (const char* linker : {"concat", "closed-book"}) {
      cells.push_back(Point("lookup", "q8", linker, 0.7, 0.3));
      cells.back().order = order;
      cells.back().choice = Estimate{cells.size() / 8.0, {0.1, 0.75}};
    }
  }
  const auto script = OrderPlot(cells);
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_THAT(*script, AllOf(HasSubstr("set ylabel 'choice, %'"), HasSubstr("set xtics ('first' 0, 'last' 1)"),
                             HasSubstr("$series0 << END\n0.000 12.500 10.000 75.000\n1.000 37.500 10.000 75.000\nEND"),
                             HasSubstr("0.020 25.000"), HasSubstr("title 'concat'"), HasSubstr("title 'closed-book'")));
  EXPECT_EQ(OrderPlot(absl::MakeSpan(cells).first(2)).status().code(), absl::StatusCode::kFailedPrecondition);
  if (!cli::FindGnuplot().ok()) GTEST_SKIP() << cli::FindGnuplot();
  const testing::ScratchDirectory directory;
  const absl::Status drawn = cli::DrawPng(*script, 640, 480, directory.path() + "/plot.png");
  EXPECT_TRUE(drawn.ok()) << drawn;
}

TEST(Plot, NeedsARecovery) {
  EXPECT_EQ(RecoveryPlot({}).status().code(), absl::StatusCode::kFailedPrecondition);
  Cell cell = Point("lookup", "q8", "concat", 1, 0);
  cell.choice_recovery.reset();
  EXPECT_THAT(std::string(RecoveryPlot({cell}).status().message()), HasSubstr("nothing to plot"));
}

}  // namespace
}  // namespace kvlink::eval
