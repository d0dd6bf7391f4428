// Tables of text on standard output.
// Thread-safety: a pure function.
#ifndef KVLINK_BASE_CLI_TABLE_H_
#define KVLINK_BASE_CLI_TABLE_H_

#include <string>
#include <vector>

namespace kvlink::cli {

// A line for each row, its columns two spaces apart and as wide as their widest cell (in bytes). Columns are
// right-aligned, but those that `left` names; a last column that is left-aligned is not padded. No row has more cells
// than `left`.
std::string TableText(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& left);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_TABLE_H_
