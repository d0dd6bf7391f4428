// The contract of store.h over a cluster of one node, whose catalog stands in for the database. A larger cluster would
// have more copies than the contract counts.
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/contract.h"

std::vector<kvlink::testing::StoreMaker> kvlink::testing::StoresUnderTest() {
  return {{"cluster", [](const StorePlaceOptions& options) {
             ClusterPlaceOptions place;
             place.nodes = place.copies = place.acknowledged = 1;
             place.own_catalog = true;
             place.store = options;
             return std::make_unique<ClusterPlace>(std::move(place));
           }}};
}
