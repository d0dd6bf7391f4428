// A lease on an encoding that several nodes have: where one stops in the middle, the layers that are still wanted come
// from the next owner, under the same etag.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_

#include <memory>
#include <string>

#include "store/cluster/replicas/scatter.h"
#include "store/encodings.h"

namespace kvlink::store::cluster {

// What is read, to ask others for it.
struct Wanted {
  std::string ns;
  Codec codec = Codec::kRawBf16;
  ReadRequest request;
  std::shared_ptr<DeviceBuffer> buffer;  // null: on the host
};

// `lease`: from `node`. Layers that were verified stay where they arrived. The lease is on the device or not, as the
// first one is: one that arrives elsewhere is not used. `cluster` outlives it.
std::unique_ptr<Lease> ReplicatedLeaseOver(const Cluster* cluster, Wanted wanted, std::shared_ptr<ClusterNode> node,
                                           std::unique_ptr<Lease> lease);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_LEASE_H_
