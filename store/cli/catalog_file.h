// A catalog as a file: JSON lines, the first of which is a header (docs/formats.md "Catalog file"). The last line says
// that it is, since a file that came through a pipe may have been cut off between two lines.
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_CLI_CATALOG_FILE_H_
#define KVLINK_STORE_CLI_CATALOG_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/catalog.h"
#include "store/catalog.h"

namespace kvlink::cli {

inline constexpr size_t kMaxCatalogLine = size_t{192} << 20;

// Lines without their newline.
std::string CatalogHead(absl::string_view ns);
std::string CatalogLine(absl::string_view id, const CatalogEntry& entry);
// A line of either kind as the last one.
std::string LastCatalogLine(std::string line);

struct CatalogFileHead {
  bool marks_last = false;  // the last line is marked; older builds mark none
  bool last = false;        // no document follows
};
struct CatalogFileLine {
  store::DocumentPut put;
  bool last = false;
};
// INVALID_ARGUMENT: not the head of a catalog. UNIMPLEMENTED: a newer version than this build reads.
absl::StatusOr<CatalogFileHead> ParseCatalogHead(absl::string_view line);
// INVALID_ARGUMENT: malformed or damaged. UNIMPLEMENTED: the entry comes from a newer build.
absl::StatusOr<CatalogFileLine> ParseCatalogLine(absl::string_view line);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CATALOG_FILE_H_
