#include "store/client/data/data_path.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/grpc/credentials.h"
#include "transport/grpc/grpc.h"
#include "transport/ucx/ucx.h"

namespace kvlink::store::client {
namespace {

template <typename Made>
absl::StatusOr<std::shared_ptr<transport::Transport>> Shared(absl::StatusOr<std::unique_ptr<Made>> made) {
  KVLINK_RETURN_IF_ERROR(made.status());
  return std::shared_ptr<transport::Transport>(*std::move(made));
}

// One of a kind for all stores of a process, as long as any of them is there. UCX's workers are served by one thread of
// UCX, which takes an event for the handler of another worker that got the same file descriptor, and aborts the process
// (UCX 1.13, async.c); and threads and buffers are better shared anyhow.
absl::StatusOr<std::shared_ptr<transport::Transport>> SharedTransport(Carrier carrier,
                                                                      const transport::TlsOptions& tls) {
  static Mutex mutex;
  // Those of gRPC by what secures them.
  static std::map<std::string, std::weak_ptr<transport::Transport>> shared;
  const std::string name = carrier == Carrier::kGrpc
                               ? absl::StrCat("grpc ", absl::CEscape(tls.ca_file), " ",
                                              absl::CEscape(tls.certificate_file), " ", absl::CEscape(tls.key_file))
                               : "ucx";
  MutexLock lock(&mutex);
  std::weak_ptr<transport::Transport>& known = shared[name];
  if (auto transport = known.lock()) return transport;
  std::shared_ptr<transport::Transport> transport;
  if (carrier == Carrier::kGrpc) {
    KVLINK_ASSIGN_OR_RETURN(auto credentials, transport::ChannelCredentials(tls));
    KVLINK_ASSIGN_OR_RETURN(transport, Shared(transport::NewGrpcTransport({}, std::move(credentials))));
  } else {
    KVLINK_ASSIGN_OR_RETURN(transport, Shared(transport::NewUcxTransport({})));
  }
  known = transport;
  return transport;
}

}  // namespace

absl::StatusOr<std::string> DataAddress(absl::Span<const std::string> data, absl::string_view scheme,
                                        absl::string_view address) {
  for (const std::string& one : data) {
    const size_t mark = one.find("://");
    if (mark == std::string::npos || (!scheme.empty() && absl::string_view(one).substr(0, mark) != scheme)) continue;
    const absl::string_view target = absl::string_view(one).substr(mark + 3);
    if (!absl::StartsWith(target, ":")) return std::string(target);
    return absl::StrCat(address.substr(0, address.rfind(':')), target);
  }
  return absl::NotFoundError(absl::StrCat("the node serves no data over ", scheme.empty() ? "any carrier" : scheme));
}

DataPath::DataPath(std::string name, std::shared_ptr<transport::Transport> transport, const RemoteOptions& options)
    : name_(std::move(name)),
      transport_(std::move(transport)),
      idle_(options.idle_memory),
      receive_memory_(
          std::make_shared<Arena>(transport_.get(), options.receive_bytes, "receive memory", [this] { Grown(); })),
      sending_(std::make_shared<Arena>(transport_.get(), options.sending_bytes, "sending memory", [this] { Grown(); })),
      trimmer_("receive-trim", [this] { TrimIdle(); }) {}

DataPath::~DataPath() {
  {
    MutexLock lock(&trim_mutex_);
    stop_ = true;
    trim_changed_.SignalAll();
  }
  trimmer_.Join();
}

void DataPath::Grown() {
  MutexLock lock(&trim_mutex_);
  grown_ = true;
  trim_changed_.SignalAll();
}

void DataPath::TrimIdle() {
  while (true) {
    {
      // Sleeps for as long as there is no memory. What is there is looked at now and then: it may be in use for hours,
      // and taking and giving ranges tells nobody.
      MutexLock lock(&trim_mutex_);
      while (!grown_ && !stop_) trim_changed_.Wait(&trim_mutex_);
      const absl::Time next = SteadyNow() + idle_ / 2;
      while (!stop_ && SteadyNow() < next) trim_changed_.WaitUntil(&trim_mutex_, next);
      if (stop_) return;
      grown_ = false;
    }
    for (Arena* const arena : {receive_memory_.get(), sending_.get()}) arena->Trim(SteadyNow() - idle_);
    if (receive_memory_->bytes() > 0 || sending_->bytes() > 0) Grown();
  }
}

absl::StatusOr<std::unique_ptr<DataPath>> DataPath::Create(Carrier carrier, const RemoteOptions& options,
                                                           Control* control, ClientCounters* counters,
                                                           RequestSource* source) {
  std::string name = "transport", scheme;
  std::shared_ptr<transport::Transport> transport = options.transport;
  if (transport == nullptr) {
    name = scheme = std::string(CarrierName(carrier));
    auto made = SharedTransport(carrier, options.tls);
    if (!made.ok()) return absl::UnavailableError(absl::StrCat(name, ": ", made.status().message()));
    transport = *std::move(made);
  }
  std::unique_ptr<DataPath> path(new DataPath(name, transport, options));
  path->channel_ = std::make_unique<NodeChannel>(
      control, counters, options.connect_timeout,
      [transport = transport.get(), scheme, source, fixed = options.data_address, address = options.address,
       tls = options.tls.enabled()](const OpenedSession& session,
                                    absl::Time deadline) -> absl::StatusOr<std::shared_ptr<NodeConnection>> {
        std::string target = fixed;
        if (target.empty()) {
          auto named = DataAddress(session.data, scheme, address);
          if (!named.ok()) return absl::UnavailableError(named.status().message());
          // With TLS the server of the control service, whose certificate is for the name that the user gave.
          target = scheme == "grpc" && tls ? address : *std::move(named);
        }
        auto connection = std::make_shared<NodeConnection>(source, nullptr);
        auto carrier = transport->ConnectAs(session.token, target, connection, deadline);
        if (!carrier.ok()) {
          return absl::Status(carrier.status().code(),
                              absl::StrCat("nothing answers at ", target, ": ", carrier.status().message()));
        }
        connection->Bind(*std::move(carrier));
        return connection;
      });
  return path;
}

absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> DataPath::AllocateSlabs(int64_t bytes) {
  KVLINK_ASSIGN_OR_RETURN(auto buffer, transport_->Allocate(bytes));
  MutexLock lock(&mutex_);
  slabs_.remove_if([](const auto& one) { return one.expired(); });
  slabs_.push_back(buffer);
  return buffer;
}

std::optional<transport::Slice> DataPath::Registered(absl::Span<const std::byte> slab) {
  MutexLock lock(&mutex_);
  for (const auto& one : slabs_) {
    auto buffer = one.lock();
    if (buffer == nullptr) continue;
    const int64_t offset = slab.data() - buffer->data(), length = static_cast<int64_t>(slab.size());
    if (offset >= 0 && offset + length <= buffer->size()) return transport::Slice{std::move(buffer), offset, length};
  }
  return std::nullopt;
}

}  // namespace kvlink::store::client
