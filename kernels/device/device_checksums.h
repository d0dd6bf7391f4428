// Checksums of bytes that are in a backend's memory, for those who must not read them there.
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
  // out[i] becomes XXH3-64, seed 0, of bytes [offsets[i], offsets[i] + lengths[i]) of `memory`, which has `bytes` of
  // the backend's memory; all are there when this returns. INVALID_ARGUMENT: other numbers of each, or a range that
  // does not lie within. Else the backend's errors; RESOURCE_EXHAUSTED: no memory for the results.
  absl::Status Compute(const std::byte* memory, int64_t bytes, absl::Span<const int64_t> offsets,
                       absl::Span<const int64_t> lengths, absl::Span<uint64_t> out);

 private:
  absl::Status Launch(const Tensor& memory, absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                      absl::Span<uint64_t> out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Backend* const backend_;
  Mutex mutex_;  // held while some are computed: the device has enough to do with those
  Buffer results_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);  // goes before the memory it writes
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_DEVICE_CHECKSUMS_H_
