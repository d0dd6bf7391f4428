// Points of one codec and order are one series, each named by its linker.
#include "worker/eval/plot.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/gnuplot.h"

namespace kvlink::eval {
namespace {

struct Measure {
  absl::string_view name;
  std::optional<Recovery> Cell::*recovery;
};
constexpr Measure kMeasures[] = {
    {"EM", &Cell::exact_recovery}, {"choice", &Cell::choice_recovery}, {"ROUGE-L", &Cell::rouge_l_recovery}};

std::string PointLine(const Cell& cell, const Recovery& recovery) {
  const Interval interval = recovery.interval.value_or(Interval{recovery.value, recovery.value});
  return absl::StrFormat("%.3f %.3f %.3f %.3f\n", 1000 * cell.first_token_seconds, 100 * recovery.value,
                         100 * interval.low, 100 * interval.high);
}

}  // namespace

absl::StatusOr<std::string> RecoveryPlot(absl::Span<const Cell> cells) {
  std::set<std::string> kinds, orders;
  for (const Cell& cell : cells) {
    kinds.insert(cell.kind);
    orders.insert(cell.order);
  }
  std::vector<const Cell*> shown;
  for (const Cell& cell : cells) {
    if (kinds.size() == 1 || cell.kind == kAllKinds) shown.push_back(&cell);
  }
  const auto measure = std::find_if(std::begin(kMeasures), std::end(kMeasures), [&](const Measure& one) {
    return std::any_of(shown.begin(), shown.end(), [&](const Cell* cell) { return (cell->*one.recovery).has_value(); });
  });
  if (measure == std::end(kMeasures)) {
    return absl::FailedPreconditionError(
        "nothing to plot: there is no recovery without concat and full, nor where full attention does not beat concat");
  }
  std::vector<std::pair<std::string, std::string>> series;  // name, points
  std::string labels;
  double shortest = std::numeric_limits<double>::infinity(), longest = 0;
  for (const Cell* cell : shown) {
    const std::optional<Recovery>& recovery = cell->*measure->recovery;
    if (!recovery) continue;
    const double milliseconds = 1000 * cell->first_token_seconds;
    shortest = std::min(shortest, milliseconds);
    longest = std::max(longest, milliseconds);
    const std::string name = orders.size() > 1 ? absl::StrCat(cell->codec, ", ", cell->order) : cell->codec;
    auto at = std::find_if(series.begin(), series.end(), [&](const auto& one) { return one.first == name; });
    if (at == series.end()) at = series.insert(at, {name, ""});
    absl::StrAppend(&at->second, PointLine(*cell, *recovery));
    // In the colour of the series, each series a line higher: points of several codecs often lie close together.
    const auto number = at - series.begin();
    absl::StrAppendFormat(&labels, "set label %s at %.3f,%.3f offset character 1,%.1f textcolor linetype %d\n",
                          cli::GnuplotString(cell->linker), milliseconds, 100 * recovery->value,
                          0.6 + 0.9 * static_cast<double>(number), number + 1);
  }
  // With room for the labels on the right.
  std::string script = absl::StrFormat(
      "set xlabel 'time to first token, ms (median)'\nset ylabel 'recovery of %s, %%'\nset logscale x 2\nset xrange "
      "[%.3f:%.3f]\nset offsets 0, 0, graph 0.1, graph 0.05\nset grid\nset key bottom right\n%s",
      measure->name, shortest / 1.5, longest * 2, labels);
  std::vector<std::string> curves;
  for (size_t i = 0; i < series.size(); ++i) {
    absl::StrAppend(&script, "$series", i, " << END\n", series[i].second, "END\n");
    curves.push_back(absl::StrCat("$series", i, " using 1:2:3:4 with yerrorbars linetype ", i + 1, " pointtype ",
                                  i % 10 + 4, " pointsize 1.5 title ", cli::GnuplotString(series[i].first)));
  }
  return absl::StrCat(script, "plot ", absl::StrJoin(curves, ", "), "\n");
}

}  // namespace kvlink::eval
