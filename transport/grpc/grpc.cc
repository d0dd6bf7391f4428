#include "transport/grpc/grpc.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include <chrono>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "transport/address.h"
#include "transport/grpc/calls.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/wire.h"
#include "transport/host_memory.h"
#include "transport/session_host.h"

namespace kvlink::transport {
namespace {

constexpr size_t kMaxCallerBytes = 1024;
constexpr int kBeatsPerPing = 5;  // interval at which gRPC pings a silent peer, in heartbeat limits

// The user's `accept`, as long as there is a listener.
struct Door {
  Mutex mutex;
  Accept accept ABSL_GUARDED_BY(mutex);
  Accept Get() {
    MutexLock lock(&mutex);
    return accept;
  }
};

class GrpcListener : public Listener {
 public:
  explicit GrpcListener(std::shared_ptr<Door> door) : door_(std::move(door)) {}
  ~GrpcListener() override {
    Accept dropped;
    MutexLock lock(&door_->mutex);
    dropped.swap(door_->accept);
  }
  std::string address() const override { return address_; }
  void set_address(std::string address) { address_ = std::move(address); }

 private:
  const std::shared_ptr<Door> door_;
  std::string address_;
};

class TransportOverGrpc : public GrpcTransport {
 public:
  TransportOverGrpc(std::unique_ptr<SessionHost> host, const TlsOptions& tls, absl::Duration heartbeat)
      : tls_(tls),
        heartbeat_ms_(static_cast<int>(absl::ToInt64Milliseconds(heartbeat))),
        host_(std::move(host)),
        mailbox_(std::make_shared<Mailbox>(&host_->thread())) {}
  // gRPC's remaining calls end after the wires, and before the services.
  ~TransportOverGrpc() override {
    host_->End();
    mailbox_->Close();
    host_ = nullptr;
    channels_->WaitForCalls();
    MutexLock lock(&mutex_);
    for (const auto& server : servers_) server->Shutdown(std::chrono::system_clock::now());
    servers_.clear();
  }

  std::unique_ptr<Listener> Register(grpc::ServerBuilder* builder, Accept accept, Admit admit) override {
    return AddService(builder, std::move(accept), std::move(admit));
  }

  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) override {
    return HostBuffer::Allocate(bytes, host_->shared_counters());
  }
  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes, const MemoryPlace& place,
                                                             std::shared_ptr<void> owner) override {
    return HostBuffer::Register(data, bytes, place, std::move(owner), host_->shared_counters());
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) override {
    KVLINK_ASSIGN_OR_RETURN(Address named, ParseAddress(address));
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(named.ToString(), grpc::InsecureServerCredentials(), &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // an address in use is an error
    auto listener = AddService(&builder, std::move(accept), nullptr);
    auto server = builder.BuildAndStart();
    if (server == nullptr) return absl::UnavailableError(absl::StrCat("gRPC: cannot listen at ", named.ToString()));
    named.port = static_cast<uint16_t>(port);
    MutexLock lock(&mutex_);
    servers_.push_back(std::move(server));
    listener->set_address(named.ToString());
    return listener;
  }
  absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                      std::shared_ptr<ConnectionEvents> events,
                                                      absl::Time deadline) override {
    return ConnectAs("", address, std::move(events), deadline);
  }
  absl::StatusOr<std::shared_ptr<Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                        std::shared_ptr<ConnectionEvents> events,
                                                        absl::Time deadline) override {
    if (caller.size() > kMaxCallerBytes) return absl::InvalidArgumentError("the name of the caller is too long");
    KVLINK_ASSIGN_OR_RETURN(const Address named, ParseAddress(address));
    KVLINK_ASSIGN_OR_RETURN(const auto credentials, ChannelCredentials(tls_));
    return host_->Connect([this, caller = std::string(caller), target = named.ToString(),
                           credentials] { return Dial(caller, target, credentials); },
                          std::move(events), deadline);
  }
  TransportStats Stats() const override { return host_->Stats(); }

 private:
  std::unique_ptr<GrpcListener> AddService(grpc::ServerBuilder* builder, Accept accept, Admit admit) {
    const auto door = std::make_shared<Door>();
    {
      MutexLock lock(&door->mutex);
      door->accept = std::move(accept);
    }
    auto service =
        std::make_unique<DataService>([this, door, admit = std::move(admit)](grpc::CallbackServerContext* context) {
          const absl::Status admitted = admit == nullptr ? absl::OkStatus() : admit(CallerOf(*context));
          if (!admitted.ok()) {
            host_->counters().Closed("stranger");
            return RefuseCall(admitted);
          }
          const auto take = [this, door](std::shared_ptr<ServerCall> call) { Take(std::move(call), door->Get()); };
          return DataService::Reactor(ServerCall::Start(mailbox_, context, take).get());
        });
    builder->RegisterService(service.get());
    // Finds dead peers whose connection still holds payload sources.
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kBeatsPerPing * heartbeat_ms_);
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, heartbeat_ms_);
    builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    MutexLock lock(&mutex_);
    services_.push_back(std::move(service));
    return std::make_unique<GrpcListener>(door);
  }
  std::unique_ptr<Wire> Dial(const std::string& caller, const std::string& target,
                             const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // traffic for this host stays on it
    // A connection of its own, destroyed with the channel; and no copies of sent data kept for retries.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    auto wire = std::make_unique<GrpcWire>(&host_->thread(), &host_->counters(), target);
    auto channel = grpc::CreateCustomChannel(target, credentials, arguments);
    wire->Bind(ClientCall::Start(mailbox_, channels_, channel, wire.get(), caller));
    wire->Keep(std::move(channel), channels_);
    return wire;
  }
  void Take(std::shared_ptr<ServerCall> call, const Accept& accept) {
    if (accept == nullptr) return call->Close(false);
    if (!host_->HasRoom()) {
      host_->counters().Closed("excess");
      return call->Close(false);
    }
    auto wire = std::make_unique<GrpcWire>(&host_->thread(), &host_->counters(), call->peer());
    call->set_events(wire.get());
    wire->Bind(std::move(call));
    host_->AddAccepted(std::move(wire), accept);
  }

  const TlsOptions tls_;
  const int heartbeat_ms_;
  std::unique_ptr<SessionHost> host_;
  const std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<Channels> channels_ = std::make_shared<Channels>();
  Mutex mutex_;
  std::vector<std::unique_ptr<DataService>> services_ ABSL_GUARDED_BY(mutex_);  // must outlive the servers
  std::vector<std::unique_ptr<grpc::Server>> servers_ ABSL_GUARDED_BY(mutex_);  // created by Listen
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcTransport>> NewGrpcTransport(const TransportOptions& options,
                                                                const TlsOptions& tls) {
  KVLINK_RETURN_IF_ERROR(ChannelCredentials(tls).status());
  KVLINK_ASSIGN_OR_RETURN(auto host, SessionHost::Start(options, nullptr));
  return std::make_unique<TransportOverGrpc>(std::move(host), tls, options.heartbeat);
}

}  // namespace kvlink::transport
