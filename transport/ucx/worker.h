// A UCX worker: passes what it receives to the sessions of its host.
//
// Thread-safety: the host's progress thread, except Create and the destructor (that thread must not be running).
#ifndef KVLINK_TRANSPORT_UCX_WORKER_H_
#define KVLINK_TRANSPORT_UCX_WORKER_H_

#include <ucp/api/ucp.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "transport/address.h"
#include "transport/progress.h"
#include "transport/session_host.h"
#include "transport/ucx/context.h"
#include "transport/ucx/port_guard.h"
#include "transport/ucx/wire.h"

namespace kvlink::transport {

class UcxWorker : public EventSource {
 public:
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(std::shared_ptr<UcxContext> context);
  ~UcxWorker() override;
  // Call before the first Listen or Dial.
  void Bind(SessionHost* host);

  bool Poll() override;
  bool Arm() override { return ucp_worker_arm(worker_) == UCS_OK; }
  int fd() const override { return fd_; }

  // Returns a wire to `address`, which connects in the background.
  absl::StatusOr<std::unique_ptr<Wire>> Dial(const SocketAddress& address);

  // A listener. It stays until the worker is destroyed: UCX keeps pointers to it in connections that have not yet
  // identified themselves (tcp_listener.c), and follows them on a thread of its own.
  struct Listening {
    UcxWorker* worker = nullptr;
    Accept accept;  // null: connections are refused
    ucp_listener_h listener = nullptr;
    Address bound;
  };
  absl::StatusOr<Listening*> Listen(const Address& named, const SocketAddress& address, Accept accept);
  static void StopListening(Listening* listening) { listening->accept = nullptr; }

 private:
  UcxWorker(std::shared_ptr<UcxContext> context, ucp_worker_h worker, int fd);
  static void OnConnection(ucp_conn_request_h request, void* listening);
  static ucs_status_t OnFrame(void* self, const void* header, size_t header_length, void* data, size_t length,
                              const ucp_am_recv_param_t* param);
  static ucs_status_t OnPayload(void* self, const void* header, size_t header_length, void* data, size_t length,
                                const ucp_am_recv_param_t* param);
  void TakeConnection(ucp_conn_request_h request, const Listening& listening);
  // Guards the listeners' ports, and the one at which every UCX worker listens by itself, against peers that do not
  // speak UCX.
  void Guard();

  const std::shared_ptr<UcxContext> context_;
  const ucp_worker_h worker_;
  const int fd_;
  SessionHost* host_ = nullptr;
  std::vector<std::unique_ptr<Listening>> listenings_;
  PortGuard guard_;
  // Accepted, with no frame received yet: the first frame is matched by its endpoint, later ones by a token.
  absl::flat_hash_map<ucp_ep_h, std::weak_ptr<Session>> silent_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_WORKER_H_
