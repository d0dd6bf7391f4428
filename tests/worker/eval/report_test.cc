// Cells against values computed by hand.
#include "worker/eval/report.h"

#include <cmath>
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
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

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
  if (linker != "head-8") {
    result.document_tokens = linker == kClosedBook ? 0 : 80;
    result.recomputed_tokens = linker == "full" ? 80 : linker == kClosedBook ? 0 : 5;
  }
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

// Of 124 tokens 80 are of the documents, 24 of wrappers, and 20 around them, which a second stage computes again.
TEST(Report, OnlyTokensOfDocumentsAreComputedAgain) {
  std::vector<Result> results;
  for (const char* linker : {"packet+head-8", "packet+prophet-5"}) {
    Result& result = results.emplace_back(Of("lookup", 0, linker, 1, 0.1));
    result.prompt_tokens = 124;
    result.fresh_tokens = result.linker == "packet+head-8" ? 36 : 56;
    result.recomputed_tokens = 16;
  }
  for (const Cell& cell : Summarise(results, 1)) EXPECT_DOUBLE_EQ(*cell.recomputed_share, 16.0 / 80) << cell.linker;
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

// Two texts, of 30 tokens and of 10, and one of an older build.
TEST(Report, PerplexityIsOverAllExpectedTokens) {
  std::vector<Result> results;
  for (int i = 0; i < 3; ++i) {
    Result& result = results.emplace_back(Of("text", i, "concat", 0, 0.1));
    result.exact = result.f1 = std::nullopt;
    if (i == 2) break;
    result.cross_entropy = i == 0 ? 1 : 3;
    result.expected_tokens = i == 0 ? 30 : 10;
  }
  const std::vector<Cell> cells = Summarise(results, 1);
  ASSERT_EQ(cells.size(), 1u);
  ASSERT_TRUE(cells[0].cross_entropy.has_value());
  EXPECT_DOUBLE_EQ(cells[0].cross_entropy->mean, 1.5);
  // exp(1.5), and of the intervals exp(1) and exp(3).
  EXPECT_THAT(TableText(cells), AllOf(HasSubstr("perplexity"), HasSubstr("4.48"), HasSubstr("2.72..20.09")));
  const auto json = nlohmann::json::parse(ReportJson({}, cells, {}), nullptr, false);
  EXPECT_EQ(json["cells"][0]["cross_entropy"]["mean"], 1.5);
  EXPECT_THAT(TableText(Summarise(Sample(), 1)), Not(HasSubstr("perplexity")));
  results[0].expected_tokens = results[1].expected_tokens = 0;
  EXPECT_FALSE(Summarise(results, 1)[0].cross_entropy.has_value()) << "there is nothing to divide by";
}

// Three questions in three orders, the last question not in the last one; full attention in one order.
std::vector<Result> InOrders() {
  std::vector<Result> results;
  const auto add = [&](const std::string& order, const std::string& linker, const std::vector<double>& exact) {
    for (size_t i = 0; i < exact.size(); ++i) {
      results.push_back(Of("lookup", static_cast<int>(i), linker, exact[i], 0.1));
      results.back().order = order;
      results.back().rouge_l = exact[i];
    }
  };
  add("first", "full", {1, 1, 1});
  add("first", "concat", {1, 1, 1});
  add("middle", "concat", {0, 1, 0});
  add("last", "concat", {1, 1});
  for (const char* order : {"first", "middle", "last"}) add(order, std::string(kClosedBook), {0, 0, 0});
  return results;
}

TEST(Report, OrdersAreComparedOverTheSameQuestions) {
  const std::vector<OrderRow> rows = CompareOrders(InOrders(), 1);
  ASSERT_EQ(rows.size(), 4u) << "of concat alone";
  const OrderRow &exact = rows[0], &divergence = rows[3];
  EXPECT_EQ(exact.linker, "concat");
  EXPECT_EQ(exact.measure, "exact");
  EXPECT_EQ(exact.questions, 2);
  EXPECT_THAT(exact.orders, ElementsAre("first", "middle", "last"));
  EXPECT_THAT(exact.effect.means, ElementsAre(1, 0.5, 1));
  EXPECT_EQ(exact.effect.difference.mean, 0.5);
  EXPECT_DOUBLE_EQ(exact.effect.deviation.mean, std::sqrt(2.0 / 9) / 2);
  EXPECT_EQ(rows[1].measure, "f1");
  EXPECT_EQ(rows[1].effect.difference.mean, 0.25);
  EXPECT_EQ(divergence.measure, "divergence");
  EXPECT_THAT(divergence.effect.means, ElementsAre(0, 0.5, 0));
  EXPECT_TRUE(CompareOrders(Sample(), 1).empty()) << "in one order";
}

TEST(Report, TheTableOfOrdersHasAColumnForEach) {
  const std::vector<std::string> lines =
      absl::StrSplit(OrderTableText(CompareOrders(InOrders(), 1)), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 4u) << "no ROUGE-L where there is EM";
  for (const std::string& line : lines) EXPECT_EQ(line.size(), lines[0].size());
  EXPECT_THAT(lines[0], MatchesRegex("linker +measure +n +first +middle +last +difference +95% +deviation +95%"));
  EXPECT_THAT(lines[1], MatchesRegex("concat +EM +2 +100.0 +50.0 +100.0 +50.0 +0.0..100.0 +23.6 +0.0..47.1"));
  EXPECT_THAT(lines[3], MatchesRegex("concat +KL +2 +0.000 +0.500 +0.000 +0.500 +0.000..1.000 +0.236 .*"));
  std::vector<Result> results = InOrders();
  for (Result result : InOrders()) {
    result.codec = "q4";
    results.push_back(result);
    result.codec = "q8";
    result.kind = "chain";
    result.item += " of chain";
    results.push_back(result);
  }
  EXPECT_THAT(
      OrderTableText(CompareOrders(results, 1)),
      AllOf(StartsWith("codec  linker"), ContainsRegex("\nq8 +concat +EM +4 "), ContainsRegex("\nq4 +concat +EM +2 ")))
      << "over both kinds";
  EXPECT_EQ(OrderTableText({}), "");
}

TEST(Report, JsonHoldsTheSame) {
  const std::vector<Cell> cells = Summarise(Sample(), 1);
  const auto json =
      nlohmann::json::parse(ReportJson({{"seed", "1"}}, cells, CompareOrders(InOrders(), 1)), nullptr, false);
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
  ASSERT_EQ(json["orders"].size(), 4u);
  EXPECT_EQ(json["orders"][0]["measure"], "exact");
  EXPECT_EQ(json["orders"][0]["questions"], 2);
  EXPECT_EQ(json["orders"][0]["means"], (nlohmann::json{{"first", 1.0}, {"middle", 0.5}, {"last", 1.0}}));
  EXPECT_EQ(json["orders"][0]["difference"]["mean"], 0.5);
  EXPECT_EQ(json["orders"][0]["deviation"]["interval"].size(), 2u);
}

}  // namespace
}  // namespace kvlink::eval
