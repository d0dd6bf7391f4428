#include "store/client/resources.h"

#include "store/client/data/client_resources.h"

namespace kvlink::store::client {

std::shared_ptr<ClientResources> NewClientResources(const ResourceOptions& options) {
  return std::make_shared<ClientResources>(options);
}

}  // namespace kvlink::store::client
