#include "worker/ingest/source/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace kvlink::ingest {

absl::StatusOr<std::unique_ptr<Interrupt>> Interrupt::Create() {
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0)
    return absl::ErrnoToStatus(errno,
                               "cannot create a descriptor for interrupts; raise the limit on open files (ulimit -n)");
  return std::unique_ptr<Interrupt>(new Interrupt(event));
}

Interrupt::~Interrupt() { close(event_); }

void Interrupt::Raise() const { eventfd_write(event_, 1); }

absl::Status Interrupt::WaitReadable(int descriptor) const {
  pollfd waits[] = {{event_, POLLIN, 0}, {descriptor, POLLIN, 0}};
  while (poll(waits, 2, -1) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "cannot wait for input");
  }
  return waits[0].revents != 0 ? absl::CancelledError("reading was interrupted") : absl::OkStatus();
}

}  // namespace kvlink::ingest
