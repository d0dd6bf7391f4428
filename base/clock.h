// The clock of deadlines and intervals. It never steps, whatever is done to the host's wall clock.
//
// Times of this clock are absl::Time, so that deadlines and durations read as everywhere, but they are of this process
// alone: they begin near the wall clock's time and drift from it. What is shown to people, written to a disk or sent to
// another process is absl::Now() or a duration, never a SteadyNow().
// Thread-safety: all functions.
#ifndef KVLINK_BASE_CLOCK_H_
#define KVLINK_BASE_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace kvlink {

absl::Time SteadyNow();

// A deadline of SteadyNow() for interfaces that take another clock's (std::condition_variable, gRPC).
std::chrono::steady_clock::time_point ToSteadyClock(absl::Time deadline);
std::chrono::system_clock::time_point ToSystemClock(absl::Time deadline);

}  // namespace kvlink

#endif  // KVLINK_BASE_CLOCK_H_
