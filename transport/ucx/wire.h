// A connection over a UCX endpoint. Thread-safety and lifetime as transport/wire.h.
#ifndef KVLINK_TRANSPORT_UCX_WIRE_H_
#define KVLINK_TRANSPORT_UCX_WIRE_H_

#include <ucp/api/ucp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/progress.h"
#include "transport/ucx/context.h"
#include "transport/wire.h"

namespace kvlink::transport {

// Ids of the active messages.
inline constexpr unsigned kFrameMessage = 0, kPayloadMessage = 1;
// Status that ends the rendezvous of a payload the receiver does not want; UCX passes it to the sender. (UCX itself
// uses "cancelled" for requests on a failed endpoint.)
inline constexpr ucs_status_t kDropped = UCS_ERR_REJECTED;

class UcxWire : public Wire {
 public:
  // `params` says where to connect (an address or a connection request). UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<UcxWire>> Open(ucp_worker_h worker, const UcxContext* context,
                                                       ProgressThread* thread, ucp_ep_params_t params,
                                                       std::string peer);
  ~UcxWire() override;

  void Attach(std::weak_ptr<Session> session) override { session_ = std::move(session); }
  void SendFrame(std::string frame, std::function<void()> taken) override;
  void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) override;
  void Close(bool flush, std::function<void()> closed) override;
  bool Owns(const RegisteredBuffer& buffer) const override;
  std::string peer() const override { return peer_; }

  // Within an active message's handler: starts receiving the data of `descriptor`. Returns false if that fails.
  bool Receive(void* descriptor, const Slice& into, std::function<void(const absl::Status&)> done);
  ucp_ep_h endpoint() const { return endpoint_; }
  const std::weak_ptr<Session>& session() const { return session_; }

 private:
  struct Request;

  UcxWire(ucp_worker_h worker, const UcxContext* context, ProgressThread* thread, std::string peer)
      : worker_(worker), context_(context), thread_(thread), peer_(std::move(peer)) {}
  static void OnSent(void* request, ucs_status_t status, void* user_data);
  static void OnReceived(void* request, ucs_status_t status, size_t length, void* user_data);
  static void OnFailed(void* self, ucp_ep_h endpoint, ucs_status_t status);
  ucp_request_param_t Params(Request* request) const;
  Request* Begin(std::function<void(const absl::Status&)> done);
  // Handles UCX's answer to an operation; one that completed at once is finished in the next round.
  void Started(Request* request, ucs_status_ptr_t answer);
  void Finish(Request* request, ucs_status_t status);
  void ForceClose();
  void CheckClosed();

  const ucp_worker_h worker_;
  const UcxContext* const context_;
  ProgressThread* const thread_;
  const std::string peer_;
  // The wire, for its requests: null once it is destroyed. UCX may complete requests later, with the worker.
  const std::shared_ptr<UcxWire*> self_ = std::make_shared<UcxWire*>(this);
  std::weak_ptr<Session> session_;
  ucp_ep_h endpoint_ = nullptr;  // null once closed
  int64_t under_way_ = 0;        // requests
  bool closing_ = false, force_ = false;
  std::function<void()> closed_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_WIRE_H_
