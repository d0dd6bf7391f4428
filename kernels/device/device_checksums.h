// Computes checksums of bytes in a backend's memory, for callers that cannot read them.
// Thread-safety: all methods. Lifetime: the backend outlives every call.
#ifndef KVLINK_KERNELS_DEVICE_DEVICE_CHECKSUMS_H_
#define KVLINK_KERNELS_DEVICE_DEVICE_CHECKSUMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

class DeviceChecksums {
 public:
  explicit DeviceChecksums(Backend* backend) : backend_(backend) {}
  // Sets out[i] to the XXH3-64, seed 0, of bytes [offsets[i], offsets[i] + lengths[i]) of `memory`, which is `bytes` of
  // the backend's memory; complete on return. INVALID_ARGUMENT: spans of different lengths, or a range outside the
  // memory. Otherwise the backend's errors; RESOURCE_EXHAUSTED: no memory for the results.
  absl::Status Compute(const std::byte* memory, int64_t bytes, absl::Span<const int64_t> offsets,
                       absl::Span<const int64_t> lengths, absl::Span<uint64_t> out);

 private:
  absl::Status Launch(const Tensor& memory, absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                      absl::Span<uint64_t> out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Backend* const backend_;
  Mutex mutex_;  // held while computing: one call keeps the device busy
  Buffer results_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);  // destroyed before the memory it writes
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_DEVICE_CHECKSUMS_H_
