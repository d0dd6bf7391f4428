// Limits how many connections UCX accepts at a listening socket; the rest wait in the kernel's queue.
//
// UCX 1.13 accepts every connection at once, without a limit. Those beyond UCX_ASYNC_MAX_EVENTS descriptors it closes
// twice (tcp_listener.c, tcp_sockcm_ep.c); the second close may hit a descriptor that another thread has just opened
// under the same number.
//
// Thread-safety: one thread, besides UCX's own.
#ifndef KVLINK_TRANSPORT_UCX_LISTENER_GATE_H_
#define KVLINK_TRANSPORT_UCX_LISTENER_GATE_H_

#include <ucs/sys/event_set.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "base/descriptor.h"
#include "base/mutex.h"

namespace kvlink::transport {

class ListenerGate {
 public:
  // `listening` remains UCX's, which must have set its handler already. The gate opens for `admitted` connections.
  // Returns null if no descriptor is available or UCX accepts no further handler.
  static std::unique_ptr<ListenerGate> Make(int listening, int64_t admitted);
  // UCX may accept nothing afterwards; for a listener about to be destroyed.
  ~ListenerGate();
  ListenerGate(const ListenerGate&) = delete;
  ListenerGate& operator=(const ListenerGate&) = delete;

  // Lets this many more connections in.
  void Admit(int64_t connections);
  // How many more may come in; 0: the gate is closed.
  int64_t left() const;

 private:
  ListenerGate(int listening, Descriptor watched, Descriptor turn, int64_t admitted)
      : listening_(listening), watched_(std::move(watched)), turn_(std::move(turn)), left_(admitted) {}
  // On UCX's thread: a connection is waiting; UCX has had its turn.
  static void OnWaiting(int fd, ucs_event_set_types_t events, void* self);
  static void OnTurnOver(int fd, ucs_event_set_types_t events, void* self);

  const int listening_;
  const Descriptor watched_;  // a duplicate of the socket, for our own handler
  const Descriptor turn_;     // an eventfd: readable while UCX has its turn
  mutable Mutex mutex_;
  int64_t left_ ABSL_GUARDED_BY(mutex_);
  bool in_turn_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_LISTENER_GATE_H_
