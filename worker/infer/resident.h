// One encoding in the memory that attention reads. Raw and q8 encodings are read where a backend on the host finds them
// in the store's lease; on a device every encoding has a copy of its own there, and q4 is expanded into one everywhere.
// The copy is made layer by layer as they arrive, and what it was made from is released when it is whole. Where there
// is a second tier in host memory (host_tier.h), a layer arrives by way of it, and the host's copy is kept once it is
// whole; a layer that arrived on the device is copied there as well, from the device.
//
// Thread-safety: all methods of Resident. Lifetime: the deps, and whoever counts the room, outlive a resident.
#ifndef KVLINK_WORKER_INFER_RESIDENT_H_
#define KVLINK_WORKER_INFER_RESIDENT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "kernels/device/slab_decoder.h"
#include "kernels/kernels.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/infer/host_tier.h"

namespace kvlink::infer {

// The share of a budget that one resident takes, given back with the object.
class Reservation {
 public:
  Reservation() = default;
  Reservation(std::atomic<int64_t>* used, int64_t bytes) : used_(used), bytes_(bytes) { *used += bytes; }
  ~Reservation() { reset(); }
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    if (this == &other) return *this;
    reset();
    used_ = std::exchange(other.used_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    memory = std::move(other.memory);
    return *this;
  }
  int64_t bytes() const { return bytes_; }

  kernels::Buffer memory;  // of the copy, where the resident makes one

 private:
  void reset() {
    memory.reset();
    if (used_ != nullptr) *used_ -= bytes_;
    used_ = nullptr;
  }

  std::atomic<int64_t>* used_ = nullptr;
  int64_t bytes_ = 0;
};

class Resident {
 public:
  // Bytes of a resident of such an encoding.
  static int64_t Bytes(const SlabShape& stored, int64_t layers) {
    return layers * kernels::SlabDecoder::DecodedShape(stored).slab_bytes();
  }
  // Dependencies of residents: both outlive them. `host` may be nullptr.
  struct Deps {
    kernels::SlabDecoder* decoder = nullptr;
    HostTier* host = nullptr;
  };
  // Of bytes in a store, of bytes computed here, and of a copy in host memory. `reservation` has Bytes(), and as much
  // memory where decoder->Decodes().
  static std::shared_ptr<Resident> FromLease(std::unique_ptr<store::Lease> lease, Reservation reservation,
                                             const Deps& deps);
  static std::shared_ptr<Resident> FromEncoded(std::shared_ptr<const encode::Encoded> encoded, Reservation reservation,
                                               const Deps& deps);
  static std::shared_ptr<Resident> FromHost(const Identity& identity, std::shared_ptr<const HostCopy> copy,
                                            Reservation reservation, const Deps& deps);

  const Identity& identity() const { return identity_; }
  int64_t tokens() const { return resident_.tokens; }
  // Where the bytes came from; kNone: from no store.
  store::Tier source() const { return source_; }
  bool from_host() const { return from_host_; }           // else what came from no store was computed here
  bool received_on_device() const { return on_device_; }  // it came from the network without touching the host
  int64_t stored_bytes() const { return static_cast<int64_t>(layer_data_.size()) * stored_.slab_bytes(); }
  int64_t bytes() const { return reservation_.bytes(); }

  // Waits until the layer is verified and where attention reads it. To be called in layer order. DATA_LOSS,
  // DEADLINE_EXCEEDED and UNAVAILABLE as Lease::WaitLayer, and the decoder's errors; the resident then is of no use.
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // As Lease::intact, of what attention reads.
  bool intact() const;
  // True once WaitLayer has returned OK for every layer.
  bool ready() const {
    return ready_layers_.load(std::memory_order_acquire) == static_cast<int64_t>(layer_data_.size());
  }
  // Whether no store can fail it any more.
  bool certain() const { return ready() || source_ == store::Tier::kNone; }
  // The segment that attention reads; layer l only after WaitLayer(l) returned OK. Valid as long as the resident.
  kernels::KvSegment segment() const;

 private:
  // Where the bytes are read from: one of these, or none when the copy is whole.
  struct Source {
    std::shared_ptr<store::Lease> lease;
    std::shared_ptr<const encode::Encoded> encoded;
    std::shared_ptr<const HostCopy> host;
  };
  Resident(const Identity& identity, const SlabShape& stored, size_t layers, Source source, Reservation reservation,
           const Deps& deps);
  Source source_now() const;
  bool copies() const { return reservation_.memory.data() != nullptr; }
  std::byte* CopyOf(int64_t layer) const {
    return static_cast<std::byte*>(reservation_.memory.data()) + layer * resident_.slab_bytes();
  }
  // Makes the copy of one layer. `slab`: where it lies, unless that is a copy in host memory.
  absl::Status CopyLayer(int64_t layer, const Source& from, absl::Span<const std::byte> slab)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(decoding_);

  const Identity identity_;
  const store::Tier source_;
  const bool from_host_;
  const bool on_device_;
  const SlabShape stored_;    // of each layer as stored
  const SlabShape resident_;  // as attention reads it
  const Reservation reservation_;
  const Deps deps_;

  mutable Mutex source_mutex_;
  Source from_ ABSL_GUARDED_BY(source_mutex_);

  Mutex decoding_;                                             // held while a layer is decoded
  std::shared_ptr<HostCopy> kept_ ABSL_GUARDED_BY(decoding_);  // being filled; nullptr: none is kept
  std::atomic<int64_t> ready_layers_{0};                       // layers; advanced under decoding_
  // Where there is no copy, element l is written once, under decoding_, before ready_layers_ passes l, and read only by
  // those who waited for it.
  std::vector<const std::byte*> layer_data_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_H_
