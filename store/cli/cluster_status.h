// kvlink status of a whole cluster, and of the cluster as one node sees it. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_CLUSTER_STATUS_H_
#define KVLINK_STORE_CLI_CLUSTER_STATUS_H_

#include <cstdint>
#include <map>
#include <string>

#include "store/cli/cluster_store.h"

namespace kvlink::cli {

// Its members as etcd names them, with what each says of itself, and its namespaces, as text or as JSON in one object
// (on one line where `one_line`). Asks all nodes side by side; of those that do not answer it says so.
std::string ClusterStatus(const ClusterStore& cluster, bool json, bool one_line);

// How a node sees its cluster, from the values of its statistics, as lines of text. Empty if it is not a member.
std::string MemberStatus(const std::map<std::string, int64_t>& values);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CLUSTER_STATUS_H_
