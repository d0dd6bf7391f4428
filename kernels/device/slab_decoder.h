// Converts stored slabs to memory that attention reads: copies them to a device, expands q4.
// Thread-safety: all methods. Lifetime: the backend and the rope outlive the object.
#ifndef KVLINK_KERNELS_DEVICE_SLAB_DECODER_H_
#define KVLINK_KERNELS_DEVICE_SLAB_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/slab.h"
#include "kernels/device/transfer.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

class SlabDecoder {
 public:
  SlabDecoder(Backend* backend, const Rope* rope) : backend_(backend), rope_(rope) {}

  // The shape in which attention reads an encoding stored as `stored`: q4 becomes raw-bf16.
  static SlabShape DecodedShape(SlabShape stored) {
    if (stored.codec == Codec::kQ4) stored.codec = Codec::kRawBf16;
    return stored;
  }
  // Whether such slabs must be decoded; attention reads others in place.
  bool Decodes(Codec stored) const { return on_device() || stored == Codec::kQ4; }
  // Fills `out`, backend memory of DecodedShape(stored).slab_bytes(), from a slab in host memory, and waits only for
  // that: other computation continues. Returns the backend's errors; RESOURCE_EXHAUSTED: no memory for the transfer.
  absl::Status Decode(const SlabShape& stored, absl::Span<const std::byte> slab, std::byte* out);
  // The same on a device, from pinned memory with the slab in consecutive parts, which are copied directly.
  absl::Status DecodePinned(const SlabShape& stored, absl::Span<const absl::Span<const std::byte>> parts,
                            std::byte* out);
  // The same for a slab already in device memory. Padding is neither read nor copied. `copies`, consecutive parts of
  // pinned memory, receive the slab in its stored form.
  absl::Status DecodeOnDevice(const SlabShape& stored, const std::byte* slab,
                              absl::Span<const absl::Span<std::byte>> copies, std::byte* out);

 private:
  // More lanes do not raise PCIe throughput.
  static constexpr int kMaxLanes = 4;
  // Resources for one slab at a time.
  struct Lane {
    std::unique_ptr<Transfer> transfer;  // to a device
    Buffer staging;                      // on the device: a slab of q4
    std::unique_ptr<Stream> stream;      // expands it, copies from pinned memory
  };

  bool on_device() const { return backend_->device().type != DeviceType::kCpu; }
  std::unique_ptr<Lane> TakeLane();
  void GiveLane(std::unique_ptr<Lane> lane);
  absl::Status WithLane(absl::FunctionRef<absl::Status(Lane&)> decode);
  absl::Status DecodeIn(Lane& lane, const SlabShape& stored, absl::Span<const std::byte> slab, std::byte* out);
  // The location of a slab on the device before it is decoded into `out`: `out` itself, or staging.
  absl::StatusOr<std::byte*> Staging(Lane& lane, const SlabShape& stored, std::byte* out);
  // Launches in the lane's stream.
  absl::Status Expand(Lane& lane, const SlabShape& stored, const void* slab, std::byte* out);
  // Waits even after an error: launched work uses memory that may then be freed.
  static absl::Status Finish(Lane& lane, const absl::Status& launched);
  Stream& StreamOf(Lane& lane);

  Backend* const backend_;
  const Rope* const rope_;
  Mutex mutex_;
  CondVar given_;
  int lanes_ ABSL_GUARDED_BY(mutex_) = 0;  // in use or idle
  std::vector<std::unique_ptr<Lane>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_SLAB_DECODER_H_
