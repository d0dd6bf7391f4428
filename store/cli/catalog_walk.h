// Every document of a namespace with its entry, a page at a time.
// Thread-safety: pure functions over the store.
#ifndef KVLINK_STORE_CLI_CATALOG_WALK_H_
#define KVLINK_STORE_CLI_CATALOG_WALK_H_

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

// Calls `visit` with up to 1000 documents at a time, in order of id; what is deleted meanwhile is left out. Ends with
// the first error, of the store or of `visit`.
absl::Status WalkCatalog(store::Store& store, absl::string_view ns,
                         const std::function<absl::Status(absl::Span<const Listed>)>& visit);

// For each entry whether all of its parts have an encoding, in whatever codec.
absl::StatusOr<std::vector<bool>> HaveEncodings(store::Store& store, absl::string_view ns,
                                                absl::Span<const Listed> documents);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CATALOG_WALK_H_
