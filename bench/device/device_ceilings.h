// A device's measured ceilings: the denominators of bench_device.
#ifndef KVLINK_BENCH_DEVICE_DEVICE_CEILINGS_H_
#define KVLINK_BENCH_DEVICE_DEVICE_CEILINGS_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::bench {

// The fastest rates seen: the machine may be shared, and a floor must hold for all rounds. Per second.
struct DeviceRates {
  double copied = 0;      // bytes read and written by a copy within the device
  double linked = 0;      // bytes from pinned host memory to the device
  double operations = 0;  // floating-point operations of a large product of square matrices
};

// Not thread-safe. Lifetime: the backend outlives the object.
class DeviceCeilings {
 public:
  struct Sizes {
    int64_t copy_bytes = int64_t{512} << 20;
    int64_t link_bytes = int64_t{256} << 20;
    int64_t side = 8192;  // of the matrices
  };
  // RESOURCE_EXHAUSTED if the device lacks the memory.
  static absl::StatusOr<std::unique_ptr<DeviceCeilings>> Create(kernels::Backend* backend, const Sizes& sizes,
                                                                int rounds);
  // Measures once more.
  absl::Status Measure();
  const DeviceRates& rates() const { return rates_; }

 private:
  DeviceCeilings(kernels::Backend* backend, const Sizes& sizes, int rounds)
      : backend_(backend), sizes_(sizes), rounds_(rounds) {}
  absl::StatusOr<double> Copied();
  absl::StatusOr<double> Linked();
  absl::StatusOr<double> Operations();

  kernels::Backend* const backend_;
  const Sizes sizes_;
  const int rounds_;
  kernels::Buffer from_, to_, pinned_, workspace_;
  std::unique_ptr<kernels::PackedMatrix> matrix_;
  std::unique_ptr<kernels::Stream> stream_;  // destroyed before the memory
  DeviceRates rates_;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_DEVICE_CEILINGS_H_
