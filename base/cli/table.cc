// Two passes: widths, then lines.
#include "base/cli/table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvlink::cli {

std::string TableText(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& left) {
  std::vector<int> widths(left.size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], static_cast<int>(row[i].size()));
  }
  if (!left.empty() && left.back()) widths.back() = 0;
  std::string table;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppendFormat(&table, "%s%*s", i > 0 ? "  " : "", left[i] ? -widths[i] : widths[i], row[i]);
    }
    absl::StrAppend(&table, "\n");
  }
  return table;
}

}  // namespace kvlink::cli
