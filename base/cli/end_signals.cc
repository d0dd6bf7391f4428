// Once the main thread waits for something else, a thread reads the descriptor in its place, lets the signal through
// and raises it again, so that the exit status is that of the signal.
#include "base/cli/end_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

#include "absl/status/status.h"

namespace kvlink::cli {

absl::StatusOr<Descriptor> CatchEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Descriptor descriptor(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (descriptor.get() < 0) return absl::ErrnoToStatus(errno, "signalfd");
  return descriptor;
}

bool EndSignal(const Descriptor& signals, absl::Duration within, const std::function<void()>& hang_up) {
  pollfd waiting{signals.get(), POLLIN, 0};
  if (poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(within))) <= 0) return false;
  signalfd_siginfo info;
  if (read(signals.get(), &info, sizeof(info)) != sizeof(info)) return false;
  if (info.ssi_signo != SIGHUP) return true;
  if (hang_up) hang_up();
  return false;
}

EndsAtOnce::EndsAtOnce(const Descriptor& signals) : stop_(eventfd(0, EFD_CLOEXEC)) {
  thread_ = Thread("end-signals", [this, &signals] { Run(signals); });
}

EndsAtOnce::~EndsAtOnce() {
  const uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof(one));
}

void EndsAtOnce::Run(const Descriptor& signals) const {
  pollfd waiting[] = {{signals.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (waiting[1].revents == 0) {
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    signalfd_siginfo info;
    if (waiting[0].revents == 0 || read(signals.get(), &info, sizeof(info)) != sizeof(info)) continue;
    if (info.ssi_signo == SIGHUP) continue;  // at the start the file is read anyway; at the end no new client comes
    const int signal = static_cast<int>(info.ssi_signo);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    raise(signal);
  }
}

}  // namespace kvlink::cli
