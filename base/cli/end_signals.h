// The signals that end a process that serves, read from a descriptor, so that no handler is needed.
// Thread-safety: one thread at a time; EndsAtOnce has a thread of its own.
#ifndef KVLINK_BASE_CLI_END_SIGNALS_H_
#define KVLINK_BASE_CLI_END_SIGNALS_H_

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/thread.h"

namespace kvlink::cli {

// Blocks SIGTERM, SIGINT and SIGHUP, and returns a descriptor to read them from. REQUIRES: no other thread runs, since
// those that start later inherit the block.
absl::StatusOr<Descriptor> CatchEndSignals();

// Waits for SIGTERM or SIGINT. False: none came in time, or SIGHUP came, for which it calls `hang_up` (may be empty).
bool EndSignal(const Descriptor& signals, absl::Duration within, const std::function<void()>& hang_up);

// While it exists, SIGTERM and SIGINT end the process at once, as if they were not caught. For phases in which the main
// thread waits for others and reads no signals. Lifetime: `signals` outlives it.
class EndsAtOnce {
 public:
  explicit EndsAtOnce(const Descriptor& signals);
  ~EndsAtOnce();
  EndsAtOnce(const EndsAtOnce&) = delete;
  EndsAtOnce& operator=(const EndsAtOnce&) = delete;

 private:
  void Run(const Descriptor& signals) const;

  const Descriptor stop_;
  Thread thread_;  // last: it uses the other members
};

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_END_SIGNALS_H_
