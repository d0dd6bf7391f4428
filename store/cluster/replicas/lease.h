// A lease on an encoding that several nodes hold: if one stops in the middle, the remaining layers come from the next
// owner, under the same etag.
//
// Thread-safety: as Lease (store/encodings.h).
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_

#include <memory>
#include <string>

#include "store/cluster/replicas/scatter.h"
#include "store/encodings.h"

namespace kvlink::store::cluster {

// The read that a lease came from, to repeat it at other nodes.
struct Wanted {
  std::string ns;
  Codec codec = Codec::kRawBf16;
  ReadRequest request;
  std::shared_ptr<DeviceBuffer> buffer;  // null: into host memory
};

// Wraps `lease`, which came from `node`. Verified layers stay where they arrived. All layers are on the device if
// `lease` is, else on the host: a lease of another node that differs in this is not used. `cluster` must outlive the
// result.
std::unique_ptr<Lease> ReplicatedLeaseOver(const Cluster* cluster, Wanted wanted, std::shared_ptr<ClusterNode> node,
                                           std::unique_ptr<Lease> lease);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_
