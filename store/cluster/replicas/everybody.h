// Calls that go to all or several nodes of a cluster at the same time: pins, removal, administration. replicated.h
// defines their semantics.
//
// Thread-safety: all functions.
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
// Calls `call` with the index of each node and the store over it, up to 16 at a time, and waits for all. Returns the
// status of each call, or why it could not be made.
std::vector<absl::Status> AskEach(NodeSpan nodes,
                                  const std::function<absl::Status(size_t, client::RemoteStore*)>& call);

// Calls `act` on all owners except those that rest. OK if one call succeeded. With `every`, calls it on members with
// further copies too, and UNAVAILABLE means that some member failed or rests. NOT_FOUND, without `every`: no call
// succeeded, and an owner lacks the encoding. Returns errors that concern the client (arguments, credentials,
// resources) unchanged.
absl::Status ActAtOwners(const Nodes& nodes, const Identity& identity, bool every,
                         const std::function<absl::Status(client::RemoteStore*)>& act);

absl::StatusOr<StoreStats> SumOfStats(const Nodes& nodes);
std::vector<NodeReport> ReportNodes(const Nodes& nodes);
absl::StatusOr<std::vector<StoreAdmin::Listed>> MergedListing(const Nodes& nodes, absl::string_view ns,
                                                              const Identity& after, int64_t limit);
absl::StatusOr<VerifyReport> VerifyEach(const Nodes& nodes, const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_EVERYBODY_H_
