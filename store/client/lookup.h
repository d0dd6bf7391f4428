// Lookups in two steps (PendingLookup): sent at once, or when there is a connection, and retried by the timer. A caller
// that asks many nodes need not wait for one of them for the others to make progress.
//
// Thread-safety: the function. Lifetime: as store/client/pending.h; the route must outlive the result.
#ifndef KVLINK_STORE_CLIENT_LOOKUP_H_
#define KVLINK_STORE_CLIENT_LOOKUP_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/client/pending.h"
#include "store/client/route.h"

namespace kvlink::store::client {

// As RemoteStore::AskLookup.
absl::StatusOr<std::unique_ptr<PendingLookup>> AskLookup(Route* route, absl::string_view ns,
                                                         absl::Span<const Identity> identities, Codec codec,
                                                         absl::Time deadline, const Notify& notify);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_LOOKUP_H_
