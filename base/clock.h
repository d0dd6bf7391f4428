// The clock for deadlines and intervals. Unlike the wall clock, it never steps.
//
// Times are absl::Time, so deadlines and durations look as usual, but they have a meaning only within this process:
// they start near the wall clock's time and drift from it. Anything shown to people, written to disk or sent to another
// process uses absl::Now() or a duration, never SteadyNow().
// Thread-safety: all functions are thread-safe.
#ifndef KVLINK_BASE_CLOCK_H_
#define KVLINK_BASE_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace kvlink {

absl::Time SteadyNow();

// Convert a SteadyNow() deadline for interfaces that use another clock (std::condition_variable, gRPC).
std::chrono::steady_clock::time_point ToSteadyClock(absl::Time deadline);
std::chrono::system_clock::time_point ToSystemClock(absl::Time deadline);

}  // namespace kvlink

#endif  // KVLINK_BASE_CLOCK_H_
