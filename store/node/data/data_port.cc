#include "store/node/data/data_port.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/node/data/dispatcher.h"
#include "transport/local/local.h"

namespace kvlink::store::node {
namespace {

class TransportChannel : public ClientChannel {
 public:
  TransportChannel(std::shared_ptr<transport::Connection> inner, size_t transport)
      : inner_(std::move(inner)), transport_(transport) {}
  absl::Status Send(absl::string_view answer) override { return inner_->SendMessage(answer); }
  transport::Connection* payloads() override { return inner_.get(); }
  size_t transport() const override { return transport_; }
  void Close() override { inner_->Close(); }
  std::string peer() const override { return inner_->peer(); }

 private:
  const std::shared_ptr<transport::Connection> inner_;
  const size_t transport_;
};

class LocalChannel : public ClientChannel {
 public:
  explicit LocalChannel(std::shared_ptr<transport::LocalConnection> inner) : inner_(std::move(inner)) {}
  absl::Status Send(absl::string_view answer) override { return inner_->SendMessage(answer); }
  absl::Status SendDescriptor(absl::string_view answer, int descriptor) override {
    return inner_->SendMessageWithDescriptors(answer, {descriptor});
  }
  bool carries_descriptors() const override { return true; }
  void Close() override { inner_->Close(); }
  std::string peer() const override { return absl::StrCat("process ", inner_->credentials().process); }

 private:
  const std::shared_ptr<transport::LocalConnection> inner_;
};

class ClientEvents : public transport::ConnectionEvents {
 public:
  explicit ClientEvents(std::shared_ptr<ClientConnection> connection) : connection_(std::move(connection)) {}
  void OnMessage(absl::string_view message) override { Dispatch(connection_, message); }
  void OnClosed(const absl::Status& why) override { connection_->OnClosed(why); }

 private:
  const std::shared_ptr<ClientConnection> connection_;
};

// Adds a new connection, which is not identified yet.
std::shared_ptr<transport::ConnectionEvents> Admit(DataContext* context, std::unique_ptr<ClientChannel> channel,
                                                   const std::string& carrier) {
  const auto connection = std::make_shared<ClientConnection>(context, std::move(channel), carrier);
  const auto leaves = context->connections.Add(connection, context->limits.unidentified);
  if (leaves != nullptr) leaves->Close("others came, and it had not said who it is");
  return std::make_shared<ClientEvents>(connection);
}

transport::Accept Acceptor(DataContext* context, size_t transport, const std::string& carrier) {
  return [context, transport, carrier](std::shared_ptr<transport::Connection> inner) {
    return Admit(context, std::make_unique<TransportChannel>(std::move(inner), transport), carrier);
  };
}

}  // namespace

transport::TransportOptions DataPort::Options(const DataContext& context) {
  const NodeLimits& limits = context.limits;
  transport::TransportOptions options;
  options.max_connections = limits.connections + limits.unidentified;
  options.max_handshakes = limits.unidentified;
  options.pause_at_bytes = limits.answer_bytes_per_connection;
  options.budget = context.answers;
  options.receive_within = limits.receive_within;
  return options;
}

std::unique_ptr<DataPort> DataPort::Over(DataContext* context, std::string scheme,
                                         std::unique_ptr<transport::Transport> transport) {
  std::unique_ptr<DataPort> port(new DataPort(std::move(scheme), std::move(transport)));
  port->acceptor_ = Acceptor(context, context->memory.AddTransport(port->transport_.get()), port->scheme_);
  return port;
}

absl::StatusOr<std::unique_ptr<DataPort>> DataPort::Open(DataContext* context, std::string scheme,
                                                         std::unique_ptr<transport::Transport> transport,
                                                         const std::string& address) {
  auto port = Over(context, std::move(scheme), std::move(transport));
  KVLINK_ASSIGN_OR_RETURN(port->listener_, port->transport_->Listen(address, port->acceptor_));
  port->address_ = port->listener_->address();
  return port;
}

absl::StatusOr<std::unique_ptr<DataPort>> DataPort::OpenLocal(DataContext* context, const std::string& path) {
  // A client that connects must present a session's token. Without an access file, any client can get a session.
  const mode_t mode = context->core->access.guarded() ? 0660 : 0600;
  KVLINK_ASSIGN_OR_RETURN(auto transport, transport::NewLocalTransport(DataPort::Options(*context)));
  transport::LocalTransport* const local = transport.get();
  std::unique_ptr<DataPort> port(new DataPort("local", std::move(transport)));
  auto accept = [context](std::shared_ptr<transport::LocalConnection> inner) {
    return Admit(context, std::make_unique<LocalChannel>(std::move(inner)), "local");
  };
  KVLINK_ASSIGN_OR_RETURN(port->listener_, local->ListenLocal(path, mode, std::move(accept)));
  port->address_ = path;
  return port;
}

}  // namespace kvlink::store::node
