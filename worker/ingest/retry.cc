#include "worker/ingest/retry.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "base/clock.h"

namespace kvlink::ingest {
namespace {

// How long to retry a store without room. Puts and reads in progress release theirs soon; a full store stays full.
constexpr absl::Duration kRoom = absl::Seconds(10);

// A database that stalls or loses its primary gives DEADLINE_EXCEEDED or ABORTED.
bool IsAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsAborted(status);
}

}  // namespace

absl::Status Retry::Run(absl::FunctionRef<absl::Status()> call) const {
  const absl::Time begun = SteadyNow();
  absl::Duration pause = absl::Milliseconds(100);
  for (;;) {
    const absl::Status status = call();
    const bool full = absl::IsResourceExhausted(status);
    const absl::Time until = begun + (full ? std::min(kRoom, outage_) : outage_);
    if (!(full || IsAway(status)) || SteadyNow() + pause > until || stopped_) return status;
    absl::SleepFor(pause);
    pause = std::min(2 * pause, absl::Seconds(2));
  }
}

}  // namespace kvlink::ingest
