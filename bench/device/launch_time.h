// How long an operation takes on a device, without the latency of a launch.
#ifndef KVLINK_BENCH_DEVICE_LAUNCH_TIME_H_
#define KVLINK_BENCH_DEVICE_LAUNCH_TIME_H_

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::bench {

// Seconds per launch: many in one stream, with one wait at the end; the median of `rounds` of at least 20 ms. Errors of
// the launch and of the stream.
absl::StatusOr<double> LaunchSeconds(kernels::Stream& stream, int rounds, absl::FunctionRef<absl::Status()> launch);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_LAUNCH_TIME_H_
