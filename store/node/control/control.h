// The node's gRPC service (proto/store.proto): sessions, catalog, namespaces, administration; beside it grpc.health.v1
// and reflection. Calls run on a bounded number of threads; idle connections cost memory up to a limit, and are closed
// when that is short.
//
// Thread-safety: all methods. Lifetime: the service outlives it.
#ifndef KVLINK_STORE_NODE_CONTROL_CONTROL_H_
#define KVLINK_STORE_NODE_CONTROL_CONTROL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/node/service.h"

namespace grpc {
class ServerBuilder;
}

namespace kvlink::store {

class ControlServer {
 public:
  // `address` is "host:port"; port 0 chooses one. `add` (may be empty) adds another service to the server. UNAVAILABLE:
  // in use, or not ours.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(Service* service, const std::string& address,
                                                              const std::function<void(grpc::ServerBuilder*)>& add);
  virtual ~ControlServer() = default;  // as Stop

  virtual std::string address() const = 0;
  // What health tells: false while the node drains.
  virtual void SetServing(bool serving) = 0;
  // Takes no more calls; those under way are ended after `grace`.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_CONTROL_CONTROL_H_
