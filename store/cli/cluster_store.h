// The store over a whole cluster, for commands: its members from etcd, its catalog from its database.
// Thread-safety: one thread at a time; the store's methods as they say.
#ifndef KVLINK_STORE_CLI_CLUSTER_STORE_H_
#define KVLINK_STORE_CLI_CLUSTER_STORE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/cli/place.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/replicas/replicated.h"
#include "store/cluster/view.h"
#include "store/database/database.h"

namespace kvlink::cli {

struct ClusterStore {
  std::shared_ptr<store::cluster::Membership> membership;
  std::shared_ptr<store::database::DatabaseCatalog> catalog;  // used by the store
  std::unique_ptr<store::cluster::ReplicatedStore> store;     // destroyed before the membership
};
// REQUIRES: PlaceOf(flags) is kCluster. Errors of ClusterAddressOf, client::CheckTls, Membership::Open and
// DatabaseCatalog::Open, naming the cluster. Nodes and the database are contacted when they are needed.
absl::StatusOr<ClusterStore> OpenClusterStore(const StoreFlags& flags);

// Adds the number of documents, which only the catalog knows. Counting scans them all, so in a large catalog it does
// not finish in time; `io` then says so. Errors of DatabaseCatalog.
absl::Status AddCatalogStats(store::database::DatabaseCatalog* catalog, store::StoreStats* stats);

// Waits until every member has removed all encodings that were deleted before the call. DEADLINE_EXCEEDED, naming the
// members that have not; errors of DatabaseCatalog.
absl::Status AwaitRemoved(const ClusterStore& cluster, absl::Time deadline);

// The database of a cluster, with our tables in it; waits until `deadline` for one that is not up yet. `make_tables`:
// as DatabaseOptions. Errors of DatabaseCatalog::Open and Prepare, naming the cluster.
absl::StatusOr<std::unique_ptr<store::database::DatabaseCatalog>> PrepareDatabase(
    const store::cluster::ClusterSettings& settings, bool make_tables, absl::Time deadline);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CLUSTER_STORE_H_
