#include "worker/ingest/source/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace kvlink::ingest {

Interrupt::Interrupt() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  static_assert(std::atomic<bool>::is_always_lock_free);
}

Interrupt::~Interrupt() {
  if (event_ >= 0) close(event_);
}

void Interrupt::Raise() const {
  const int error = errno;
  raised_ = true;
  eventfd_write(event_, 1);
  errno = error;
}

absl::Status Interrupt::WaitReadable(int descriptor) const {
  if (event_ < 0) {
    return absl::ResourceExhaustedError(
        "cannot create a descriptor for interrupts; raise the limit on open files (ulimit -n)");
  }
  pollfd waits[] = {{event_, POLLIN, 0}, {descriptor, POLLIN, 0}};
  while (poll(waits, 2, -1) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "cannot wait for input");
  }
  return waits[0].revents != 0 ? absl::CancelledError("reading was interrupted") : absl::OkStatus();
}

}  // namespace kvlink::ingest
