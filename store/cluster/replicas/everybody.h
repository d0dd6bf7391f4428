// What is asked of all nodes of a cluster, or of some, side by side: pins, removal, administration.
//
// Thread-safety: all functions. Semantics as replicated.h says.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_EVERYBODY_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_EVERYBODY_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "store/admin.h"
#include "store/cluster/replicas/nodes.h"
#include "store/cluster/replicas/replicated.h"

namespace kvlink::store::cluster {

using NodeSpan = absl::Span<const std::shared_ptr<ClusterNode>>;
// Calls `call` with the number of each node and the store over it, up to 16 at a time, and returns the statuses: those
// of the calls, or why there was none. Waits for all.
std::vector<absl::Status> AskEach(NodeSpan nodes,
                                  const std::function<absl::Status(size_t, client::RemoteStore*)>& call);

// Calls `act` at all owners, but for those that rest. `every`: also where further copies are, and UNAVAILABLE where one
// of them could not; else OK where one could. NOT_FOUND: all say so.
absl::Status ActAtOwners(const Nodes& nodes, const Identity& identity, bool every,
                         const std::function<absl::Status(client::RemoteStore*)>& act);

absl::StatusOr<StoreStats> SumOfStats(const Nodes& nodes);
std::vector<NodeReport> ReportNodes(const Nodes& nodes);
absl::StatusOr<std::vector<StoreAdmin::Listed>> MergedListing(const Nodes& nodes, absl::string_view ns,
                                                              const Identity& after, int64_t limit);
absl::StatusOr<VerifyReport> VerifyEach(const Nodes& nodes, const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_EVERYBODY_H_
