// Without SA_RESTART, blocked reads return, which std::signal does not guarantee.
#include "worker/cli/interrupt.h"

#include <csignal>

namespace kvlink::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

}  // namespace

void CatchInterrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
}

bool Interrupted() { return interrupted != 0; }

}  // namespace kvlink::cli
