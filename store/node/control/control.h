// The node's gRPC service (proto/store.proto): sessions, catalog, namespaces, administration; beside it the Check of
// grpc.health.v1. The headers of a call identify the caller; calls of anybody else are refused unread and at once. Each
// grant has a limit on what is read, carried out and answered at a time (scheduler.h).
//
// Thread-safety: all methods. Lifetime: what it is given outlives it.
#ifndef KVLINK_STORE_NODE_CONTROL_CONTROL_H_
#define KVLINK_STORE_NODE_CONTROL_CONTROL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/node/core.h"
#include "store/node/watch/statistics.h"
#include "transport/tls.h"

namespace grpc {
class ServerBuilder;
}

namespace kvlink::store::node {

// A service beside the node's own.
class ServerPart {
 public:
  virtual ~ServerPart() = default;
  virtual void AddTo(grpc::ServerBuilder* builder) = 0;
};

class ControlServer {
 public:
  // `address` is "host:port"; port 0 chooses one. `beside` (may be null) is another service of the server's.
  // UNAVAILABLE: in use, or not ours. INVALID_ARGUMENT: the files of `tls`.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(Core* core, const Figures* figures,
                                                              const std::string& address,
                                                              const transport::TlsOptions& tls, ServerPart* beside);
  virtual ~ControlServer() = default;  // as Stop

  virtual std::string address() const = 0;
  // Takes no more calls; those under way are ended after `grace`.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_CONTROL_H_
