// The contract of store.h through a node and a client, over each carrier.
#include "tests/store/client/remote_place.h"
#include "tests/store/contract.h"

std::vector<kvlink::testing::StoreMaker> kvlink::testing::StoresUnderTest() {
  std::vector<StoreMaker> makers;
  for (const char* way : {"loopback", "ucx", "grpc", "mapped"}) {
    makers.push_back({way, [way](const StorePlaceOptions& options) {
                        RemotePlaceOptions place;
                        place.way = way;
                        place.store = options;
                        return std::make_unique<RemotePlace>(std::move(place));
                      }});
  }
  return makers;
}
