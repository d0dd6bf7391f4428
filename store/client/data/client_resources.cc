#include "store/client/data/client_resources.h"

#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/grpc/grpc.h"
#include "transport/ucx/ucx.h"

namespace kvlink::store::client {
namespace {

template <typename Made>
absl::StatusOr<std::shared_ptr<transport::Transport>> Shared(absl::StatusOr<std::unique_ptr<Made>> made) {
  KVLINK_RETURN_IF_ERROR(made.status());
  return std::shared_ptr<transport::Transport>(*std::move(made));
}

// What distinguishes transports: for gRPC, its TLS files.
std::string NameOf(Carrier carrier, const transport::TlsOptions& tls) {
  if (carrier != Carrier::kGrpc) return "ucx";
  return absl::StrCat("grpc ", absl::CEscape(tls.ca_file), " ", absl::CEscape(tls.certificate_file), " ",
                      absl::CEscape(tls.key_file));
}

// Shares one transport of a kind among all resources of the process, as long as any of them exists. One UCX thread
// serves all UCX workers; it may deliver an event to the handler of another worker that got the same file descriptor,
// and aborts the process (UCX 1.13, async.c). Threads and buffers are better shared anyway.
absl::StatusOr<std::shared_ptr<transport::Transport>> SharedTransport(Carrier carrier,
                                                                      const transport::TlsOptions& tls) {
  static Mutex mutex;
  static std::map<std::string, std::weak_ptr<transport::Transport>> shared;
  MutexLock lock(&mutex);
  std::weak_ptr<transport::Transport>& known = shared[NameOf(carrier, tls)];
  if (auto transport = known.lock()) return transport;
  std::shared_ptr<transport::Transport> transport;
  if (carrier == Carrier::kGrpc) {
    KVLINK_ASSIGN_OR_RETURN(transport, Shared(transport::NewGrpcTransport({}, tls)));
  } else {
    KVLINK_ASSIGN_OR_RETURN(transport, Shared(transport::NewUcxTransport({})));
  }
  known = transport;
  return transport;
}

}  // namespace

ClientResources::ClientResources(const ResourceOptions& options)
    : options_(options),
      verifier_(options.nice),
      dials_({.name = "client-dial", .threads = options.dials, .nice = options.nice}) {}

absl::StatusOr<std::shared_ptr<TransportMemory>> ClientResources::OfCarrier(Carrier carrier,
                                                                            const transport::TlsOptions& tls) {
  MutexLock lock(&mutex_);
  std::shared_ptr<TransportMemory>& known = carriers_[NameOf(carrier, tls)];
  if (known != nullptr) return known;
  auto made = SharedTransport(carrier, tls);
  if (!made.ok()) {
    return absl::UnavailableError(absl::StrCat(CarrierName(carrier), ": ", made.status().message()));
  }
  known = std::make_shared<TransportMemory>(*std::move(made), options_, &timer_);
  return known;
}

std::shared_ptr<TransportMemory> ClientResources::OfTransport(std::shared_ptr<transport::Transport> transport) {
  MutexLock lock(&mutex_);
  std::weak_ptr<TransportMemory>& known = given_[transport.get()];
  if (auto memory = known.lock()) return memory;
  for (auto it = given_.begin(); it != given_.end();) {
    it = it->second.expired() && &it->second != &known ? given_.erase(it) : std::next(it);
  }
  auto memory = std::make_shared<TransportMemory>(std::move(transport), options_, &timer_);
  known = memory;
  return memory;
}

absl::StatusOr<transport::LocalTransport*> ClientResources::Local() {
  MutexLock lock(&mutex_);
  if (local_ == nullptr) {
    KVLINK_ASSIGN_OR_RETURN(local_, transport::NewLocalTransport({}));
  }
  return local_.get();
}

Worker& ClientResources::puts() {
  MutexLock lock(&mutex_);
  if (puts_ == nullptr) {
    puts_ = std::make_unique<Worker>(
        Worker::Options{.name = "client-put", .threads = options_.puts, .nice = options_.nice});
  }
  return *puts_;
}

}  // namespace kvlink::store::client
