// A table of statistics: each row says how one is shown and how to read it from the table's source.
// Thread-safety: tables are constant; FiguresOf reads each row's value on the caller's thread.
#ifndef KVLINK_STORE_NODE_WATCH_FIGURE_ROWS_H_
#define KVLINK_STORE_NODE_WATCH_FIGURE_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/node/watch/statistics.h"

namespace kvlink::store::node {

inline constexpr bool kGauge = false, kCount = true;  // Statistic::counts

template <typename Source>
struct FigureRow {
  Statistic shown;
  int64_t (*value)(const Source& from);
};

template <typename Source, size_t rows>
std::vector<Figure> FiguresOf(const FigureRow<Source> (&table)[rows], const Source& from) {
  std::vector<Figure> figures;
  for (const FigureRow<Source>& row : table) figures.push_back({row.shown, row.value(from)});
  return figures;
}

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_FIGURE_ROWS_H_
