// Lookups and reads over the nodes of a cluster. replicated.h defines their semantics.
//
// Thread-safety: all functions. Lifetime: `cluster` must outlive the leases.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_READS_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_READS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "store/cluster/replicas/scatter.h"
#include "store/encodings.h"

namespace kvlink::store::cluster {

absl::StatusOr<std::vector<Found>> LookupOfOwners(const Cluster* cluster, absl::string_view ns,
                                                  absl::Span<const Identity> identities, Codec codec);

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadOfOwners(const Cluster* cluster,
                                                                 const std::shared_ptr<DeviceBuffer>& buffer,
                                                                 absl::string_view ns, Codec codec,
                                                                 absl::Span<const ReadRequest> requests,
                                                                 absl::Time deadline);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_READS_H_
