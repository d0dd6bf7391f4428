// Visits every document of a namespace with its entry, page by page; and how the commands count them.
// Thread-safety: as the store.
#ifndef KVLINK_STORE_CLI_CATALOG_WALK_H_
#define KVLINK_STORE_CLI_CATALOG_WALK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/catalog.h"
#include "store/store.h"

namespace kvlink::cli {

struct Listed {
  store::DocumentInfo info;
  CatalogEntry entry;
};

// Calls `visit` with up to 1000 documents at a time, in order of id; skips documents that are deleted meanwhile. Stops
// at the first error of the store or of `visit`, and returns it.
absl::Status WalkCatalog(store::Store& store, absl::string_view ns,
                         const std::function<absl::Status(absl::Span<const Listed>)>& visit);

// "1 document", "12 documents".
std::string CountOf(int64_t documents);

// Returns for each document whether all its parts have an encoding, in any codec.
absl::StatusOr<std::vector<bool>> HaveEncodings(store::Store& store, absl::string_view ns,
                                                absl::Span<const Listed> documents);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CATALOG_WALK_H_
