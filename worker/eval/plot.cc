// Of recovery, points of one codec and order are one series, each named by its linker; by order, points of one linker
// and codec.
#include "worker/eval/plot.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/gnuplot.h"

namespace kvlink::eval {
namespace {

struct Plotted {
  absl::string_view name;
  std::optional<Estimate> Cell::*score;
  std::optional<Recovery> Cell::*recovery;
};
constexpr Plotted kPlotted[] = {{"EM", &Cell::exact, &Cell::exact_recovery},
                                {"choice", &Cell::choice, &Cell::choice_recovery},
                                {"ROUGE-L", &Cell::rouge_l, &Cell::rouge_l_recovery}};

// The cells over all kinds, or of the only kind.
std::vector<const Cell*> Shown(absl::Span<const Cell> cells) {
  std::set<std::string> kinds;
  for (const Cell& cell : cells) kinds.insert(cell.kind);
  std::vector<const Cell*> shown;
  for (const Cell& cell : cells) {
    if (kinds.size() == 1 || cell.kind == kAllKinds) shown.push_back(&cell);
  }
  return shown;
}

// The first measure of which a cell has what `member` points to; nullptr if there is none.
template <typename Member>
const Plotted* MeasureOf(const std::vector<const Cell*>& cells, Member member) {
  const auto* const measure = std::find_if(std::begin(kPlotted), std::end(kPlotted), [&](const Plotted& one) {
    return std::any_of(cells.begin(), cells.end(),
                       [&](const Cell* cell) { return (cell->*(one.*member)).has_value(); });
  });
  return measure == std::end(kPlotted) ? nullptr : measure;
}

std::string PointLine(double x, double value, const Interval& interval) {
  return absl::StrFormat("%.3f %.3f %.3f %.3f\n", x, 100 * value, 100 * interval.low, 100 * interval.high);
}

// Points by name, and the commands that draw them with their intervals.
class Series {
 public:
  // The number of the series, from 0.
  size_t Find(const std::string& name) {
    const auto at = std::find(names_.begin(), names_.end(), name);
    if (at != names_.end()) return static_cast<size_t>(at - names_.begin());
    names_.push_back(name);
    points_.emplace_back();
    return names_.size() - 1;
  }
  void Add(size_t number, const std::string& point) { points_[number] += point; }
  std::string Commands(absl::string_view style) const {
    std::string data;
    std::vector<std::string> curves;
    for (size_t i = 0; i < names_.size(); ++i) {
      absl::StrAppend(&data, "$series", i, " << END\n", points_[i], "END\n");
      curves.push_back(absl::StrCat("$series", i, " using 1:2:3:4 with ", style, " linetype ", i + 1, " pointtype ",
                                    i % 10 + 4, " pointsize 1.5 title ", cli::GnuplotString(names_[i])));
    }
    return absl::StrCat(data, "plot ", absl::StrJoin(curves, ", "), "\n");
  }

 private:
  std::vector<std::string> names_, points_;
};

}  // namespace

absl::StatusOr<std::string> RecoveryPlot(absl::Span<const Cell> cells) {
  std::set<std::string> orders;
  for (const Cell& cell : cells) orders.insert(cell.order);
  const std::vector<const Cell*> shown = Shown(cells);
  const Plotted* const measure = MeasureOf(shown, &Plotted::recovery);
  if (measure == nullptr) {
    return absl::FailedPreconditionError(
        "nothing to plot: there is no recovery without concat and full, nor where full attention does not beat concat");
  }
  Series series;
  std::string labels;
  double shortest = std::numeric_limits<double>::infinity(), longest = 0;
  for (const Cell* cell : shown) {
    const std::optional<Recovery>& recovery = cell->*measure->recovery;
    if (!recovery) continue;
    const double milliseconds = 1000 * cell->first_token_seconds;
    shortest = std::min(shortest, milliseconds);
    longest = std::max(longest, milliseconds);
    const size_t number = series.Find(orders.size() > 1 ? absl::StrCat(cell->codec, ", ", cell->order) : cell->codec);
    series.Add(number, PointLine(milliseconds, recovery->value,
                                 recovery->interval.value_or(Interval{recovery->value, recovery->value})));
    // In the colour of the series, each series a line higher: points of several codecs often lie close together.
    absl::StrAppendFormat(&labels, "set label %s at %.3f,%.3f offset character 1,%.1f textcolor linetype %d\n",
                          cli::GnuplotString(cell->linker), milliseconds, 100 * recovery->value,
                          0.6 + 0.9 * static_cast<double>(number), number + 1);
  }
  // With room for the labels on the right.
  const std::string script = absl::StrFormat(
      "set xlabel 'time to first token, ms (median)'\nset ylabel 'recovery of %s, %%'\nset logscale x 2\nset xrange "
      "[%.3f:%.3f]\nset offsets 0, 0, graph 0.1, graph 0.05\nset grid\nset key bottom right\n%s",
      measure->name, shortest / 1.5, longest * 2, labels);
  return script + series.Commands("yerrorbars");
}

absl::StatusOr<std::string> OrderPlot(absl::Span<const Cell> cells) {
  const std::vector<const Cell*> shown = Shown(cells);
  const Plotted* const measure = MeasureOf(shown, &Plotted::score);
  std::vector<std::string> orders;
  std::set<std::string> codecs;
  for (const Cell* cell : shown) {
    if (std::find(orders.begin(), orders.end(), cell->order) == orders.end()) orders.push_back(cell->order);
    codecs.insert(cell->codec);
  }
  if (measure == nullptr || orders.size() < 2) {
    return absl::FailedPreconditionError(
        "nothing to plot: there are no expected answers, or documents stood in one order; name several in --order");
  }
  Series series;
  for (const Cell* cell : shown) {
    const std::optional<Estimate>& score = cell->*measure->score;
    if (!score) continue;
    const size_t number = series.Find(codecs.size() > 1 ? absl::StrCat(cell->linker, ", ", cell->codec) : cell->linker);
    // Side by side, so that intervals do not hide each other.
    const double x = static_cast<double>(std::find(orders.begin(), orders.end(), cell->order) - orders.begin()) +
                     0.02 * static_cast<double>(number);
    series.Add(number, PointLine(x, score->mean, score->interval));
  }
  std::vector<std::string> ticks;
  for (const std::string& order : orders) {
    ticks.push_back(absl::StrCat(cli::GnuplotString(order), " ", ticks.size()));
  }
  const std::string script = absl::StrFormat(
      "set xlabel 'order of the documents'\nset ylabel '%s, %%'\nset xtics (%s)\nset xrange [-0.5:%.1f]\nset offsets "
      "0, 0, graph 0.1, graph 0.05\nset grid\nset key outside right\n",
      measure->name, absl::StrJoin(ticks, ", "), static_cast<double>(orders.size()) - 0.5);
  return script + series.Commands("yerrorlines");
}

}  // namespace kvlink::eval
