// Limits how many connections UCX takes at a listening socket; those beyond wait in the system's queue.
//
// UCX 1.13 takes whatever comes, at once and without a limit. What it takes beyond UCX_ASYNC_MAX_EVENTS descriptors it
// closes twice (tcp_listener.c, tcp_sockcm_ep.c), the second time perhaps a descriptor that another thread has just
// opened under the same number.
//
// Thread-safety: one thread, beside UCX's own.
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
  // `listening` stays UCX's, which has set its handler already. The gate is open for `admitted` connections.
  // Null: the system has no descriptor, or UCX takes no further handler.
  static std::unique_ptr<ListenerGate> Make(int listening, int64_t admitted);
  // UCX may take nothing afterwards: for a listener that is about to go.
  ~ListenerGate();
  ListenerGate(const ListenerGate&) = delete;
  ListenerGate& operator=(const ListenerGate&) = delete;

  // So many more may come.
  void Admit(int64_t connections);
  // How many may still come; 0: it is shut.
  int64_t left() const;

 private:
  ListenerGate(int listening, Descriptor watched, Descriptor turn, int64_t admitted)
      : listening_(listening), watched_(std::move(watched)), turn_(std::move(turn)), left_(admitted) {}
  // On UCX's thread: somebody is waiting; UCX has had its turn.
  static void OnWaiting(int fd, ucs_event_set_types_t events, void* self);
  static void OnTurnOver(int fd, ucs_event_set_types_t events, void* self);

  const int listening_;
  const Descriptor watched_;  // the same socket, for a handler of our own
  const Descriptor turn_;     // an event: readable while UCX has its turn
  mutable Mutex mutex_;
  int64_t left_ ABSL_GUARDED_BY(mutex_);
  bool in_turn_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_LISTENER_GATE_H_
