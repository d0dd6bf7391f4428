// Cells of equal kind, order and codec are compared question by question, so that a linker that has answered fewer is
// compared over those alone.
#include "worker/eval/report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/table.h"
#include "nlohmann/json.hpp"

namespace kvlink::eval {
namespace {

using Json = nlohmann::ordered_json;
using Group = std::vector<const Result*>;
using Score = std::optional<double> Result::*;

std::optional<Estimate> EstimateOf(const Group& group, Score score, uint64_t seed) {
  std::vector<double> values;
  for (const Result* result : group) {
    if (result->*score) values.push_back(*(result->*score));
  }
  return MeanOf(values, seed);
}

std::optional<Estimate> CrossEntropyOf(const Group& group, uint64_t seed) {
  std::vector<double> values, tokens;
  for (const Result* result : group) {
    if (!result->cross_entropy || result->expected_tokens.value_or(0) == 0) continue;
    values.push_back(*result->cross_entropy);
    tokens.push_back(static_cast<double>(*result->expected_tokens));
  }
  return MeanOf(values, tokens, seed);
}

// `score`: a Score, or a function of a result.
template <typename T>
std::map<std::string, double> ByItem(const Group& group, T score) {
  std::map<std::string, double> values;
  for (const Result* result : group) {
    if (const std::optional<double> value = std::invoke(score, *result)) values[result->item] = *value;
  }
  return values;
}

std::optional<Recovery> RecoveryIn(const Group& group, const Group& concat, const Group& full, Score score,
                                   uint64_t seed) {
  const auto concat_by_item = ByItem(concat, score), full_by_item = ByItem(full, score);
  std::vector<double> values, concat_values, full_values;
  for (const auto& [item, value] : ByItem(group, score)) {
    const auto of_concat = concat_by_item.find(item), of_full = full_by_item.find(item);
    if (of_concat == concat_by_item.end() || of_full == full_by_item.end()) continue;
    values.push_back(value);
    concat_values.push_back(of_concat->second);
    full_values.push_back(of_full->second);
  }
  return RecoveryOf(values, concat_values, full_values, seed);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Cell CellOf(const Group& group, uint64_t seed) {
  Cell cell;
  cell.linker = group[0]->linker;
  cell.questions = static_cast<int64_t>(group.size());
  cell.exact = EstimateOf(group, &Result::exact, seed);
  cell.f1 = EstimateOf(group, &Result::f1, seed);
  cell.rouge_l = EstimateOf(group, &Result::rouge_l, seed);
  cell.choice = EstimateOf(group, &Result::choice, seed);
  std::vector<double> divergences, times;
  double bytes = 0, prompt = 0, fresh = 0, documents = 0, recomputed = 0;
  for (const Result* result : group) {
    divergences.push_back(result->divergence);
    times.push_back(result->first_token_seconds);
    bytes += static_cast<double>(result->bytes_read);
    prompt += static_cast<double>(result->prompt_tokens);
    fresh += static_cast<double>(result->fresh_tokens);
    cell.documents_encoded += result->documents_encoded;
    if (!result->recomputed_tokens) continue;
    documents += static_cast<double>(result->document_tokens.value_or(0));
    recomputed += static_cast<double>(*result->recomputed_tokens);
  }
  cell.divergence = *MeanOf(divergences, seed);
  cell.cross_entropy = CrossEntropyOf(group, seed);
  cell.first_token_seconds = Median(std::move(times));
  cell.bytes_read = bytes / static_cast<double>(group.size());
  cell.fresh_share = prompt > 0 ? fresh / prompt : 0;
  if (documents > 0) cell.recomputed_share = recomputed / documents;
  return cell;
}

// Values in the order of their first appearance.
class Sequence {
 public:
  void Add(const std::string& value) {
    if (std::find(values_.begin(), values_.end(), value) == values_.end()) values_.push_back(value);
  }
  const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

// The results of equal kind, order, codec and linker.
struct Groups {
  explicit Groups(absl::Span<const Result> results);
  const Group& Of(const std::string& kind, const std::string& order, const std::string& codec,
                  absl::string_view linker) const {
    static const Group* const none = new Group;
    const auto it = groups.find({kind, order, codec, std::string(linker)});
    return it == groups.end() ? *none : it->second;
  }

  Sequence kinds, orders, codecs, linkers;  // kAllKinds last, if there are several
  std::map<std::vector<std::string>, Group> groups;
};

Groups::Groups(absl::Span<const Result> results) {
  for (const Result& result : results) {
    kinds.Add(result.kind);
    orders.Add(result.order);
    codecs.Add(result.codec);
    linkers.Add(result.linker);
    groups[{result.kind, result.order, result.codec, result.linker}].push_back(&result);
    groups[{std::string(kAllKinds), result.order, result.codec, result.linker}].push_back(&result);
  }
  if (kinds.values().size() > 1) kinds.Add(std::string(kAllKinds));
}

struct Measure {
  absl::string_view name, head;
  std::optional<double> (*of)(const Result&);
};
constexpr absl::string_view kExact = "exact", kRougeL = "rouge_l", kDivergence = "divergence";
constexpr Measure kMeasures[] = {
    {kExact, "EM", [](const Result& result) { return result.exact; }},
    {"f1", "F1", [](const Result& result) { return result.f1; }},
    {"choice", "choice", [](const Result& result) { return result.choice; }},
    {kRougeL, "ROUGE-L", [](const Result& result) { return result.rouge_l; }},
    {kDivergence, "KL", [](const Result& result) { return std::optional<double>(result.divergence); }}};

// Of the items that all of them have.
std::vector<std::vector<double>> InAll(absl::Span<const std::map<std::string, double>> orders) {
  std::vector<std::vector<double>> values(orders.size());
  if (orders.empty()) return values;
  for (const auto& [item, unused] : orders[0]) {
    const auto has = [&item = item](const std::map<std::string, double>& order) { return order.contains(item); };
    if (!std::all_of(orders.begin(), orders.end(), has)) continue;
    for (size_t i = 0; i < orders.size(); ++i) values[i].push_back(orders[i].at(item));
  }
  return values;
}

std::optional<OrderRow> RowOf(const Groups& groups, const std::string& kind, const std::string& codec,
                              const std::string& linker, const Measure& measure, uint64_t seed) {
  OrderRow row{kind, codec, linker, std::string(measure.name), {}, 0, {}};
  std::vector<std::map<std::string, double>> by_item;
  for (const std::string& order : groups.orders.values()) {
    auto values = ByItem(groups.Of(kind, order, codec, linker), measure.of);
    if (values.empty()) continue;
    row.orders.push_back(order);
    by_item.push_back(std::move(values));
  }
  const std::vector<std::vector<double>> values = InAll(by_item);
  std::optional<OrderEffect> effect = OrderEffectOf(values, seed);
  if (!effect) return std::nullopt;
  row.questions = static_cast<int64_t>(values[0].size());
  row.effect = *std::move(effect);
  return row;
}

std::string Percent(double share) { return absl::StrFormat("%.1f", 100 * share); }
std::string PercentOf(const Interval& interval) {
  return absl::StrCat(Percent(interval.low), "..", Percent(interval.high));
}
std::string BytesText(double bytes) {
  return bytes >= 1 << 20 ? absl::StrFormat("%.1f MiB", bytes / (1 << 20)) : absl::StrFormat("%.0f KiB", bytes / 1024);
}

struct Column {
  absl::string_view head;
  std::function<std::string(const Cell&)> text;  // "": the cell has none
  bool left = false;
};

std::vector<Column> Columns(absl::Span<const Cell> cells) {
  const auto estimate = [](std::optional<Estimate> Cell::*member) {
    return [member](const Cell& cell) { return cell.*member ? Percent((cell.*member)->mean) : ""; };
  };
  const auto interval = [](std::optional<Estimate> Cell::*member) {
    return [member](const Cell& cell) { return cell.*member ? PercentOf((cell.*member)->interval) : ""; };
  };
  const auto recovery = [](std::optional<Recovery> Cell::*member) {
    return [member](const Cell& cell) { return cell.*member ? Percent((cell.*member)->value) : ""; };
  };
  const auto recovery_interval = [](std::optional<Recovery> Cell::*member) {
    return [member](const Cell& cell) {
      return cell.*member && (cell.*member)->interval ? PercentOf(*(cell.*member)->interval) : "";
    };
  };
  const auto perplexity = [](double cross_entropy) { return absl::StrFormat("%.2f", std::exp(cross_entropy)); };
  const auto unless_exact = [](auto text) { return [text](const Cell& cell) { return cell.exact ? "" : text(cell); }; };
  Sequence orders, codecs;
  for (const Cell& cell : cells) {
    orders.Add(cell.order);
    codecs.Add(cell.codec);
  }
  std::vector<Column> columns = {{"kind", [](const Cell& cell) { return cell.kind; }, true}};
  if (orders.values().size() > 1) columns.push_back({"order", [](const Cell& cell) { return cell.order; }, true});
  if (codecs.values().size() > 1) columns.push_back({"codec", [](const Cell& cell) { return cell.codec; }, true});
  columns.insert(
      columns.end(),
      {{"linker", [](const Cell& cell) { return cell.linker; }, true},
       {"n", [](const Cell& cell) { return absl::StrCat(cell.questions); }},
       {"EM", estimate(&Cell::exact)},
       {"95%", interval(&Cell::exact)},
       {"recovery", recovery(&Cell::exact_recovery)},
       {"95%", recovery_interval(&Cell::exact_recovery)},
       {"F1", estimate(&Cell::f1)},
       {"choice", estimate(&Cell::choice)},
       {"95%", interval(&Cell::choice)},
       {"recovery", recovery(&Cell::choice_recovery)},
       {"95%", recovery_interval(&Cell::choice_recovery)},
       {"ROUGE-L", unless_exact(estimate(&Cell::rouge_l))},
       {"95%", unless_exact(interval(&Cell::rouge_l))},
       {"recovery", unless_exact(recovery(&Cell::rouge_l_recovery))},
       {"95%", unless_exact(recovery_interval(&Cell::rouge_l_recovery))},
       {"KL", [](const Cell& cell) { return absl::StrFormat("%.3f", cell.divergence.mean); }},
       {"perplexity", [=](const Cell& cell) { return cell.cross_entropy ? perplexity(cell.cross_entropy->mean) : ""; }},
       {"95%",
        [=](const Cell& cell) {
          if (!cell.cross_entropy) return std::string();
          const Interval& interval = cell.cross_entropy->interval;
          return absl::StrCat(perplexity(interval.low), "..", perplexity(interval.high));
        }},
       {"first token", [](const Cell& cell) { return absl::StrFormat("%.0f ms", 1000 * cell.first_token_seconds); }},
       {"read", [](const Cell& cell) { return BytesText(cell.bytes_read); }},
       {"fresh", [](const Cell& cell) { return Percent(cell.fresh_share); }},
       {"recomputed", [](const Cell& cell) { return cell.recomputed_share ? Percent(*cell.recomputed_share) : ""; }}});
  std::erase_if(columns, [&](const Column& column) {
    return std::all_of(cells.begin(), cells.end(), [&](const Cell& cell) { return column.text(cell).empty(); });
  });
  return columns;
}

// As the table's columns are: codec, linker, measure, questions, the mean of each order, and the two estimates.
std::vector<std::string> OrderLine(const OrderRow& row, absl::Span<const std::string> orders) {
  const auto number = [&row](double value) {
    return row.measure == kDivergence ? absl::StrFormat("%.3f", value) : Percent(value);
  };
  const auto* const measure = std::find_if(std::begin(kMeasures), std::end(kMeasures),
                                           [&row](const Measure& one) { return one.name == row.measure; });
  std::vector<std::string> line = {row.codec, row.linker, std::string(measure->head), absl::StrCat(row.questions)};
  for (const std::string& order : orders) {
    const auto at = std::find(row.orders.begin(), row.orders.end(), order);
    line.push_back(at == row.orders.end() ? "-" : number(row.effect.means[at - row.orders.begin()]));
  }
  for (const Estimate& estimate : {row.effect.difference, row.effect.deviation}) {
    line.push_back(number(estimate.mean));
    line.push_back(absl::StrCat(number(estimate.interval.low), "..", number(estimate.interval.high)));
  }
  return line;
}

void AddEstimate(Json& json, const std::string& name, const std::optional<Estimate>& estimate) {
  if (estimate) {
    json[name] = {{"mean", estimate->mean}, {"interval", {estimate->interval.low, estimate->interval.high}}};
  }
}
void AddRecovery(Json& json, const std::string& name, const std::optional<Recovery>& recovery) {
  if (!recovery) return;
  json[name] = {{"value", recovery->value}};
  if (recovery->interval) json[name]["interval"] = {recovery->interval->low, recovery->interval->high};
}

}  // namespace

std::vector<Cell> Summarise(absl::Span<const Result> results, uint64_t seed) {
  const Groups groups(results);
  std::vector<Cell> cells;
  for (const std::string& kind : groups.kinds.values()) {
    for (const std::string& order : groups.orders.values()) {
      for (const std::string& codec : groups.codecs.values()) {
        const auto group = [&](absl::string_view linker) -> const Group& {
          return groups.Of(kind, order, codec, linker);
        };
        for (const std::string& linker : groups.linkers.values()) {
          if (group(linker).empty()) continue;
          Cell cell = CellOf(group(linker), seed);
          cell.kind = kind;
          cell.order = order;
          cell.codec = codec;
          if (linker != kClosedBook) {
            const auto recovery = [&](Score score) {
              return RecoveryIn(group(linker), group("concat"), group("full"), score, seed);
            };
            cell.exact_recovery = recovery(&Result::exact);
            cell.choice_recovery = recovery(&Result::choice);
            cell.rouge_l_recovery = recovery(&Result::rouge_l);
          }
          cells.push_back(std::move(cell));
        }
      }
    }
  }
  return cells;
}

std::vector<OrderRow> CompareOrders(absl::Span<const Result> results, uint64_t seed) {
  const Groups groups(results);
  std::vector<OrderRow> rows;
  for (const std::string& kind : groups.kinds.values()) {
    for (const std::string& codec : groups.codecs.values()) {
      for (const std::string& linker : groups.linkers.values()) {
        if (linker == kClosedBook) continue;
        for (const Measure& measure : kMeasures) {
          std::optional<OrderRow> row = RowOf(groups, kind, codec, linker, measure, seed);
          if (row) rows.push_back(*std::move(row));
        }
      }
    }
  }
  return rows;
}

std::string TableText(absl::Span<const Cell> cells) {
  const std::vector<Column> columns = Columns(cells);
  std::vector<std::vector<std::string>> rows = {{}};
  std::vector<bool> left;
  for (const Column& column : columns) {
    rows[0].emplace_back(column.head);
    left.push_back(column.left);
  }
  for (const Cell& cell : cells) {
    rows.emplace_back();
    for (const Column& column : columns) {
      const std::string text = column.text(cell);
      rows.back().push_back(text.empty() ? "-" : text);
    }
  }
  return cli::TableText(rows, left);
}

std::string OrderTableText(absl::Span<const OrderRow> rows) {
  if (rows.empty()) return "";
  Sequence codecs, orders;
  for (const OrderRow& row : rows) {
    codecs.Add(row.codec);
    for (const std::string& order : row.orders) orders.Add(order);
  }
  std::vector<std::vector<std::string>> lines = {{"codec", "linker", "measure", "n"}};
  lines[0].insert(lines[0].end(), orders.values().begin(), orders.values().end());
  lines[0].insert(lines[0].end(), {"difference", "95%", "deviation", "95%"});
  for (const OrderRow& row : rows) {
    const auto is_exact = [&row](const OrderRow& other) {
      return other.codec == row.codec && other.linker == row.linker && other.kind == row.kind &&
             other.measure == kExact;
    };
    if (row.kind != rows.back().kind) continue;
    if (row.measure == kRougeL && std::any_of(rows.begin(), rows.end(), is_exact)) continue;
    lines.push_back(OrderLine(row, orders.values()));
  }
  std::vector<bool> left(lines[0].size(), false);
  std::fill_n(left.begin(), 3, true);
  if (codecs.values().size() == 1) {
    for (std::vector<std::string>& line : lines) line.erase(line.begin());
    left.erase(left.begin());
  }
  return cli::TableText(lines, left);
}

std::string ReportJson(const Settings& settings, absl::Span<const Cell> cells, absl::Span<const OrderRow> rows) {
  Json json = {{"settings", settings}, {"cells", Json::array()}, {"orders", Json::array()}};
  for (const Cell& cell : cells) {
    Json one = {{"kind", cell.kind},
                {"order", cell.order},
                {"codec", cell.codec},
                {"linker", cell.linker},
                {"questions", cell.questions}};
    AddEstimate(one, "exact", cell.exact);
    AddEstimate(one, "f1", cell.f1);
    AddEstimate(one, "rouge_l", cell.rouge_l);
    AddEstimate(one, "choice", cell.choice);
    AddEstimate(one, "divergence", cell.divergence);
    AddEstimate(one, "cross_entropy", cell.cross_entropy);
    AddRecovery(one, "exact_recovery", cell.exact_recovery);
    AddRecovery(one, "choice_recovery", cell.choice_recovery);
    AddRecovery(one, "rouge_l_recovery", cell.rouge_l_recovery);
    one["first_token_seconds"] = cell.first_token_seconds;
    one["bytes_read"] = cell.bytes_read;
    one["fresh_share"] = cell.fresh_share;
    if (cell.recomputed_share) one["recomputed_share"] = *cell.recomputed_share;
    one["documents_encoded"] = cell.documents_encoded;
    json["cells"].push_back(std::move(one));
  }
  for (const OrderRow& row : rows) {
    Json one = {{"kind", row.kind},
                {"codec", row.codec},
                {"linker", row.linker},
                {"measure", row.measure},
                {"questions", row.questions}};
    for (size_t i = 0; i < row.orders.size(); ++i) one["means"][row.orders[i]] = row.effect.means[i];
    AddEstimate(one, "difference", row.effect.difference);
    AddEstimate(one, "deviation", row.effect.deviation);
    json["orders"].push_back(std::move(one));
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace kvlink::eval
