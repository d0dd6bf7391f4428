// A transport over gRPC, for where UCX cannot go: through proxies, over TLS, from hosts that are not trusted as UCX has
// to trust (transport/ucx/ucx.h). Each connection is one call of /kvlink.store.v1.Data/Connect, a stream both ways;
// what its messages hold is in docs/formats.md "Transport frames".
//
// gRPC reads payloads where they lie, and what it received is copied once, into the receive. A connection reads ahead
// a few MiB and writes one message at a time, so gRPC's flow control holds back a sender whose receiver is slow.
//
// Quarantine: a source is in use until gRPC lets go of it. Where the other side takes nothing any more, a client ends
// that with the connection; a server only when its own keepalive has found the peer dead.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TRANSPORT_GRPC_GRPC_H_
#define KVLINK_TRANSPORT_GRPC_GRPC_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "transport/transport.h"

namespace kvlink::transport {

class GrpcTransport : public Transport {
 public:
  // Adds the service to a server that is to be built, and the channel arguments that it needs. It accepts until the
  // listener that this returns is destroyed (its address is empty). The server is shut down and destroyed before this
  // transport.
  // `admit` may be null. It is asked with the `caller` of ConnectAs (empty: none was named) on a thread of gRPC's
  // before anything of the stream is read, and returns soon; its error is the stream's.
  using Admit = std::function<absl::Status(absl::string_view caller)>;
  virtual std::unique_ptr<Listener> Register(grpc::ServerBuilder* builder, Accept accept, Admit admit) = 0;
  using Transport::Register;

  // Listen makes a server of its own, in plain text, whose port is in use until the transport is destroyed.
};

// `credentials` of clients; null: plain text. INVALID_ARGUMENT (options), RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<GrpcTransport>> NewGrpcTransport(
    const TransportOptions& options, std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_GRPC_H_
