// A node's catalog and administration, over its gRPC service. Semantics as store.h.
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLIENT_CONTROL_CATALOG_H_
#define KVLINK_STORE_CLIENT_CONTROL_CATALOG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "store/client/control/control.h"
#include "store/store.h"

namespace kvlink::store::client {

class Catalog {
 public:
  Catalog(Control* control, absl::Duration timeout) : control_(control), timeout_(timeout) {}

  // One call takes up to kMaxCatalogBatch documents and kMaxCatalogBatchBytes.
  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> Put(absl::string_view ns,
                                                            absl::Span<const DocumentPut> documents);
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> Get(absl::string_view ns,
                                                                absl::Span<const std::string> ids);
  absl::StatusOr<std::vector<absl::Status>> Delete(absl::string_view ns, absl::Span<const DocumentDeletion> documents);
  absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns);
  absl::StatusOr<std::vector<DocumentInfo>> List(absl::string_view ns, absl::string_view after, int64_t limit);
  absl::StatusOr<std::vector<Store::Listed>> ListEncodings(absl::string_view ns, const Identity& after, int64_t limit);
  absl::StatusOr<StoreStats> Stats();
  absl::StatusOr<VerifyReport> Verify(const std::function<bool(int64_t, int64_t)>& progress);
  void DropDramTier();

 private:
  Control* const control_;
  const absl::Duration timeout_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_CATALOG_H_
