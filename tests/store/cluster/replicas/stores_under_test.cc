// The contract of store.h over clusters of one node and of three.
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/contract.h"

std::vector<kvlink::testing::StoreMaker> kvlink::testing::StoresUnderTest() {
  std::vector<StoreMaker> makers;
  for (const int nodes : {1, 3}) {
    makers.push_back({nodes == 1 ? "one_node" : "three_nodes", [nodes](const StorePlaceOptions& options) {
                        ClusterPlaceOptions place;
                        place.nodes = nodes;
                        place.copies = place.acknowledged = nodes == 1 ? 1 : 2;
                        place.store = options;
                        return std::make_unique<ClusterPlace>(std::move(place));
                      }});
  }
  return makers;
}
