// Reads in two steps (PendingReads): requests go out and answers are taken by whoever waits, the leases' memory too,
// because a carrier's thread has no time to make memory.
//
// Thread-safety: the function. Lifetime: as store/client/pending.h; the route outlives what it gives.
#ifndef KVLINK_STORE_CLIENT_READS_H_
#define KVLINK_STORE_CLIENT_READS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "store/client/data/region.h"
#include "store/client/pending.h"
#include "store/client/route.h"

namespace kvlink::store::client {

// As RemoteStore::AskReads, into `region` where there is one.
absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(Route* route, std::shared_ptr<Region> region,
                                                       absl::string_view ns, Codec codec,
                                                       absl::Span<const ReadRequest> requests, absl::Time deadline,
                                                       const Notify& notify);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_READS_H_
