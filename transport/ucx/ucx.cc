#include "transport/ucx/ucx.h"

#include <utility>

#include "base/status.h"
#include "transport/address.h"
#include "transport/host_memory.h"
#include "transport/session_host.h"
#include "transport/ucx/context.h"
#include "transport/ucx/worker.h"

namespace kvlink::transport {
namespace {

class UcxListener : public Listener {
 public:
  UcxListener(ProgressThread* thread, UcxWorker::Listening* listening) : thread_(thread), listening_(listening) {}
  ~UcxListener() override {
    thread_->Run([this] { UcxWorker::StopListening(listening_); });
  }
  std::string address() const override { return listening_->bound.ToString(); }

 private:
  ProgressThread* const thread_;
  UcxWorker::Listening* const listening_;
};

class UcxTransport : public Transport {
 public:
  UcxTransport(std::shared_ptr<UcxContext> context, std::unique_ptr<UcxWorker> worker,
               std::unique_ptr<SessionHost> host)
      : context_(std::move(context)), worker_(std::move(worker)), host_(std::move(host)) {}

  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) override {
    KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<HostMemory> memory, HostMemory::Map(bytes));
    std::byte* const data = memory->data();
    return Register(data, bytes, {}, std::move(memory));
  }
  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes, const MemoryPlace& place,
                                                             std::shared_ptr<void> owner) override {
    return UcxBuffer::Register(context_, host_->shared_counters(), data, bytes, place, std::move(owner));
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) override {
    KVLINK_ASSIGN_OR_RETURN(const Address named, ParseAddress(address));
    KVLINK_ASSIGN_OR_RETURN(const SocketAddress resolved, Resolve(named));
    absl::StatusOr<UcxWorker::Listening*> listening;
    host_->thread().Run([&] { listening = worker_->Listen(named, resolved, std::move(accept)); });
    if (!listening.ok()) return listening.status();
    return std::make_unique<UcxListener>(&host_->thread(), *listening);
  }
  absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                      std::shared_ptr<ConnectionEvents> events,
                                                      absl::Time deadline) override {
    KVLINK_ASSIGN_OR_RETURN(const Address named, ParseAddress(address));
    KVLINK_ASSIGN_OR_RETURN(const SocketAddress resolved, Resolve(named));
    return host_->Connect([this, resolved] { return worker_->Dial(resolved); }, std::move(events), deadline);
  }
  TransportStats Stats() const override { return host_->Stats(); }

 private:
  const std::shared_ptr<UcxContext> context_;
  const std::unique_ptr<UcxWorker> worker_;  // must outlive its sessions and its thread
  const std::unique_ptr<SessionHost> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> NewUcxTransport(const TransportOptions& options, absl::string_view only_at) {
  std::string device;
  if (!only_at.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const Address named, ParseAddress(only_at));
    KVLINK_ASSIGN_OR_RETURN(const SocketAddress resolved, Resolve(named));
    KVLINK_ASSIGN_OR_RETURN(device, DeviceWith(resolved));
  }
  KVLINK_ASSIGN_OR_RETURN(auto context, UcxContext::Create(device));
  KVLINK_ASSIGN_OR_RETURN(auto worker, UcxWorker::Create(context));
  KVLINK_ASSIGN_OR_RETURN(auto host, SessionHost::Start(options, worker.get()));
  host->thread().Run([&] { worker->Bind(host.get()); });
  return std::make_unique<UcxTransport>(std::move(context), std::move(worker), std::move(host));
}

}  // namespace kvlink::transport
