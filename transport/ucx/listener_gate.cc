// UCX accepts one connection per socket event that its thread reports, and gets events only during its turn. The turn
// begins when our handler, on a duplicate of the socket, finds a waiting connection. It ends with the next batch of
// events, which contains both the socket's and that of `turn_`.
#include "transport/ucx/listener_gate.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <ucs/async/async_fwd.h>
#include <unistd.h>

namespace kvlink::transport {
namespace {

constexpr auto kOff = static_cast<ucs_event_set_types_t>(0);

bool Handle(int fd, ucs_async_event_cb_t handler, void* self) {
  return ucs_async_set_event_handler(UCS_ASYNC_MODE_THREAD_SPINLOCK, fd, UCS_EVENT_SET_EVREAD, handler, self,
                                     nullptr) == UCS_OK;
}

}  // namespace

std::unique_ptr<ListenerGate> ListenerGate::Make(int listening, int64_t admitted) {
  Descriptor watched(fcntl(listening, F_DUPFD_CLOEXEC, 0)), turn(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (watched.get() < 0 || turn.get() < 0) return nullptr;
  std::unique_ptr<ListenerGate> gate(new ListenerGate(listening, std::move(watched), std::move(turn), admitted));
  if (ucs_async_modify_handler(listening, kOff) != UCS_OK) return nullptr;
  if (!Handle(gate->turn_.get(), OnTurnOver, gate.get())) return nullptr;
  if (!Handle(gate->watched_.get(), OnWaiting, gate.get())) return nullptr;
  return gate;
}

ListenerGate::~ListenerGate() {
  for (const Descriptor* handled : {&watched_, &turn_}) ucs_async_remove_handler(handled->get(), 1);  // waits for it
  MutexLock lock(&mutex_);  // for ThreadSanitizer, which cannot see that wait
}

void ListenerGate::Admit(int64_t connections) {
  MutexLock lock(&mutex_);
  left_ += connections;
  ucs_async_modify_handler(watched_.get(), UCS_EVENT_SET_EVREAD);
}

int64_t ListenerGate::left() const {
  MutexLock lock(&mutex_);
  return left_;
}

void ListenerGate::OnWaiting(int watched, ucs_event_set_types_t, void* arg) {
  auto* const self = static_cast<ListenerGate*>(arg);
  MutexLock lock(&self->mutex_);
  if (self->in_turn_) return;
  if (self->left_ == 0) {
    ucs_async_modify_handler(watched, kOff);
    return;
  }
  --self->left_;
  self->in_turn_ = true;
  ucs_async_modify_handler(self->listening_, UCS_EVENT_SET_EVREAD);
  eventfd_write(self->turn_.get(), 1);
}

void ListenerGate::OnTurnOver(int turn, ucs_event_set_types_t, void* arg) {
  auto* const self = static_cast<ListenerGate*>(arg);
  MutexLock lock(&self->mutex_);
  eventfd_t unused = 0;
  eventfd_read(turn, &unused);
  self->in_turn_ = false;
  ucs_async_modify_handler(self->listening_, kOff);
}

}  // namespace kvlink::transport
