// SteadyNow() is CLOCK_BOOTTIME, which, like other hosts' clocks, continues while this host is suspended, plus a
// constant: the wall clock's lead over it when the process first asked. The lead makes times look plausible in a
// debugger, and keeps absl::Time() in the past on a freshly booted host.
#include "base/clock.h"

#include <ctime>

#include "absl/time/clock.h"

namespace kvlink {
namespace {

absl::Duration SinceBoot() {
  timespec since = {};
  clock_gettime(CLOCK_BOOTTIME, &since);
  return absl::DurationFromTimespec(since);
}

absl::Time Boot() {
  static const absl::Time boot = absl::Now() - SinceBoot();
  return boot;
}

// Far beyond any of our deadlines, and safe to add to either clock's current time.
constexpr absl::Duration kForever = absl::Hours(24 * 365);

std::chrono::nanoseconds Left(absl::Time deadline) {
  const absl::Duration left = deadline - SteadyNow();
  return absl::ToChronoNanoseconds(left > kForever ? kForever : left < -kForever ? -kForever : left);
}

}  // namespace

absl::Time SteadyNow() { return Boot() + SinceBoot(); }

std::chrono::steady_clock::time_point ToSteadyClock(absl::Time deadline) {
  return std::chrono::steady_clock::now() + Left(deadline);
}

std::chrono::system_clock::time_point ToSystemClock(absl::Time deadline) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(Left(deadline));
}

}  // namespace kvlink
