// To end the process, the thread lets the signal through and raises it again, so that the exit status is that of the
// signal.
#include "base/cli/end_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"

namespace kvlink::cli {

absl::StatusOr<std::unique_ptr<EndSignals>> EndSignals::Catch() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Descriptor signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (signals.get() < 0) return absl::ErrnoToStatus(errno, "signalfd");
  Descriptor stop(eventfd(0, EFD_CLOEXEC));
  if (stop.get() < 0) return absl::ErrnoToStatus(errno, "eventfd");
  return std::unique_ptr<EndSignals>(new EndSignals(std::move(signals), std::move(stop)));
}

EndSignals::EndSignals(Descriptor signals, Descriptor stop) : signals_(std::move(signals)), stop_(std::move(stop)) {
  thread_ = Thread("end-signals", [this] { Run(); });
}

EndSignals::~EndSignals() {
  const uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof(one));
}

void EndSignals::BeginServing() {
  MutexLock lock(&mutex_);
  at_once_ = false;
}

void EndSignals::BeginEnding() {
  MutexLock lock(&mutex_);
  at_once_ = true;
}

EndSignals::Heard EndSignals::Next(absl::Duration within) {
  const absl::Time deadline = SteadyNow() + within;
  MutexLock lock(&mutex_);
  while (!end_ && !hang_up_ && SteadyNow() < deadline) wake_.WaitUntil(&mutex_, deadline);
  if (end_) return Heard::kEnd;
  return std::exchange(hang_up_, false) ? Heard::kHangUp : Heard::kNothing;
}

void EndSignals::Take(int signal) {
  {
    MutexLock lock(&mutex_);
    if (signal == SIGHUP) {
      hang_up_ = true;
      return wake_.SignalAll();
    }
    if (!std::exchange(at_once_, true)) {
      end_ = true;
      return wake_.SignalAll();
    }
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
  // Whoever started the process has it ignore the signal, or it is the first process of a container.
  _exit(128 + signal);
}

void EndSignals::Run() {
  pollfd waiting[] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (waiting[1].revents == 0) {
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    signalfd_siginfo info;
    if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) Take(static_cast<int>(info.ssi_signo));
  }
}

}  // namespace kvlink::cli
