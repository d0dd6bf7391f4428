// The data path over one transport: accepts connections, and registers the tier's memory with the transport.
//
// Thread-safety: all methods. Lifetime: the context must outlive it. Call Close() first, then wait for the connections
// to end.
#ifndef KVLINK_STORE_NODE_DATA_DATA_PORT_H_
#define KVLINK_STORE_NODE_DATA_DATA_PORT_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "store/node/data/context.h"
#include "transport/transport.h"

namespace kvlink::store::node {

class DataPort {
 public:
  // Options for the transports of a node, with its limits on clients.
  static transport::TransportOptions Options(const DataContext& context);

  // Errors as transport::Transport::Listen. `scheme` is the address's, e.g. "ucx".
  static absl::StatusOr<std::unique_ptr<DataPort>> Open(DataContext* context, std::string scheme,
                                                        std::unique_ptr<transport::Transport> transport,
                                                        const std::string& address);

  // For readers on this host, over a socket at `path`: messages and descriptors of memory. Errors as
  // transport::LocalTransport::ListenLocal.
  static absl::StatusOr<std::unique_ptr<DataPort>> OpenLocal(DataContext* context, const std::string& path);

  // For a transport that the caller makes listen, with acceptor(), and reports by Listens(). Has no address.
  static std::unique_ptr<DataPort> Over(DataContext* context, std::string scheme,
                                        std::unique_ptr<transport::Transport> transport);
  const transport::Accept& acceptor() const { return acceptor_; }
  void Listens(std::unique_ptr<transport::Listener> listener) { listener_ = std::move(listener); }

  // "ucx://127.0.0.1:34567".
  std::string address() const { return scheme_ + "://" + address_; }
  const std::string& scheme() const { return scheme_; }
  const transport::Transport* transport() const { return transport_.get(); }
  // Accepts no more connections.
  void Close() { listener_ = nullptr; }

 private:
  DataPort(std::string scheme, std::unique_ptr<transport::Transport> transport)
      : scheme_(std::move(scheme)), transport_(std::move(transport)) {}

  const std::string scheme_;
  std::string address_;
  const std::unique_ptr<transport::Transport> transport_;
  transport::Accept acceptor_;
  std::unique_ptr<transport::Listener> listener_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_DATA_PORT_H_
