// Shared by the host backends: memory, and a stream whose operations are complete when they return.
#ifndef KVLINK_KERNELS_DEVICE_HOST_H_
#define KVLINK_KERNELS_DEVICE_HOST_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

// 4096-byte aligned host memory, touched; from 2 MiB on aligned to huge pages and placed in them if the system has
// them. INVALID_ARGUMENT for negative sizes, RESOURCE_EXHAUSTED when there is none. Zero bytes give an empty Buffer.
// Thread-safe.
absl::StatusOr<Buffer> AllocateHost(int64_t bytes);

// Keeps the first failure of an operation until it is queried. Used by one thread at a time.
class HostStream : public Stream {
 public:
  void Fail(absl::Status status) {
    if (first_error_.ok()) first_error_ = std::move(status);
  }
  absl::Status Synchronize() override { return std::exchange(first_error_, absl::OkStatus()); }

 private:
  absl::Status first_error_;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_HOST_H_
