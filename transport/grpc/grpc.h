// A transport over gRPC, for where UCX cannot be used: through proxies, over TLS, from hosts that cannot be given the
// trust UCX requires (transport/ucx/ucx.h). Each connection is one bidirectional streaming call of
// /kvlink.store.v1.Data/Connect; docs/formats.md "Transport frames" describes its messages.
//
// gRPC reads outgoing payloads in place; incoming payloads are copied once, into the posted receive. A connection reads
// a few MiB ahead and writes one message at a time, so gRPC's flow control holds back a sender whose receiver is slow.
//
// Quarantine: a source stays in use until gRPC releases it. If the peer stops reading, a client ends that by closing
// the connection; a server only once its own keepalive has found the peer dead.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TRANSPORT_GRPC_GRPC_H_
#define KVLINK_TRANSPORT_GRPC_GRPC_H_

#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace kvlink::transport {

class GrpcTransport : public Transport {
 public:
  // Adds the service, and the channel arguments it needs, to a server under construction. Accepts connections until the
  // returned listener (whose address is empty) is destroyed. The server must be shut down and destroyed before this
  // transport.
  //
  // `admit` may be null. It is called on a gRPC thread with the `caller` of ConnectAs (empty: none was named) before
  // anything is read from the stream, and must return soon; an error from it becomes the stream's.
  using Admit = std::function<absl::Status(absl::string_view caller)>;
  virtual std::unique_ptr<Listener> Register(grpc::ServerBuilder* builder, Accept accept, Admit admit) = 0;
  using Transport::Register;

  // Listen creates a plain-text server of its own, whose port stays in use until the transport is destroyed.
};

// `tls` is for client connections; each uses what the files hold when it is made (credentials.h). INVALID_ARGUMENT
// (options, TLS files), RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<GrpcTransport>> NewGrpcTransport(const TransportOptions& options,
                                                                const TlsOptions& tls = {});

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_GRPC_H_
