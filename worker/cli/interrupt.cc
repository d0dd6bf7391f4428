// Without SA_RESTART, blocked reads return, which std::signal does not guarantee.
#include "worker/cli/interrupt.h"

#include <atomic>
#include <csignal>
#include <utility>

namespace kvlink::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};

volatile std::sig_atomic_t interrupted = 0;
std::atomic<const std::function<void()>*> on_interrupt{nullptr};
static_assert(std::atomic<const std::function<void()>*>::is_always_lock_free);

}  // namespace

CatchInterrupt::CatchInterrupt(std::function<void()> then) : then_(std::move(then)) {
  if (then_) on_interrupt = &then_;
  struct sigaction action = {};
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  action.sa_handler = [](int) {
    interrupted = 1;
    if (const auto* const then = on_interrupt.load()) (*then)();
  };
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

CatchInterrupt::~CatchInterrupt() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
  on_interrupt = nullptr;
}

bool Interrupted() { return interrupted != 0; }

}  // namespace kvlink::cli
