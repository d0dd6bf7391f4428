// One generic service takes every call, so that nothing of a call is read before its headers have identified the
// caller. Channel arguments limit gRPC's own work for a peer: no compression, messages of 4 MiB, and timeouts for
// silent connections.
#include "store/node/control/control.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/digest.h"
#include "proto/metadata.h"
#include "store/node/control/call.h"
#include "store/node/control/gate.h"
#include "store/node/control/methods.h"
#include "store/node/control/scheduler.h"
#include "transport/grpc/credentials.h"

namespace kvlink::store::node {
namespace {

constexpr int kHandshakeMilliseconds = 20 * 1000;      // for TLS, and for the first HTTP/2 frame
constexpr int kIdleMilliseconds = 60 * 1000;           // for a connection without calls
constexpr int kAgeMilliseconds = 30 * 60 * 1000;       // then a connection takes no more calls; its client redials
constexpr int kKeepaliveMilliseconds = 2 * 60 * 1000;  // between probes of a silent peer
constexpr int kKeepaliveTimeoutMilliseconds = 20 * 1000;
constexpr int kMaxStreams = 16;  // concurrent calls per connection
// Allows any number of pings: each is answered, up to what the peer has read. With a limit, gRPC 1.51 reports each
// excess ping in its buffer, which costs a thousand times as much.
constexpr int kMaxPingStrikes = 0;
constexpr int kMaxMetadataBytes = 8 * 1024;

constexpr absl::string_view kStorePrefix = "/kvlink.store.v1.Store/";
constexpr absl::string_view kHealthCheck = "/grpc.health.v1.Health/Check";
// grpc.health.v1.HealthCheckResponse, which has one field.
constexpr char kHealthy[] = "\x08\x01", kUnhealthy[] = "\x08\x02";

absl::string_view MetadataOf(const grpc::CallbackServerContext& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

class Entrance : public grpc::CallbackGenericService {
 public:
  Entrance(Core* core, const Figures* figures)
      : core_(core), scheduler_(core->limits, core->metrics.get()), methods_(core, figures) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    absl::string_view name = context->method();
    // All services serve or drain together, so the request need not be read to know which one it asks about.
    if (name == kHealthCheck) {
      return ControlCall::Answered(&scheduler_, context, std::string(core_->draining.begun() ? kUnhealthy : kHealthy));
    }
    const ControlMethod* const method = absl::ConsumePrefix(&name, kStorePrefix) ? methods_.Find(name) : nullptr;
    if (method == nullptr) {
      return ControlCall::Answered(&scheduler_, context, absl::UnimplementedError("no such method"));
    }
    auto caller = CallerOf(*context, *method);
    if (caller.ok()) core_->strangers.Known(context->peer());
    absl::Status admitted = caller.status();
    if (caller.ok()) {
      const auto call = ControlCall::Make(&scheduler_, context, method, *std::move(caller));
      admitted = scheduler_.Add(call);
      if (admitted.ok()) return call.get();
      call->Disown();
    }
    core_->metrics->Ended(method->operation, absl::ZeroDuration(), admitted.code());
    return ControlCall::Answered(&scheduler_, context, admitted);
  }

  void Stop() { scheduler_.Stop(); }

 private:
  // Identifies the caller from the headers alone.
  absl::StatusOr<ControlCall::Caller> CallerOf(const grpc::CallbackServerContext& context,
                                               const ControlMethod& method) const {
    ControlCall::Caller caller;
    if (method.name == "OpenSession") {
      KVLINK_ASSIGN_OR_RETURN(caller.grant, methods_.Greet(MetadataOf(context, kKeyMetadata), context.peer()));
      return caller;
    }
    const absl::string_view text = MetadataOf(context, kTokenMetadata);
    if (text.empty()) {
      return absl::UnauthenticatedError(
          absl::StrCat("the call carries no token (metadata '", kTokenMetadata, "'): open a session first"));
    }
    const auto token = Digest<kTokenBytes>::FromHex(text);
    if (!token.ok()) return absl::UnauthenticatedError("the token is not 32 hexadecimal digits");
    KVLINK_ASSIGN_OR_RETURN(caller.session, core_->sessions.Find({reinterpret_cast<const char*>(token->bytes.data()),
                                                                  token->bytes.size()}));
    caller.grant = caller.session->grant();
    if (method.streams) KVLINK_RETURN_IF_ERROR(caller.grant.AllowsAll(Right::kAdmin));
    return caller;
  }

  Core* const core_;
  CallScheduler scheduler_;
  ControlMethods methods_;
};

class GrpcControlServer : public ControlServer {
 public:
  GrpcControlServer(Core* core, const Figures* figures) : core_(core), entrance_(core, figures) {}
  ~GrpcControlServer() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen(const std::string& address, const transport::TlsOptions& tls, ServerPart* beside) {
    const NodeLimits& limits = core_->limits;
    KVLINK_ASSIGN_OR_RETURN(credentials_, transport::ServerCredentials(tls));
    KVLINK_ASSIGN_OR_RETURN(gate_, ConnectionGate::Listen(address, &core_->strangers, core_->limits.control_waiting));
    grpc::EnableDefaultHealthCheckService(false);
    grpc::ResourceQuota quota("kvlink-control");
    quota.Resize(static_cast<size_t>(limits.control_bytes));
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(static_cast<int>(limits.control_message_bytes));
    builder.SetMaxSendMessageSize(-1);
    // A message marked as compressed is refused by its headers; otherwise it would still not be inflated.
    builder.SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kAgeMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMilliseconds);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, kMaxPingStrikes);
    // Connections come in through the gate.
    using External = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(External::FROM_FD, credentials_);
    builder.RegisterCallbackGenericService(&entrance_);
    if (beside != nullptr) beside->AddTo(&builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::UnavailableError("gRPC: cannot start the server");
    gate_->Start([this](int listener, int connection) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters taken;
      taken.listener_fd = listener;
      taken.fd = connection;
      acceptor_->HandleNewConnection(&taken);
    });
    return absl::OkStatus();
  }

  std::string address() const override { return gate_->address(); }
  void Stop(absl::Duration grace) override {
    if (server_ == nullptr) return;
    gate_->Stop();
    entrance_.Stop();
    server_->Shutdown(ToSystemClock(SteadyNow() + grace));
    server_->Wait();
    server_ = nullptr;
  }

 private:
  Core* const core_;
  Entrance entrance_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::unique_ptr<ConnectionGate> gate_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(Core* core, const Figures* figures,
                                                                    const std::string& address,
                                                                    const transport::TlsOptions& tls,
                                                                    ServerPart* beside) {
  auto server = std::make_unique<GrpcControlServer>(core, figures);
  KVLINK_RETURN_IF_ERROR(server->Listen(address, tls, beside));
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace kvlink::store::node
