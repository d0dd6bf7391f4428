#include "transport/ucx/wire.h"

#include <utility>

#include "base/status.h"
#include "transport/session.h"

namespace kvlink::transport {

namespace {

// Set explicitly, because UCX takes device memory it does not know for host memory.
void SetMemory(const RegisteredBuffer& buffer, ucp_request_param_t* params) {
  params->op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params->memory_type = MemoryTypeOf(buffer.place());
}

}  // namespace

// One operation in UCX. Owns itself until Finish.
struct UcxWire::Request {
  std::shared_ptr<UcxWire*> wire;
  std::string frame;  // UCX reads it until the operation ends
  std::function<void(const absl::Status&)> done;
};

absl::StatusOr<std::unique_ptr<UcxWire>> UcxWire::Open(ucp_worker_h worker, const UcxContext* context,
                                                       ProgressThread* thread, ucp_ep_params_t params,
                                                       std::string peer) {
  std::unique_ptr<UcxWire> wire(new UcxWire(worker, context, thread, std::move(peer)));
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = OnFailed;
  params.err_handler.arg = wire.get();
  const ucs_status_t status = ucp_ep_create(worker, &params, &wire->endpoint_);
  if (status != UCS_OK) return UcxError(absl::StrCat("connecting ", wire->peer_), status);
  return wire;
}

UcxWire::~UcxWire() {
  *self_ = nullptr;
  if (endpoint_ == nullptr) return;
  // Only if the transport ended without waiting for this connection any longer; nothing is notified of the rest.
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t answer = ucp_ep_close_nbx(endpoint_, &params);
  if (UCS_PTR_IS_PTR(answer)) ucp_request_free(answer);
}

void UcxWire::OnFailed(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  UcxWire* const wire = static_cast<UcxWire*>(self);
  wire->thread_->Defer([session = wire->session_, peer = wire->peer_, status] {
    const auto held = session.lock();
    if (held != nullptr) held->OnDisconnected(UcxError(peer, status));
  });
}

ucp_request_param_t UcxWire::Params(Request* request) const {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.cb.send = OnSent;
  params.user_data = request;
  return params;
}

UcxWire::Request* UcxWire::Begin(std::function<void(const absl::Status&)> done) {
  ++under_way_;
  return new Request{self_, "", std::move(done)};
}

void UcxWire::Started(Request* request, ucs_status_ptr_t answer) {
  if (UCS_PTR_IS_PTR(answer)) return;
  thread_->Defer([request, status = UCS_PTR_STATUS(answer)] {
    if (UcxWire* const wire = *request->wire) return wire->Finish(request, status);
    delete request;
  });
}

void UcxWire::OnSent(void* request, ucs_status_t status, void* user_data) {
  ucp_request_free(request);
  Request* const ours = static_cast<Request*>(user_data);
  if (UcxWire* const wire = *ours->wire) return wire->Finish(ours, status);
  delete ours;  // the wire is gone
}

void UcxWire::OnReceived(void* request, ucs_status_t status, size_t, void* user_data) {
  OnSent(request, status, user_data);
}

void UcxWire::Finish(Request* request, ucs_status_t status) {
  const std::unique_ptr<Request> ended(request);
  const auto keep = session_.lock();  // keeps the session, and so this wire
  absl::Status result;
  if (status == kDropped) {
    result = absl::CancelledError(absl::StrCat(peer_, " dropped the payload"));
  } else if (status != UCS_OK) {
    result = UcxError(peer_, status);
  }
  ended->done(result);
  --under_way_;
  CheckClosed();
}

void UcxWire::SendFrame(std::string frame, std::function<void()> taken) {
  Request* const request = Begin([taken = std::move(taken)](const absl::Status&) { taken(); });
  request->frame = std::move(frame);
  if (closing_) return Started(request, UCS_STATUS_PTR(UCS_ERR_CANCELED));
  ucp_request_param_t params = Params(request);
  params.flags = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;
  Started(request,
          ucp_am_send_nbx(endpoint_, kFrameMessage, nullptr, 0, request->frame.data(), request->frame.size(), &params));
}

void UcxWire::SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) {
  Request* const request = Begin(std::move(done));
  request->frame = std::move(frame);
  if (closing_) return Started(request, UCS_STATUS_PTR(UCS_ERR_CANCELED));
  ucp_request_param_t params = Params(request);
  params.flags = UCP_AM_SEND_FLAG_RNDV;
  SetMemory(*from.buffer, &params);
  Started(request, ucp_am_send_nbx(endpoint_, kPayloadMessage, request->frame.data(), request->frame.size(),
                                   from.data(), from.length, &params));
}

bool UcxWire::Receive(void* descriptor, const Slice& into, std::function<void(const absl::Status&)> done) {
  Request* const request = Begin(std::move(done));
  ucp_request_param_t params = Params(request);
  params.op_attr_mask &= ~static_cast<uint32_t>(UCP_OP_ATTR_FIELD_FLAGS);
  params.cb.recv_am = OnReceived;
  SetMemory(*into.buffer, &params);
  const ucs_status_ptr_t answer = ucp_am_recv_data_nbx(worker_, descriptor, into.data(), into.length, &params);
  Started(request, answer);
  return !UCS_PTR_IS_ERR(answer);
}

bool UcxWire::Owns(const RegisteredBuffer& buffer) const {
  const auto* const ours = dynamic_cast<const UcxBuffer*>(&buffer);
  return ours != nullptr && ours->context() == context_;
}

void UcxWire::Close(bool flush, std::function<void()> closed) {
  closed_ = std::move(closed);
  closing_ = true;
  force_ = force_ || !flush;
  // Deferred, because this may run within a call of UCX.
  thread_->Defer([this, keep = session_.lock()] {
    if (force_) {
      ForceClose();
      return CheckClosed();
    }
    Request* const request = Begin([this](const absl::Status&) { ForceClose(); });
    const ucp_request_param_t params = Params(request);
    Started(request, ucp_ep_flush_nbx(endpoint_, &params));
  });
}

// Pending operations then complete with an error, once UCX has released the connection.
void UcxWire::ForceClose() {
  const ucp_ep_h endpoint = std::exchange(endpoint_, nullptr);
  if (endpoint == nullptr) return;
  closing_ = true;
  ++under_way_;
  auto* const request = new Request{self_, "", [](const absl::Status&) {}};
  ucp_request_param_t params = Params(request);
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t answer = ucp_ep_close_nbx(endpoint, &params);
  if (UCS_PTR_IS_PTR(answer)) return;
  delete request;
  --under_way_;
}

void UcxWire::CheckClosed() {
  if (endpoint_ != nullptr || under_way_ > 0 || closed_ == nullptr) return;
  std::exchange(closed_, nullptr)();
}

}  // namespace kvlink::transport
