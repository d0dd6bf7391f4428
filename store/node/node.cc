#include "store/node/node.h"

#include <malloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "proto/data.h"
#include "transport/address.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/grpc.h"
#include "transport/ucx/ucx.h"

namespace kvlink::store::node {
namespace {

// How often time limits are checked: while work is in progress, and otherwise.
constexpr absl::Duration kSweepBusy = absl::Milliseconds(250), kSweepIdle = absl::Seconds(1);
constexpr absl::Duration kForget = absl::Seconds(10);  // between searches for empty namespaces
// A departed crowd leaves holes in the heap, hundreds of megabytes of them.
constexpr absl::Duration kTrim = absl::Minutes(1);
// Interval of log lines about strangers.
constexpr absl::Duration kBetweenStrangers = absl::Seconds(10);
constexpr absl::Duration kControlGrace = absl::Seconds(1);

absl::StatusOr<bool> IsLoopback(const std::string& address) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address parsed, transport::ParseAddress(address));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(parsed));
  return transport::IsLoopback(resolved);
}

// Whether a node without an access file may listen on this address.
absl::Status CheckReach(absl::string_view what, const std::string& address, const AccessList& access) {
  KVLINK_ASSIGN_OR_RETURN(const bool loopback, IsLoopback(address));
  if (access.guarded() || loopback) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the ", what, " address ", address,
      " can be reached from other hosts, which would have full access: name an access file, or listen on 127.0.0.1"));
}

// Other hosts' keys and tokens travel over the control address.
absl::Status CheckSecret(const NodeOptions& options) {
  KVLINK_RETURN_IF_ERROR(transport::ServerCredentials(options.tls).status());
  KVLINK_ASSIGN_OR_RETURN(const bool loopback, IsLoopback(options.control_address));
  if (loopback || options.tls.enabled() || options.tls.insecure) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("keys would travel to ", options.control_address,
                   " in plain text: give the node a TLS certificate and its key, or allow it"));
}

// UCX lets any connected peer write into the node's memory, so it must listen only where it was told to.
absl::Status CheckUcx(const std::string& address, Log* log) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address parsed, transport::ParseAddress(address));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(parsed));
  KVLINK_ASSIGN_OR_RETURN(const std::string device, transport::DeviceWith(resolved));
  if (device.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the data address ", address,
        " covers every network of this host, and UCX trusts whoever connects: name the address of one network"));
  }
  if (!IsLoopback(resolved)) {
    log->Warning("ucx_trusts_its_peers",
                 {{"data", address},
                  {"device", device},
                  {"why", std::string("whoever can connect to UCX here, or to the ports that it opens on this device, "
                                      "can write to the node's memory: let only trusted hosts reach them")}});
  }
  return absl::OkStatus();
}

// A socket may have a directory of its own, open to a group that must not enter the store's.
absl::Status MakeSocketDirectory(const std::string& socket) {
  constexpr mode_t kMode = 0750;
  const std::string directory = std::filesystem::path(socket).parent_path();
  if (directory.empty() || mkdir(directory.c_str(), kMode) != 0) {
    // If it cannot be made and does not exist, the socket's own error reports that.
    return absl::OkStatus();
  }
  if (chmod(directory.c_str(), kMode) == 0) return absl::OkStatus();  // regardless of the process's umask
  return absl::UnavailableError(absl::StrCat("cannot set the mode of ", directory, ": ", std::strerror(errno)));
}

// The data path over gRPC, beside the control service. A message may take megabytes before it is examined, so the
// session is named in the headers.
class GrpcDataPart : public ServerPart {
 public:
  GrpcDataPart(transport::GrpcTransport* transport, DataPort* port, Sessions* sessions)
      : transport_(transport), port_(port), sessions_(sessions) {}
  void AddTo(grpc::ServerBuilder* builder) override {
    const auto admit = [sessions = sessions_](absl::string_view token) { return sessions->Find(token).status(); };
    port_->Listens(transport_->Register(builder, port_->acceptor(), admit));
  }

 private:
  transport::GrpcTransport* const transport_;
  DataPort* const port_;
  Sessions* const sessions_;
};

// Logs how many connections ended because their peer did not speak UCX, or named no session over gRPC. A crowd of them
// makes one line.
class StrangerLog {
 public:
  explicit StrangerLog(Service* service) : service_(service) {}
  void Look(absl::Time now) {
    if (now < next_ || !service_->core.whereabouts.ready.load()) return;  // the list is incomplete before that
    next_ = now + kBetweenStrangers;
    for (const auto& [scheme, transport] : service_->transports) {
      const auto closes = transport->Stats().closes;
      const auto found = closes.find("stranger");
      if (found == closes.end()) continue;
      int64_t& told = told_[scheme];
      if (found->second == told) continue;
      service_->core.log.Warning("strangers_shut_out", {{"carrier", scheme}, {"count", found->second - told}});
      told = found->second;
    }
  }

 private:
  Service* const service_;
  absl::Time next_ = absl::InfinitePast();
  std::map<std::string, int64_t> told_;
};

// Logs when TLS files were replaced, and when what they hold now cannot be used.
class TlsLog {
 public:
  explicit TlsLog(Log* log) : log_(log) {}
  void Look() {
    for (const transport::TlsState& now : transport::TlsStates()) {
      const std::string names =
          absl::StrCat(now.files.ca_file, " ", now.files.certificate_file, " ", now.files.key_file);
      auto& [replaced, status] = told_.try_emplace(names, now.replaced, absl::OkStatus()).first->second;
      if (std::exchange(replaced, now.replaced) != now.replaced) log_->Info("tls_files_replaced", {{"files", names}});
      if (std::exchange(status, now.status) == now.status || now.status.ok()) continue;
      log_->Warning("tls_files_not_used", {{"files", names}, {"why", std::string(now.status.message())}});
    }
  }

 private:
  Log* const log_;
  std::map<std::string, std::pair<int64_t, absl::Status>> told_;
};

// Of the descriptors the process may open, strangers take an eighth, two each at the control service, and connections
// waiting for it another eighth. The rest is for the store and for known clients.
NodeLimits WithinDescriptors(NodeLimits limits) {
  const int part = static_cast<int>(std::max<int64_t>(RaiseDescriptorLimit() / 8, 16));
  limits.unidentified = std::min(limits.unidentified, part / 2);
  limits.control_waiting = std::min(limits.control_waiting, part);
  return limits;
}

// The address as told to clients: a wildcard host is omitted, and clients use the control address's host.
std::string Advertised(const std::string& scheme, const std::string& address) {
  const auto parsed = transport::ParseAddress({address.data(), address.size()});
  const bool wildcard = parsed.ok() && (parsed->host == "0.0.0.0" || parsed->host == "::");
  return wildcard ? absl::StrCat(scheme, "://:", parsed->port) : absl::StrCat(scheme, "://", address);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Node>> Node::Start(NodeOptions options) {
  SilenceProtobuf();
  options.limits = WithinDescriptors(options.limits);
  AccessList access;
  if (!options.access_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(access, AccessList::Load(options.access_file));
  }
  KVLINK_RETURN_IF_ERROR(CheckReach("control", options.control_address, access));
  KVLINK_RETURN_IF_ERROR(CheckSecret(options));
  if (!options.data_address.empty()) KVLINK_RETURN_IF_ERROR(CheckReach("data", options.data_address, access));
  if (!options.metrics_address.empty()) KVLINK_RETURN_IF_ERROR(CheckReach("metrics", options.metrics_address, access));
  auto service = std::make_unique<Service>(options.limits, std::move(access), std::move(options.log), options.ownership,
                                           std::move(options.figures));
  std::unique_ptr<Node> node(new Node(std::move(service)));
  KVLINK_RETURN_IF_ERROR(node->Open(&options));
  return node;
}

absl::Status Node::Open(NodeOptions* options) {
  Service* const service = service_.get();
  service->core.whereabouts.version = options->version;
  service->core.metrics = std::make_unique<Metrics>([service] { return service->figures.Readings(); });
  options->engine.memory_added = [service](const engine::TierMemory& memory) {
    service->data.memory.AddMemory(memory);
  };
  options->engine.memory_gone = [service](const engine::TierMemory& memory) {
    service->data.memory.RemoveMemory(memory.number);
    for (const auto& connection : service->data.connections.All()) connection->MemoryGone(memory.number);
  };
  // There are few reading threads, so none of them waits for memory.
  options->engine.wait_for_room = absl::ZeroDuration();
  options->engine.suspect_interval = options->limits.suspect_again;
  options->engine.damage_found = [service](const engine::DamagedEncoding& damage) {
    service->core.log.Error("damaged", {{"namespace", damage.key.ns},
                                        {"identity", damage.key.identity.Hex()},
                                        {"documents", absl::StrJoin(damage.documents, ", ")},
                                        {"what", damage.what}});
  };
  options->engine.chunk_ready = [service](const engine::TierChunk& chunk) { service->data.memory.AddChunk(chunk); };
  options->engine.chunk_leaves = [service](const engine::TierChunk& chunk) { service->data.memory.RemoveChunk(chunk); };
  KVLINK_ASSIGN_OR_RETURN(service->core.engine, engine::Engine::Open(options->directory, options->engine));
  service->core.node_id = service->core.engine->id();
  service->core.incarnation = service->core.engine->incarnation();
  service->core.namespaces.Know(NamespacesIn(service->core.engine.get()));
  KVLINK_RETURN_IF_ERROR(OpenPorts(options));
  sweeper_ = Thread("node-sweep", [this] { Sweep(); });
  KVLINK_RETURN_IF_ERROR(OpenControl(*options));
  if (!options->metrics_address.empty()) {
    KVLINK_ASSIGN_OR_RETURN(addresses_.metrics, service->core.metrics->Serve(options->metrics_address));
  }
  std::string data;
  for (const std::string& address : addresses_.data) absl::StrAppend(&data, data.empty() ? "" : " ", address);
  serving_ = true;
  service->core.log.Info("serving", {{"node_id", absl::BytesToHexString(BytesOf(service->core.node_id))},
                                     {"incarnation", static_cast<int64_t>(service->core.incarnation)},
                                     {"directory", options->directory},
                                     {"control", addresses_.control},
                                     {"data", data},
                                     {"metrics", addresses_.metrics},
                                     {"local_socket", addresses_.local_socket},
                                     {"guarded", service->core.access.guarded()},
                                     {"version", service->core.whereabouts.version}});
  return absl::OkStatus();
}

absl::Status Node::OpenPorts(NodeOptions* options) {
  if (!options->data_address.empty()) {
    KVLINK_RETURN_IF_ERROR(CheckUcx(options->data_address, &service_->core.log));
    KVLINK_ASSIGN_OR_RETURN(auto made,
                            transport::NewUcxTransport(DataPort::Options(service_->data), options->data_address));
    options->carriers.push_back({"ucx", std::move(made), options->data_address});
  }
  for (NodeOptions::Carrier& carrier : options->carriers) {
    KVLINK_ASSIGN_OR_RETURN(
        auto port, DataPort::Open(&service_->data, carrier.scheme, std::move(carrier.transport), carrier.address));
    addresses_.data.push_back(port->address());
    service_->core.whereabouts.data_addresses.push_back(
        Advertised(port->scheme(), port->address().substr(port->scheme().size() + 3)));
    service_->transports.emplace_back(port->scheme(), port->transport());
    ports_.push_back(std::move(port));
  }
  if (!options->local_socket.empty()) {
    KVLINK_RETURN_IF_ERROR(MakeSocketDirectory(options->local_socket));
    KVLINK_ASSIGN_OR_RETURN(auto port, DataPort::OpenLocal(&service_->data, options->local_socket));
    addresses_.local_socket = options->local_socket;
    service_->core.whereabouts.local_socket = options->local_socket;
    service_->transports.emplace_back(port->scheme(), port->transport());
    ports_.push_back(std::move(port));
  }
  return absl::OkStatus();
}

absl::Status Node::OpenControl(const NodeOptions& options) {
  std::unique_ptr<GrpcDataPart> part;
  if (options.grpc_data) {
    KVLINK_ASSIGN_OR_RETURN(auto transport, transport::NewGrpcTransport(DataPort::Options(service_->data)));
    transport::GrpcTransport* const grpc = transport.get();
    ports_.push_back(DataPort::Over(&service_->data, "grpc", std::move(transport)));
    service_->transports.emplace_back("grpc", grpc);
    part = std::make_unique<GrpcDataPart>(grpc, ports_.back().get(), &service_->core.sessions);
  }
  KVLINK_ASSIGN_OR_RETURN(control_, ControlServer::Start(&service_->core, &service_->figures, options.control_address,
                                                         options.tls, part.get()));
  addresses_.control = control_->address();
  if (options.grpc_data) {
    addresses_.data.push_back("grpc://" + addresses_.control);
    service_->core.whereabouts.data_addresses.push_back(Advertised("grpc", addresses_.control));
  }
  // Everything told to clients is set.
  if (options.admits) Admit();
  return absl::OkStatus();
}

void Node::Sweep() {
  Service* const service = service_.get();
  absl::Time trimmed = SteadyNow(), forgot = trimmed;
  StrangerLog strangers(service);
  TlsLog tls(&service->core.log);
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (closing_) return;
      (void)wake_.WaitUntil(&mutex_, SteadyNow() + (idle() ? kSweepIdle : kSweepBusy));
      if (closing_) return;
    }
    const absl::Time now = SteadyNow();
    const int64_t expired = service->core.sessions.Sweep(now);
    if (expired > 0) service->core.log.Info("sessions_expired", {{"count", expired}});
    for (const auto& connection : service->data.connections.All()) connection->Sweep(now);
    service->core.strangers.Sweep();
    strangers.Look(now);
    tls.Look();
    if (now - forgot >= kForget) {
      service->core.namespaces.Forget(NamespacesIn(service->core.engine.get()),
                                      now - service->core.limits.namespace_idle);
      forgot = now;
    }
    if (!idle() || now - trimmed < kTrim) continue;
    malloc_trim(0);
    trimmed = now;
  }
}

bool Node::idle() const { return service_->core.traffic.idle(); }

absl::Status Node::UseAccess(absl::StatusOr<AccessList> list) {
  if (!list.ok()) {
    service_->core.log.Error("access_not_reloaded", {{"why", std::string(list.status().message())}});
    return list.status();
  }
  const AccessList held = *list;
  service_->core.access.Replace(*std::move(list));
  // A session may have been opened in between with the old list; it ends here.
  const int64_t ended = service_->core.sessions.CloseUnless([&held](const Grant& grant) { return held.Holds(grant); });
  // A reader that maps the memory keeps its mapping, but no leases on it.
  for (const auto& connection : service_->data.connections.All()) {
    const auto session = connection->session();
    if (session != nullptr && !held.Holds(session->grant())) connection->Close("its key was revoked");
  }
  service_->core.log.Info("access_reloaded", {{"sessions_ended", ended}});
  return absl::OkStatus();
}

void Node::Admit() { service_->core.whereabouts.ready.store(true); }

void Node::Drain() { service_->core.draining.Begin(); }

bool Node::WaitForStop(absl::Time deadline) { return service_->core.draining.WaitForStop(deadline); }

// Connections being accepted appear late, so the loop closes them again.
void Node::CloseLinks() {
  const absl::Time began = SteadyNow();
  do {
    for (const auto& connection : service_->data.connections.All()) connection->channel()->Close();
    if (SteadyNow() - began > absl::Seconds(30)) service_->core.log.Error("closing_takes_long");
  } while (!service_->data.connections.WaitGone(SteadyNow() + absl::Milliseconds(100)));
}

Node::~Node() {
  Service* const service = service_.get();
  if (serving_) service->core.log.Info("closing");
  service->core.draining.Close();
  for (const auto& port : ports_) port->Close();
  for (const auto& connection : service->data.connections.All()) connection->Close("the node is closing");
  if (control_ != nullptr) control_->Stop(kControlGrace);
  if (service->core.metrics != nullptr) service->core.metrics->StopServing();
  {
    MutexLock lock(&mutex_);
    closing_ = true;
    wake_.SignalAll();
  }
  sweeper_.Join();
  service->data.serving->Stop();
  service->data.indexing->Stop();
  service->data.checking->Stop();
  // Each connection goes once its requests, transfers and writes have ended.
  CloseLinks();
  if (service->core.engine != nullptr) service->core.sessions.CloseAll();
  // The engine's chunks still come and go, but transports must not be told any longer.
  service->data.memory.Clear();
  // Transports end once the network touches none of their memory any more, and the leases with them; then nothing needs
  // the engine.
  ports_.clear();
  service->core.engine = nullptr;
  if (serving_) service->core.log.Info("closed");
}

}  // namespace kvlink::store::node
