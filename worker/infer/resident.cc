#include "worker/infer/resident.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::infer {

std::shared_ptr<Resident> Resident::FromLease(std::unique_ptr<store::Lease> lease, Room room, kernels::Lander* lander) {
  const std::shared_ptr<store::Lease> shared = std::move(lease);
  return std::shared_ptr<Resident>(new Resident(shared->manifest(), {shared, nullptr}, std::move(room), lander));
}

std::shared_ptr<Resident> Resident::FromEncoded(std::shared_ptr<const encode::Encoded> encoded, Room room,
                                                kernels::Lander* lander) {
  const Manifest& manifest = encoded->manifest;
  return std::shared_ptr<Resident>(new Resident(manifest, {nullptr, std::move(encoded)}, std::move(room), lander));
}

Resident::Resident(const Manifest& manifest, Source source, Room room, kernels::Lander* lander)
    : identity_(manifest.identity),
      source_(source.lease != nullptr ? source.lease->source() : store::Tier::kNone),
      stored_bytes_(manifest.bytes()),
      stored_(manifest.shape(0)),
      resident_(kernels::Lander::Landed(stored_)),
      room_(std::move(room)),
      lander_(lander),
      from_(std::move(source)),
      layer_data_(manifest.layers.size(), nullptr) {
  for (size_t layer = 0; copies() && layer < layer_data_.size(); ++layer) {
    layer_data_[layer] = CopyOf(static_cast<int64_t>(layer));
  }
}

Resident::Source Resident::source_now() const {
  MutexLock lock(&source_mutex_);
  return from_;
}

bool Resident::intact() const {
  if (copies() && ready()) return true;
  const Source from = source_now();
  return from.lease == nullptr || from.lease->intact();
}

absl::Status Resident::WaitLayer(int64_t layer, absl::Time deadline) {
  if (landed_.load(std::memory_order_acquire) > layer) return absl::OkStatus();
  const Source from = source_now();
  absl::Span<const std::byte> slab;
  if (from.lease != nullptr) {
    KVLINK_RETURN_IF_ERROR(from.lease->WaitLayer(layer, deadline));
    slab = from.lease->layer(layer);
  } else if (from.encoded != nullptr) {
    slab = from.encoded->slabs[layer];
  }
  MutexLock lock(&landing_);
  const int64_t landed = landed_.load(std::memory_order_relaxed);
  if (landed > layer) return absl::OkStatus();  // another request was first
  if (landed < layer) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer ", layer, " of an encoding waited for before layer ", landed));
  }
  if (!copies()) {
    layer_data_[layer] = slab.data();
  } else {
    KVLINK_RETURN_IF_ERROR(lander_->Land(stored_, slab, CopyOf(layer)));
    // Only now is it known that what was copied is what was verified.
    if (from.lease != nullptr && !from.lease->intact()) {
      return absl::UnavailableError(
          absl::StrCat("the store took back layer ", layer, " of an encoding while it was read"));
    }
  }
  landed_.store(layer + 1, std::memory_order_release);
  if (copies() && ready()) {
    MutexLock source_lock(&source_mutex_);
    from_ = {};
  }
  return absl::OkStatus();
}

kernels::KvSegment Resident::segment() const {
  kernels::KvSegment segment;
  segment.codec = resident_.codec;
  segment.layer_data = layer_data_;
  segment.head_stride = resident_.head_bytes();
  segment.block_stride = resident_.block_stride();
  segment.tokens = resident_.tokens;
  return segment;
}

}  // namespace kvlink::infer
