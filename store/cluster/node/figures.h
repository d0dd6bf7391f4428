// The statistics that a member of a cluster has beyond those of any node: its membership, repair and drops. Each is
// defined once, in a table (figures.cc); store/node/watch/statistics.h says how they are shown.
//
// Thread-safety: all functions; they do not block.
#ifndef KVLINK_STORE_CLUSTER_NODE_FIGURES_H_
#define KVLINK_STORE_CLUSTER_NODE_FIGURES_H_

#include <vector>

#include "store/cluster/members/membership.h"
#include "store/cluster/repair/drops.h"
#include "store/cluster/repair/repair.h"
#include "store/node/watch/statistics.h"

namespace kvlink::store::cluster {

std::vector<node::Figure> MembershipFigures(const Membership& membership);
std::vector<node::Figure> LeaseFigures(bool held);
std::vector<node::Figure> RepairFigures(const Repairer& repairer);
// REQUIRES: CatchUp has returned OK.
std::vector<node::Figure> DropFigures(const DropConsumer& drops);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_FIGURES_H_
