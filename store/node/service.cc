#include "store/node/service.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store {

Service::Service(const NodeLimits& limits, AccessList access, LogSink sink)
    : limits(limits),
      access(std::move(access)),
      boot_id(RandomBytes(16)),
      started(SteadyNow()),
      log(std::move(sink)),
      sessions(limits.sessions, limits.session_lifetime,
               [this](const engine::EncodingKey& key) { (void)engine->Unpin(key); }),
      push_credit(limits.push_bytes, limits.push_bytes_beside_pulls, limits.push_yields),
      serving(std::make_unique<Lane>(
          Lane::Options{.name = "serving", .threads = limits.serving_threads, .max_queued = limits.serving_queue})),
      indexing(std::make_unique<Lane>(Lane::Options{
          .name = "indexing", .threads = limits.indexing_threads, .max_queued = limits.indexing_queue, .nice = 5})) {}

}  // namespace kvlink::store
