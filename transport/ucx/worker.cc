#include "transport/ucx/worker.h"

#include <sys/eventfd.h>
#include <ucs/async/async_fwd.h>

#include <atomic>
#include <utility>

#include "base/clock.h"
#include "base/descriptor.h"
#include "base/mutex.h"
#include "base/status.h"
#include "transport/frame.h"

namespace kvlink::transport {
namespace {

constexpr int kPolls = 16;  // of UCX per round, so that other work gets its turn

// The payload offered by a rendezvous.
class UcxOffer : public Offer {
 public:
  UcxOffer(UcxWire* wire, void* descriptor, size_t bytes)
      : wire_(wire), descriptor_(descriptor), bytes_(static_cast<int64_t>(bytes)) {}
  int64_t bytes() const override { return bytes_; }
  void Receive(const Slice& into, std::function<void(const absl::Status&)> done) override {
    received_ = wire_->Receive(descriptor_, into, std::move(done));
  }
  bool received() const { return received_; }

 private:
  UcxWire* const wire_;
  void* const descriptor_;
  const int64_t bytes_;
  bool received_ = false;
};

// While it exists, the thread on which UCX handles connections, for all workers of the process, stands still.
class StillAsyncThread {
 public:
  StillAsyncThread() : event_(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) {
    // Both thread modes use the same thread.
    set_ = event_.get() >= 0 && ucs_async_set_event_handler(UCS_ASYNC_MODE_THREAD_SPINLOCK, event_.get(),
                                                            UCS_EVENT_SET_EVREAD, Stand, this, nullptr) == UCS_OK;
    MutexLock lock(&mutex_);
    while (set_ && !still_) changed_.Wait(&mutex_);
  }
  ~StillAsyncThread() {
    {
      MutexLock lock(&mutex_);
      over_ = true;
      changed_.SignalAll();
    }
    if (set_) ucs_async_remove_handler(event_.get(), 1);  // waits for it to finish
    (void)ended_.load(std::memory_order_acquire);
  }
  StillAsyncThread(const StillAsyncThread&) = delete;
  StillAsyncThread& operator=(const StillAsyncThread&) = delete;

 private:
  static void Stand(int, ucs_event_set_types_t, void* arg) {
    auto* const self = static_cast<StillAsyncThread*>(arg);
    {
      MutexLock lock(&self->mutex_);
      self->still_ = true;
      self->changed_.SignalAll();
      while (!self->over_) self->changed_.Wait(&self->mutex_);
    }
    self->ended_.fetch_add(1, std::memory_order_release);
  }

  const Descriptor event_;
  bool set_ = false;
  std::atomic<int> ended_{0};  // for ThreadSanitizer, which cannot see UCX's synchronisation
  Mutex mutex_;
  CondVar changed_;
  bool still_ ABSL_GUARDED_BY(mutex_) = false, over_ ABSL_GUARDED_BY(mutex_) = false;
};

// Otherwise UCX's thread would record that the connection is writable and find that record after its descriptor was
// reused, on which UCX aborts the process (UCX 1.13, tcp_sockcm_ep.c).
void Reject(ucp_listener_h listener, ucp_conn_request_h request) {
  const StillAsyncThread still;
  ucp_listener_reject(listener, request);
}

}  // namespace

UcxWorker::UcxWorker(std::shared_ptr<UcxContext> context, ucp_worker_h worker, int fd)
    : context_(std::move(context)),
      worker_(worker),
      fd_(fd),
      guard_({.known = [this](const std::string& peer) { return host_->Knows(peer); },
              .still =
                  [](const std::function<void()>& act) {
                    const StillAsyncThread still;
                    act();
                  }}) {}

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(std::shared_ptr<UcxContext> context) {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h worker = nullptr;
  const std::set<int> others = PortGuard::Listening();
  ucs_status_t status = ucp_worker_create(context->get(), &params, &worker);
  if (status != UCS_OK) return UcxError("making a worker", status);
  int fd = -1;
  status = ucp_worker_get_efd(worker, &fd);
  std::unique_ptr<UcxWorker> made(new UcxWorker(std::move(context), worker, fd));
  for (const int listening : PortGuard::Listening()) {
    if (!others.contains(listening)) made->guard_.AddInterface(listening);
  }
  for (const unsigned id : {kFrameMessage, kPayloadMessage}) {
    ucp_am_handler_param_t handler = {};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = id;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = id == kFrameMessage ? OnFrame : OnPayload;
    handler.arg = made.get();
    if (status == UCS_OK) status = ucp_worker_set_am_recv_handler(worker, &handler);
  }
  if (status != UCS_OK) return UcxError("setting up a worker", status);
  return made;
}

UcxWorker::~UcxWorker() {
  // Between the two, no peer may connect.
  const StillAsyncThread still;
  guard_.RemoveGates();
  for (const auto& listening : listenings_) ucp_listener_destroy(listening->listener);
  ucp_worker_destroy(worker_);
}

void UcxWorker::Bind(SessionHost* host) {
  host_ = host;
  Guard();
}

bool UcxWorker::Poll() {
  bool any = false;
  for (int i = 0; i < kPolls && ucp_worker_progress(worker_) != 0; ++i) any = true;
  return any;
}

absl::StatusOr<std::unique_ptr<Wire>> UcxWorker::Dial(const SocketAddress& address) {
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = address.get();
  params.sockaddr.addrlen = address.length;
  return UcxWire::Open(worker_, context_.get(), &host_->thread(), params, address.ToAddress().ToString());
}

absl::StatusOr<UcxWorker::Listening*> UcxWorker::Listen(const Address& named, const SocketAddress& address,
                                                        Accept accept) {
  auto listening = std::make_unique<Listening>();
  listening->worker = this;
  listening->accept = std::move(accept);
  ucp_listener_params_t params = {};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = address.get();
  params.sockaddr.addrlen = address.length;
  params.conn_handler.cb = OnConnection;
  params.conn_handler.arg = listening.get();
  const std::set<int> others = PortGuard::Listening();
  const ucs_status_t status = ucp_listener_create(worker_, &params, &listening->listener);
  if (status != UCS_OK) {
    return UcxError(absl::StrCat("listening at ", named.ToString()), status);
  }
  ucp_listener_attr_t attributes = {};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  ucp_listener_query(listening->listener, &attributes);
  listening->bound = {named.host, SocketAddress{attributes.sockaddr}.ToAddress().port};
  for (const int fd : PortGuard::Listening()) {
    if (others.contains(fd)) continue;
    if (const absl::Status guarded = guard_.AddListener(fd); !guarded.ok()) {
      listening->accept = nullptr;
      listenings_.push_back(std::move(listening));
      return Annotate(guarded, absl::StrCat("listening at ", named.ToString()));
    }
  }
  listenings_.push_back(std::move(listening));
  return listenings_.back().get();
}

void UcxWorker::Guard() {
  int64_t closed = 0;
  const absl::Time again = guard_.Look(SteadyNow(), &closed);
  for (; closed > 0; --closed) host_->counters().Closed("stranger");
  host_->thread().timers().At(again, [this] { Guard(); });
}

void UcxWorker::OnConnection(ucp_conn_request_h request, void* arg) {
  const auto* const listening = static_cast<const Listening*>(arg);
  UcxWorker* const worker = listening->worker;
  if (listening->accept == nullptr) return Reject(listening->listener, request);
  worker->host_->thread().Defer([worker, request, listening] { worker->TakeConnection(request, *listening); });
}

void UcxWorker::TakeConnection(ucp_conn_request_h request, const Listening& listening) {
  if (!host_->HasRoom()) {
    host_->counters().Closed("excess");
    return Reject(listening.listener, request);
  }
  ucp_conn_request_attr_t attributes = {};
  attributes.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
  ucp_conn_request_query(request, &attributes);
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  auto wire = UcxWire::Open(worker_, context_.get(), &host_->thread(), params,
                            SocketAddress{attributes.client_address}.ToAddress().ToString());
  if (!wire.ok()) return host_->counters().Closed("network");
  absl::erase_if(silent_, [](const auto& entry) { return entry.second.expired(); });
  const ucp_ep_h endpoint = (*wire)->endpoint();
  silent_[endpoint] = host_->AddAccepted(*std::move(wire), listening.accept);
}

ucs_status_t UcxWorker::OnFrame(void* self, const void*, size_t, void* data, size_t length,
                                const ucp_am_recv_param_t* param) {
  auto* const worker = static_cast<UcxWorker*>(self);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;  // no frame is that large: dropped
  const absl::string_view frame(static_cast<const char*>(data), length);
  const uint64_t token = FrameToken(frame);
  std::shared_ptr<Session> session;
  if (token != 0) {
    session = worker->host_->Find(token);
  } else if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0) {
    const auto found = worker->silent_.find(param->reply_ep);
    if (found == worker->silent_.end()) return UCS_OK;
    session = found->second.lock();
    worker->silent_.erase(found);
  }
  if (session != nullptr) session->OnFrame(frame);
  return UCS_OK;
}

ucs_status_t UcxWorker::OnPayload(void* self, const void* header, size_t header_length, void* data, size_t length,
                                  const ucp_am_recv_param_t* param) {
  auto* const worker = static_cast<UcxWorker*>(self);
  // UCX does not align its header; frames are read byte by byte.
  const absl::string_view frame(static_cast<const char*>(header), header_length);
  const auto session = worker->host_->Find(FrameToken(frame));
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  if (session == nullptr) return rendezvous ? kDropped : UCS_OK;
  // A payload without rendezvous is invalid; offered as 0 bytes, so that the session refuses it for its length.
  UcxOffer offer(static_cast<UcxWire*>(session->wire()), data, rendezvous ? length : 0);
  session->OnPayload(frame, &offer);
  if (!rendezvous) return UCS_OK;
  return offer.received() ? UCS_INPROGRESS : kDropped;
}

}  // namespace kvlink::transport
