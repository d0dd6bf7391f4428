// One encoding in the memory that attention reads. On the host, raw and q8 encodings are read in place from the store's
// lease. On a device every encoding gets its own copy, and q4 is expanded into a copy everywhere. The copy is made
// layer by layer as layers arrive; its source is released once it is complete. With a second tier in host memory
// (host_tier.h), a layer arrives through it, and the host's copy is kept once complete; layers that arrive on the
// device are copied back to it.
//
// Thread-safety: all methods of Resident. Lifetime: the deps, and the owner of the budget, outlive a resident.
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

// One resident's share of a budget, returned by the destructor.
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

  kernels::Buffer memory;  // for the copy, if the resident makes one

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
  // Bytes of the resident of such an encoding.
  static int64_t Bytes(const SlabShape& stored, int64_t layers) {
    return layers * kernels::SlabDecoder::DecodedShape(stored).slab_bytes();
  }
  // Dependencies of residents; both must outlive them. `host` may be nullptr.
  struct Deps {
    kernels::SlabDecoder* decoder = nullptr;
    HostTier* host = nullptr;
  };
  // Make a resident from bytes in a store, from bytes computed here, or from a copy in host memory. `reservation` has
  // Bytes(), and that much memory if decoder->Decodes().
  static std::shared_ptr<Resident> FromLease(std::unique_ptr<store::Lease> lease, Reservation reservation,
                                             const Deps& deps);
  static std::shared_ptr<Resident> FromEncoded(std::shared_ptr<const encode::Encoded> encoded, Reservation reservation,
                                               const Deps& deps);
  static std::shared_ptr<Resident> FromHost(const Identity& identity, std::shared_ptr<const HostCopy> copy,
                                            Reservation reservation, const Deps& deps);

  const Identity& identity() const { return identity_; }
  int64_t tokens() const { return resident_.tokens; }
  // Where the bytes came from; kNone if not from a store.
  store::Tier source() const { return source_; }
  bool from_host() const { return from_host_; }           // otherwise, if not from a store, computed here
  bool received_on_device() const { return on_device_; }  // arrived from the network without touching the host
  int64_t stored_bytes() const { return static_cast<int64_t>(layer_data_.size()) * stored_.slab_bytes(); }
  int64_t bytes() const { return reservation_.bytes(); }

  // Waits until the layer is verified and in its place for attention. Call in layer order. DATA_LOSS, DEADLINE_EXCEEDED
  // and UNAVAILABLE as Lease::WaitLayer, and the decoder's errors; the resident is then unusable.
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // Like Lease::intact, for the bytes that attention reads.
  bool intact() const;
  // True once WaitLayer has returned OK for every layer.
  bool ready() const {
    return ready_layers_.load(std::memory_order_acquire) == static_cast<int64_t>(layer_data_.size());
  }
  // When the last layer was in its place. REQUIRES: ready().
  absl::Time ready_at() const { return ready_at_; }
  // How long those who needed a layer first waited until it was there. REQUIRES: ready().
  absl::Duration waited() const { return waited_; }
  // Whether no store can invalidate it any more.
  bool certain() const { return ready() || source_ == store::Tier::kNone; }
  // The segment for attention; layer l may be read only after WaitLayer(l) returned OK. Valid as long as the resident.
  kernels::KvSegment segment() const;

 private:
  // The source of the bytes: one of these, or none once the copy is complete.
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
  // Copies one layer. `slab`: its location, unless it comes from a copy in host memory.
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
  std::shared_ptr<HostCopy> kept_ ABSL_GUARDED_BY(decoding_);  // being filled; nullptr: no copy is made
  std::atomic<int64_t> ready_layers_{0};                       // layers; advanced under decoding_
  absl::Time ready_at_;                                        // with waited_, written before ready_layers_ is complete
  absl::Duration waited_;
  // Without a copy, element l is written once, under decoding_, before ready_layers_ passes l, and read only by threads
  // that waited for it.
  std::vector<const std::byte*> layer_data_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_H_
