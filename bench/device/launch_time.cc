// Launches many operations before one wait, so that the latency to the device is paid once.
#include "bench/device/launch_time.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "bench/bench_common.h"

namespace kvlink::bench {

absl::StatusOr<double> LaunchSeconds(kernels::Stream& stream, int rounds, absl::FunctionRef<absl::Status()> launch) {
  KVLINK_RETURN_IF_ERROR(launch());
  KVLINK_RETURN_IF_ERROR(stream.Synchronize());
  int64_t count = 1;
  std::vector<double> seconds;
  while (static_cast<int>(seconds.size()) < rounds) {
    const double start = Now();
    for (int64_t i = 0; i < count; ++i) KVLINK_RETURN_IF_ERROR(launch());
    KVLINK_RETURN_IF_ERROR(stream.Synchronize());
    const double taken = Now() - start;
    if (taken < 0.02) {
      count *= 2;
      continue;
    }
    seconds.push_back(taken / static_cast<double>(count));
  }
  return Median(std::move(seconds));
}

}  // namespace kvlink::bench
