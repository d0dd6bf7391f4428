// Results as tables: one row for each kind of question, order, codec and linker; and, where questions were asked in
// several orders, how much each measure depends on them.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_EVAL_REPORT_H_
#define KVLINK_WORKER_EVAL_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/eval/metrics.h"
#include "worker/eval/results.h"

namespace kvlink::eval {

// The row over all kinds, if there are several.
inline constexpr absl::string_view kAllKinds = "all";

struct Cell {
  std::string kind;
  std::string order;
  std::string codec;
  std::string linker;
  int64_t questions = 0;
  // Over the questions that have expected answers or candidates.
  std::optional<Estimate> exact, f1, rouge_l, choice;
  Estimate divergence;
  std::optional<Estimate> cross_entropy;  // nats a token, over all expected tokens; exp of it is the perplexity
  // Over the questions that concat and full have answered as well. Absent for the control without documents, and as
  // RecoveryOf says.
  std::optional<Recovery> exact_recovery, choice_recovery, rouge_l_recovery;
  double first_token_seconds = 0;  // median
  double bytes_read = 0;           // mean
  double fresh_share = 0;          // fresh tokens of all prompts over tokens of all prompts
  // Document tokens that were computed, over all of them; absent if no result says how many these were.
  std::optional<double> recomputed_share;
  int64_t documents_encoded = 0;  // RequestStats::documents_encoded; the times include it
};

// Kinds, orders, codecs and linkers in the order of their first result. `seed`: of the bootstrap.
std::vector<Cell> Summarise(absl::Span<const Result> results, uint64_t seed);

// Over the questions that a linker has answered in each of its orders.
struct OrderRow {
  std::string kind;
  std::string codec;
  std::string linker;
  std::string measure;  // as a result names it (docs/formats.md "Results of eval")
  std::vector<std::string> orders;
  int64_t questions = 0;
  OrderEffect effect;
};

// Kinds, codecs, linkers and orders in the order of their first result; the control without documents has none. Empty
// if no question was asked in two orders.
std::vector<OrderRow> CompareOrders(absl::Span<const Result> results, uint64_t seed);

// Lines of a table, with shares in percent. Leaves out the columns that no cell has, and order and codec if there is
// only one. ROUGE-L is shown where there is no exact match.
std::string TableText(absl::Span<const Cell> cells);
// The same of the rows over all kinds, or of the only kind; empty without rows.
std::string OrderTableText(absl::Span<const OrderRow> rows);
// An object with the settings, the cells and the rows (docs/formats.md "Results of eval").
std::string ReportJson(const Settings& settings, absl::Span<const Cell> cells, absl::Span<const OrderRow> rows);

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_REPORT_H_
