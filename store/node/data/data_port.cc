#include "store/node/data/data_port.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/node/data/dispatcher.h"
#include "transport/grpc/grpc.h"
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

// For a connection that was just made, which has yet to say whose it is.
std::shared_ptr<transport::ConnectionEvents> Admit(Service* service, std::unique_ptr<ClientChannel> channel,
                                                   const std::string& carrier) {
  const auto connection = std::make_shared<ClientConnection>(service, std::move(channel), carrier);
  const auto leaves = service->connections.Add(connection, service->limits.unidentified);
  if (leaves != nullptr) leaves->Close("others came, and it had not said who it is");
  return std::make_shared<ClientEvents>(connection);
}

transport::Accept Acceptor(Service* service, size_t transport, const std::string& carrier) {
  return [service, transport, carrier](std::shared_ptr<transport::Connection> inner) {
    return Admit(service, std::make_unique<TransportChannel>(std::move(inner), transport), carrier);
  };
}

}  // namespace

transport::TransportOptions DataPort::Options(const Service& service) {
  const NodeLimits& limits = service.limits;
  transport::TransportOptions options;
  options.max_connections = limits.connections + limits.unidentified;
  options.max_handshakes = limits.unidentified;
  options.pause_at_bytes = limits.answer_bytes_per_connection;
  options.budget = service.answers;
  options.receive_within = limits.receive_within;
  return options;
}

absl::StatusOr<std::unique_ptr<DataPort>> DataPort::Open(Service* service, std::string scheme,
                                                         std::unique_ptr<transport::Transport> transport,
                                                         const std::string& address) {
  std::unique_ptr<DataPort> port(new DataPort(std::move(scheme), std::move(transport)));
  const size_t number = service->memory.AddTransport(port->transport_.get());
  auto accept = Acceptor(service, number, port->scheme_);
  KVLINK_ASSIGN_OR_RETURN(port->listener_, port->transport_->Listen(address, std::move(accept)));
  port->address_ = port->listener_->address();
  return port;
}

absl::StatusOr<std::unique_ptr<DataPort>> DataPort::OpenGrpc(Service* service,
                                                             std::function<void(grpc::ServerBuilder*)>* add) {
  KVLINK_ASSIGN_OR_RETURN(auto transport, transport::NewGrpcTransport(DataPort::Options(*service)));
  transport::GrpcTransport* const grpc = transport.get();
  std::unique_ptr<DataPort> port(new DataPort("grpc", std::move(transport)));
  const size_t number = service->memory.AddTransport(grpc);
  // A message may hold megabytes before anybody looks into it, so the session is named in the headers.
  auto admit = [service](absl::string_view token) { return service->sessions.Find(token).status(); };
  *add = [grpc, port = port.get(), accept = Acceptor(service, number, port->scheme_), admit = std::move(admit)](
             grpc::ServerBuilder* builder) { port->listener_ = grpc->Register(builder, accept, admit); };
  return port;
}

absl::StatusOr<std::unique_ptr<DataPort>> DataPort::OpenLocal(Service* service, const std::string& path) {
  // Whoever connects must show a session's token. Without an access file sessions are for the asking.
  const mode_t mode = service->access.guarded() ? 0660 : 0600;
  KVLINK_ASSIGN_OR_RETURN(auto transport, transport::NewLocalTransport(DataPort::Options(*service)));
  transport::LocalTransport* const local = transport.get();
  std::unique_ptr<DataPort> port(new DataPort("local", std::move(transport)));
  auto accept = [service](std::shared_ptr<transport::LocalConnection> inner) {
    return Admit(service, std::make_unique<LocalChannel>(std::move(inner)), "local");
  };
  KVLINK_ASSIGN_OR_RETURN(port->listener_, local->ListenLocal(path, mode, std::move(accept)));
  port->address_ = path;
  return port;
}

}  // namespace kvlink::store::node
