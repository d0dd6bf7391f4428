// Puts over a route: retried until their deadline, as long as the node shows signs of life. Two-step puts run on
// threads of the resources.
//
// Thread-safety: all functions. Lifetime: as store/client/pending.h; the route must outlive the results.
#ifndef KVLINK_STORE_CLIENT_PUTS_H_
#define KVLINK_STORE_CLIENT_PUTS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/client/pending.h"
#include "store/client/route.h"

namespace kvlink::store::client {

// As Store::Put.
absl::StatusOr<PutResult> PutOver(Route* route, absl::string_view ns, const Manifest& manifest,
                                  absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline);
// As RemoteStore::AskPut.
absl::StatusOr<std::unique_ptr<PendingPut>> AskPut(Route* route, absl::string_view ns, const Manifest& manifest,
                                                   absl::Span<const absl::Span<const std::byte>> slabs,
                                                   absl::Time deadline, const Notify& notify);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_PUTS_H_
