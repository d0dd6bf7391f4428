// Reads in two steps (PendingReads). The thread that waits sends requests, takes answers and allocates the leases'
// memory, because a carrier's thread has no time to allocate memory.
//
// Thread-safety: the function. Lifetime: as store/client/pending.h; the route must outlive the result.
#ifndef KVLINK_STORE_CLIENT_READS_H_
#define KVLINK_STORE_CLIENT_READS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/client/data/region.h"
#include "store/client/pending.h"
#include "store/client/route.h"

namespace kvlink::store::client {

// As RemoteStore::AskReads; reads into `region` if there is one.
absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(Route* route, std::shared_ptr<Region> region,
                                                       absl::string_view ns, Codec codec,
                                                       absl::Span<const ReadRequest> requests, absl::Time deadline,
                                                       const Notify& notify);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_READS_H_
