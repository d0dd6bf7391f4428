#include "store/node/control/control.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "store/node/control/control_service.h"

namespace kvlink::store {
namespace {

constexpr int kIdleMilliseconds = 5 * 60 * 1000;       // of a connection without calls
constexpr int kKeepaliveMilliseconds = 2 * 60 * 1000;  // between questions whether a silent peer is there
constexpr int kKeepaliveTimeoutMilliseconds = 20 * 1000;
constexpr int kMaxStreams = 64;  // calls of one connection at a time

class GrpcControlServer : public ControlServer {
 public:
  explicit GrpcControlServer(Service* service) : service_(service), calls_(service) {}
  ~GrpcControlServer() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen(const std::string& address, const std::function<void(grpc::ServerBuilder*)>& add) {
    const NodeLimits& limits = service_->limits;
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ResourceQuota quota("kvlink-control");
    quota.Resize(static_cast<size_t>(limits.control_bytes));
    quota.SetMaxThreads(limits.control_threads);
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(quota);
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
    builder.SetMaxReceiveMessageSize(static_cast<int>(limits.control_message_bytes));
    builder.SetMaxSendMessageSize(static_cast<int>(limits.control_message_bytes));
    // Two nodes on one port would each get some of the calls.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&calls_);
    if (add) add(&builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen at ", address, ": in use, or not this host's"));
    }
    address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
    // Beside the server as a whole, for those who ask for the service by name.
    server_->GetHealthCheckService()->SetServingStatus(v1::Store::service_full_name(), true);
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }
  void SetServing(bool serving) override {
    if (server_ != nullptr && server_->GetHealthCheckService() != nullptr) {
      server_->GetHealthCheckService()->SetServingStatus(serving);
    }
  }
  void Stop(absl::Duration grace) override {
    if (server_ == nullptr) return;
    calls_.Stop();
    server_->Shutdown(ToSystemClock(SteadyNow() + grace));
    server_->Wait();
    server_ = nullptr;
  }

 private:
  Service* const service_;
  ControlService calls_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(
    Service* service, const std::string& address, const std::function<void(grpc::ServerBuilder*)>& add) {
  auto server = std::make_unique<GrpcControlServer>(service);
  const absl::Status listening = server->Listen(address, add);
  if (!listening.ok()) return listening;
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace kvlink::store
