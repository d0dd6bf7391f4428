// The figures of a node, for the Stats call and for Prometheus. Thread-safety: any thread, while the node serves.
#ifndef KVLINK_STORE_NODE_WATCH_STATISTICS_H_
#define KVLINK_STORE_NODE_WATCH_STATISTICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "store/node/watch/metrics.h"
#include "store/node/service.h"

namespace kvlink::store {

// Members of StoreStats and of the node by name.
std::map<std::string, int64_t> ValuesOf(Service* service, const engine::Engine::Statistics& statistics);
std::map<std::string, std::string> TextsOf(Service* service, const engine::Engine::Statistics& statistics);
std::vector<Metrics::Reading> ReadingsOf(Service* service);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_WATCH_STATISTICS_H_
