// The companion of every node of a cluster: carries the drop log out, and repairs what the node owns.
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
#include "store/database/drop_log.h"

namespace kvlink::store::cluster {

struct UpkeepOptions {
  // Towards the other members; `address` and `placement` are set here. The key has the right `repair`.
  client::RemoteOptions peers;
  // Amounts and times of repair. Node, peers and callbacks are set here.
  RepairOptions repair;
  // Opens the drop log of the cluster's database, ready for use. Not called where the cluster names no database.
  std::function<absl::StatusOr<std::unique_ptr<database::DropLog>>(const ClusterSettings& settings,
                                                                   absl::Time deadline)>
      open_log;
};
// Prepare ends when everything is carried out that was dropped before: errors of `open_log` and DropConsumer::CatchUp.
MakeCompanion MakeUpkeep(UpkeepOptions options);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_UPKEEP_H_
