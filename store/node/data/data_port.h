// The data path over one transport: accepts connections, and registers the tier's memory with it.
//
// Thread-safety: all methods. Lifetime: the service outlives it; Close() first, then wait for the connections to go.
#ifndef KVLINK_STORE_NODE_DATA_DATA_PORT_H_
#define KVLINK_STORE_NODE_DATA_DATA_PORT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "store/node/service.h"
#include "transport/transport.h"

namespace grpc {
class ServerBuilder;
}

namespace kvlink::store::node {

class DataPort {
 public:
  // For transports of a node: what bounds its clients.
  static transport::TransportOptions Options(const Service& service);

  // Errors as transport::Transport::Listen. `scheme` is that of the address: "ucx".
  static absl::StatusOr<std::unique_ptr<DataPort>> Open(Service* service, std::string scheme,
                                                        std::unique_ptr<transport::Transport> transport,
                                                        const std::string& address);

  // For readers on this host, over a socket at `path`: messages and descriptors of memory. Errors as
  // transport::LocalTransport::ListenLocal.
  static absl::StatusOr<std::unique_ptr<DataPort>> OpenLocal(Service* service, const std::string& path);

  // Over the server of the control service, to whose builder `*add` adds it. The server ends before the port.
  static absl::StatusOr<std::unique_ptr<DataPort>> OpenGrpc(Service* service,
                                                            std::function<void(grpc::ServerBuilder*)>* add);

  // "ucx://127.0.0.1:34567".
  std::string address() const { return scheme_ + "://" + address_; }
  const std::string& scheme() const { return scheme_; }
  const transport::Transport* transport() const { return transport_.get(); }
  // No more connections.
  void Close() { listener_ = nullptr; }

 private:
  DataPort(std::string scheme, std::unique_ptr<transport::Transport> transport)
      : scheme_(std::move(scheme)), transport_(std::move(transport)) {}

  const std::string scheme_;
  std::string address_;
  const std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<transport::Listener> listener_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_DATA_PORT_H_
