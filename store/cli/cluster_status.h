// kvlink status of a whole cluster, and of the cluster as one node sees it. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_CLUSTER_STATUS_H_
#define KVLINK_STORE_CLI_CLUSTER_STATUS_H_

#include <cstdint>
#include <map>
#include <string>

#include "store/cli/cluster_store.h"

namespace kvlink::cli {

// Returns the members listed in etcd, with each one's own status, and the namespaces, as text or as one JSON object (on
// one line if `one_line`). Asks all nodes concurrently, and marks those that do not answer.
std::string ClusterStatus(const ClusterStore& cluster, bool json, bool one_line);

// Describes in lines of text how a node sees its cluster, from the values of its statistics. Empty if it is not a
// member.
std::string MemberStatus(const std::map<std::string, int64_t>& values);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CLUSTER_STATUS_H_
