// The node's gRPC service (proto/store.proto): sessions, catalog, namespaces, administration; also Check of
// grpc.health.v1. A call's headers identify its caller; calls from unknown callers are refused at once, unread. Each
// grant is limited in how much is read, executed and answered at a time (scheduler.h).
//
// Thread-safety: all methods. Lifetime: the arguments of Start must outlive it.
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

// Another service on the same server.
class ServerPart {
 public:
  virtual ~ServerPart() = default;
  virtual void AddTo(grpc::ServerBuilder* builder) = 0;
};

class ControlServer {
 public:
  // `address` is "host:port"; port 0 picks a free one. `beside` (may be null) is added to the server. UNAVAILABLE: the
  // address is in use, or not this host's. INVALID_ARGUMENT: the files of `tls`.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(Core* core, const Figures* figures,
                                                              const std::string& address,
                                                              const transport::TlsOptions& tls, ServerPart* beside);
  virtual ~ControlServer() = default;  // calls Stop()

  virtual std::string address() const = 0;
  // Accepts no more calls; ends those in progress after `grace`.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_CONTROL_H_
