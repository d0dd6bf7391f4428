// kvlink status of a whole cluster, and of the cluster as one node sees it. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_CLUSTER_STATUS_H_
#define KVLINK_STORE_CLI_CLUSTER_STATUS_H_

#include <cstdint>
#include <map>
#include <string>

#include "store/cli/cluster_store.h"

namespace kvlink::cli {

// The members that etcd lists, what each reports of itself, and the namespaces: as text, or as one JSON object (on one
// line if `one_line`). Asks all nodes in parallel, and names those that do not answer.
std::string ClusterStatus(const ClusterStore& cluster, bool json, bool one_line);

// Lines of text that say how a node sees its cluster, from its statistics. Empty if it is not a member.
std::string MemberStatus(const std::map<std::string, int64_t>& values);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CLUSTER_STATUS_H_
