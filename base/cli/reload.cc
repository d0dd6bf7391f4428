// What was read is put to use under the lock, so that the destructor, which takes it, comes before or after that.
#include "base/cli/reload.h"

#include <utility>
#include <vector>

#include "base/clock.h"

namespace kvlink::cli {
namespace {

constexpr absl::Duration kWaitForRead = absl::Seconds(1);

// Threads whose reads hang, until the process ends.
struct Hanging {
  Mutex mutex;
  std::vector<Thread> threads ABSL_GUARDED_BY(mutex);
};

void LeaveBehind(Thread thread) {
  static Hanging* const hanging = new Hanging;  // never destroyed, since that would join
  MutexLock lock(&hanging->mutex);
  hanging->threads.push_back(std::move(thread));
}

}  // namespace

Reload::Reload(Read read, absl::Duration patience) : state_(std::make_shared<State>()) {
  thread_ = Thread("reload", [state = state_, read = std::move(read), patience] { Run(state.get(), read, patience); });
}

Reload::~Reload() {
  bool hangs;
  {
    MutexLock lock(&state_->mutex);
    state_->stop = true;
    state_->wake.SignalAll();
    const absl::Time deadline = SteadyNow() + kWaitForRead;
    while (state_->reading && SteadyNow() < deadline) state_->wake.WaitUntil(&state_->mutex, deadline);
    hangs = state_->reading;
  }
  if (hangs) LeaveBehind(std::move(thread_));
}

void Reload::Begin() {
  MutexLock lock(&state_->mutex);
  state_->asked = true;
  state_->wake.SignalAll();
}

bool Reload::Overdue() {
  MutexLock lock(&state_->mutex);
  if (SteadyNow() < state_->overdue_at) return false;
  state_->overdue_at = absl::InfiniteFuture();
  return true;
}

void Reload::Run(State* state, const Read& read, absl::Duration patience) {
  ReleasableMutexLock lock(&state->mutex);
  for (;;) {
    while (!state->asked && !state->stop) state->wake.Wait(&state->mutex);
    if (state->stop) return;
    state->asked = false;
    state->reading = true;
    state->overdue_at = SteadyNow() + patience;
    lock.Release();
    const Use use = read();
    lock.Reacquire();
    state->reading = false;
    state->overdue_at = absl::InfiniteFuture();
    state->wake.SignalAll();
    if (state->stop) return;
    use();
  }
}

}  // namespace kvlink::cli
