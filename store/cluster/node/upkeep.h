// The companion of every node of a cluster: carries out the drop log, keeps namespace limits equal to the database's,
// and repairs what the node owns.
#ifndef KVLINK_STORE_CLUSTER_NODE_UPKEEP_H_
#define KVLINK_STORE_CLUSTER_NODE_UPKEEP_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/client/remote.h"
#include "store/cluster/node/companion.h"
#include "store/cluster/repair/repair.h"
#include "store/cluster/view.h"
#include "store/database/database.h"

namespace kvlink::store::cluster {

struct UpkeepOptions {
  // For connections to other members; `address`, `node_id` and `placement` are set here. The key needs the right
  // `repair`.
  client::RemoteOptions peers;
  // Limits and times of repair. Node, peers and callbacks are set here.
  RepairOptions repair;
  // Opens the cluster's database, ready for use. `make_tables`: as database::DatabaseOptions; set until the cluster has
  // its first member. Later its catalog is elsewhere if the tables are missing, as before it is restored. Not called if
  // the cluster names no database: nothing is dropped then, and limits do not change.
  std::function<absl::StatusOr<std::unique_ptr<database::DatabaseCatalog>>(const ClusterSettings& settings,
                                                                           bool make_tables, absl::Time deadline)>
      open_database;
};
// Prepare carries out all earlier drops and applies the current limits. Errors of `open_database`,
// DropConsumer::CatchUp and LimitFollower::CatchUp.
MakeCompanion MakeUpkeep(UpkeepOptions options);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_UPKEEP_H_
