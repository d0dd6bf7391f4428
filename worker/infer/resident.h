// One encoding in the memory that attention reads. Raw and q8 encodings are read where a backend on the host finds them
// in the store's lease; on a device every encoding has a copy of its own there, and q4 is expanded into one everywhere.
// The copy is made layer by layer as they land, and what it was made from is released when it is whole.
//
// Thread-safety: all methods of Resident. Lifetime: the lander, and whoever counts the room, outlive a resident.
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
#include "kernels/kernels.h"
#include "kernels/lander.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/encode/encoder.h"

namespace kvlink::infer {

// What one resident takes of a budget, given back with the object.
class Room {
 public:
  Room() = default;
  Room(std::atomic<int64_t>* used, int64_t bytes) : used_(used), bytes_(bytes) { *used += bytes; }
  ~Room() { reset(); }
  Room(Room&& other) noexcept { *this = std::move(other); }
  Room& operator=(Room&& other) noexcept {
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
  // What the resident of such an encoding takes.
  static int64_t Bytes(const SlabShape& stored, int64_t layers) {
    return layers * kernels::Lander::Landed(stored).slab_bytes();
  }
  // Of bytes in a store, and of bytes computed here. `room` has Bytes(), and as much memory where lander->Lands().
  static std::shared_ptr<Resident> FromLease(std::unique_ptr<store::Lease> lease, Room room, kernels::Lander* lander);
  static std::shared_ptr<Resident> FromEncoded(std::shared_ptr<const encode::Encoded> encoded, Room room,
                                               kernels::Lander* lander);

  const Identity& identity() const { return identity_; }
  int64_t tokens() const { return resident_.tokens; }
  // Where the bytes came from; kNone: computed here.
  store::Tier source() const { return source_; }
  int64_t stored_bytes() const { return stored_bytes_; }
  int64_t bytes() const { return room_.bytes(); }

  // Waits until the layer is verified and where attention reads it. To be called in layer order. DATA_LOSS,
  // DEADLINE_EXCEEDED and UNAVAILABLE as Lease::WaitLayer, and the lander's errors; the resident then is of no use.
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // As Lease::intact, of what attention reads.
  bool intact() const;
  // True once WaitLayer has returned OK for every layer.
  bool ready() const { return landed_.load(std::memory_order_acquire) == static_cast<int64_t>(layer_data_.size()); }
  // Whether no store can fail it any more.
  bool certain() const { return ready() || source_ == store::Tier::kNone; }
  // What attention reads; layer l only after WaitLayer(l) returned OK. Valid as long as the resident.
  kernels::KvSegment segment() const;

 private:
  // What the bytes are read from: one of the two, or none when the copy is whole.
  struct Source {
    std::shared_ptr<store::Lease> lease;
    std::shared_ptr<const encode::Encoded> encoded;
  };
  Resident(const Manifest& manifest, Source source, Room room, kernels::Lander* lander);
  Source source_now() const;
  bool copies() const { return room_.memory.data() != nullptr; }
  std::byte* CopyOf(int64_t layer) const {
    return static_cast<std::byte*>(room_.memory.data()) + layer * resident_.slab_bytes();
  }

  const Identity identity_;
  const store::Tier source_;
  const int64_t stored_bytes_;
  const SlabShape stored_;    // of each layer as stored
  const SlabShape resident_;  // as attention reads it
  const Room room_;
  kernels::Lander* const lander_;

  mutable Mutex source_mutex_;
  Source from_ ABSL_GUARDED_BY(source_mutex_);

  Mutex landing_;                   // held while a layer is landed
  std::atomic<int64_t> landed_{0};  // layers; advanced under landing_
  // Where there is no copy, element l is written once, under landing_, before landed_ passes l, and read only by those
  // who waited for it.
  std::vector<const std::byte*> layer_data_;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_H_
