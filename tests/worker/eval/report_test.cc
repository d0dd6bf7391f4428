// Cells against values computed by hand.
#include "worker/eval/report.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace kvlink::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Result Of(const std::string& kind, int item, const std::string& linker, double exact, double seconds) {
  Result result;
  result.item = absl::StrCat(kind, "-", item);
  result.kind = kind;
  result.linker = linker;
  result.order = "generated";
  result.codec = "q8";
  result.exact = exact;
  result.f1 = exact / 2;
  result.divergence = 1 - exact;
  result.first_token_seconds = seconds;
  result.bytes_read = linker == "full" ? 0 : 2 << 20;
  result.prompt_tokens = 100;
  result.fresh_tokens = linker == "full" ? 100 : 25;
  if (linker != "head-8") result.document_tokens = linker == kClosedBook ? 0 : 80;
  return result;
}

const Cell& Find(const std::vector<Cell>& cells, const std::string& kind, const std::string& linker) {
  for (const Cell& cell : cells) {
    if (cell.kind == kind && cell.linker == linker) return cell;
  }
  ADD_FAILURE() << kind << " " << linker;
  return cells.front();
}

std::vector<Result> Sample() {
  std::vector<Result> results;
  for (int i = 0; i < 4; ++i) {
    results.push_back(Of("lookup", i, "full", 1, 0.4));
    results.push_back(Of("lookup", i, "concat", i == 0, 0.1 * (i + 1)));
    // Has answered only three, of which it gets the one that concat gets and one more.
    if (i < 3) results.push_back(Of("lookup", i, "head-8", i < 2, 0.2));
    results.push_back(Of("lookup", i, std::string(kClosedBook), 0, 0.05));
    results.push_back(Of("chain", i, "full", 0, 0.4));
    results.push_back(Of("chain", i, "concat", 0, 0.1));
  }
  return results;
}

TEST(Report, CellsAreOfOneKindAndLinker) {
  const std::vector<Cell> cells = Summarise(Sample(), 1);
  ASSERT_EQ(cells.size(), 4u + 2u + 4u);
  const Cell& concat = Find(cells, "lookup", "concat");
  EXPECT_EQ(concat.questions, 4);
  EXPECT_DOUBLE_EQ(concat.exact->mean, 0.25);
  EXPECT_DOUBLE_EQ(concat.f1->mean, 0.125);
  EXPECT_DOUBLE_EQ(concat.divergence.mean, 0.75);
  EXPECT_DOUBLE_EQ(concat.first_token_seconds, 0.25) << "the median";
  EXPECT_DOUBLE_EQ(concat.bytes_read, 2 << 20);
  EXPECT_DOUBLE_EQ(concat.fresh_share, 0.25);
  EXPECT_DOUBLE_EQ(*concat.recomputed_share, 5.0 / 80);
  EXPECT_DOUBLE_EQ(*Find(cells, "lookup", "full").recomputed_share, 1);
  EXPECT_FALSE(Find(cells, "lookup", std::string(kClosedBook)).recomputed_share.has_value());
  EXPECT_FALSE(Find(cells, "lookup", "head-8").recomputed_share.has_value()) << "results of an older build";
  EXPECT_FALSE(concat.choice.has_value());
  EXPECT_DOUBLE_EQ(concat.exact_recovery->value, 0);
  EXPECT_DOUBLE_EQ(Find(cells, "lookup", "full").exact_recovery->value, 1);
  // Of three questions: (2/3 - 1/3) / (1 - 1/3).
  EXPECT_DOUBLE_EQ(Find(cells, "lookup", "head-8").exact_recovery->value, 0.5);
  EXPECT_FALSE(Find(cells, "lookup", std::string(kClosedBook)).exact_recovery.has_value());
  EXPECT_FALSE(Find(cells, "chain", "concat").exact_recovery.has_value()) << "full does not beat it";
  EXPECT_EQ(Find(cells, "all", "concat").questions, 8);
  EXPECT_DOUBLE_EQ(Find(cells, "all", "concat").exact->mean, 0.125);
}

TEST(Report, TheTableHasTheColumnsThatSayAnything) {
  const std::string table = TableText(Summarise(Sample(), 1));
  const std::vector<std::string> lines = absl::StrSplit(table, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 11u);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("EM"), HasSubstr("95%"), Not(HasSubstr("choice")), Not(HasSubstr("codec"))));
  for (const std::string& line : lines) EXPECT_EQ(line.size(), lines[0].size()) << table;
  EXPECT_THAT(lines[2], AllOf(HasSubstr("lookup  concat"), HasSubstr("25.0"), HasSubstr("250 ms"), HasSubstr("2.0 MiB"),
                              HasSubstr(" 6.2")));
  EXPECT_THAT(lines[0], HasSubstr("recomputed"));
  std::vector<Result> more = Sample();
  more.push_back(more[0]);
  more.back().codec = "q4";
  EXPECT_THAT(TableText(Summarise(more, 1)), HasSubstr("codec"));
}

TEST(Report, SummariesAreShownByRouge) {
  std::vector<Result> results;
  for (const auto& [linker, rouge] : {std::pair("concat", 0.1), std::pair("links", 0.25), std::pair("full", 0.3)}) {
    results.push_back(Of("xsum", 0, linker, 0, 0.1));
    results.back().exact = results.back().f1 = std::nullopt;
    results.back().rouge_l = rouge;
  }
  const std::vector<Cell> cells = Summarise(results, 1);
  EXPECT_DOUBLE_EQ(Find(cells, "xsum", "links").rouge_l_recovery->value, 0.75);
  const std::string table = TableText(cells);
  EXPECT_THAT(table, AllOf(HasSubstr("ROUGE-L"), HasSubstr("75.0"), Not(HasSubstr("EM"))));
  EXPECT_THAT(TableText(Summarise(Sample(), 1)), Not(HasSubstr("ROUGE-L")));
}

TEST(Report, JsonHoldsTheSame) {
  const std::vector<Cell> cells = Summarise(Sample(), 1);
  const auto json = nlohmann::json::parse(ReportJson({{"seed", "1"}}, cells), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["settings"]["seed"], "1");
  ASSERT_EQ(json["cells"].size(), cells.size());
  EXPECT_EQ(json["cells"][1]["linker"], "concat");
  EXPECT_EQ(json["cells"][1]["exact"]["mean"], 0.25);
  EXPECT_EQ(json["cells"][1]["exact"]["interval"].size(), 2u);
  EXPECT_EQ(json["cells"][1]["exact_recovery"]["value"], 0);
  EXPECT_EQ(json["cells"][1]["codec"], "q8");
  EXPECT_EQ(json["cells"][1]["first_token_seconds"], 0.25);
  EXPECT_EQ(json["cells"][1]["bytes_read"], 2 << 20);
  EXPECT_EQ(json["cells"][1]["recomputed_share"], 5.0 / 80);
  EXPECT_FALSE(json["cells"][1].contains("choice"));
}

}  // namespace
}  // namespace kvlink::eval
