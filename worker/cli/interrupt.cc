#include "worker/cli/interrupt.h"

#include <atomic>
#include <csignal>

namespace kvlink::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};

// Not what the interrupt says, which others may raise: a source is stopped for other reasons, too.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

CatchInterrupt::CatchInterrupt() {
  SignalInterrupt();  // made here, and not in the handler
  struct sigaction action = {};
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  action.sa_handler = [](int) {
    interrupted = true;
    SignalInterrupt().Raise();
  };
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

CatchInterrupt::~CatchInterrupt() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

bool Interrupted() { return interrupted; }

const ingest::Interrupt& SignalInterrupt() {
  static const auto* const interrupt = new ingest::Interrupt;
  return *interrupt;
}

}  // namespace kvlink::cli
