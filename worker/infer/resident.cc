#include "worker/infer/resident.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::infer {

std::shared_ptr<Resident> Resident::FromLease(std::unique_ptr<store::Lease> lease, Reservation reservation,
                                              const Deps& deps) {
  const std::shared_ptr<store::Lease> shared = std::move(lease);
  const Manifest& manifest = shared->manifest();
  return std::shared_ptr<Resident>(new Resident(manifest.identity, manifest.shape(0), manifest.layers.size(),
                                                {.lease = shared}, std::move(reservation), deps));
}

std::shared_ptr<Resident> Resident::FromEncoded(std::shared_ptr<const encode::Encoded> encoded, Reservation reservation,
                                                const Deps& deps) {
  const Manifest& manifest = encoded->manifest;
  return std::shared_ptr<Resident>(new Resident(manifest.identity, manifest.shape(0), manifest.layers.size(),
                                                {.encoded = encoded}, std::move(reservation), deps));
}

std::shared_ptr<Resident> Resident::FromHost(const Identity& identity, std::shared_ptr<const HostCopy> copy,
                                             Reservation reservation, const Deps& deps) {
  const auto layers = static_cast<size_t>(copy->layers());
  return std::shared_ptr<Resident>(
      new Resident(identity, copy->stored(), layers, {.host = copy}, std::move(reservation), deps));
}

Resident::Resident(const Identity& identity, const SlabShape& stored, size_t layers, Source source,
                   Reservation reservation, const Deps& deps)
    : identity_(identity),
      source_(source.lease != nullptr ? source.lease->source() : store::Tier::kNone),
      from_host_(source.host != nullptr),
      on_device_(source.lease != nullptr && source.lease->on_device()),
      stored_(stored),
      resident_(kernels::SlabDecoder::DecodedShape(stored)),
      reservation_(std::move(reservation)),
      deps_(deps),
      from_(std::move(source)),
      layer_data_(layers, nullptr) {
  for (size_t layer = 0; copies() && layer < layers; ++layer) {
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
  if (ready_layers_.load(std::memory_order_acquire) > layer) return absl::OkStatus();
  const absl::Time began = SteadyNow();
  const Source from = source_now();
  absl::Span<const std::byte> slab;
  if (from.lease != nullptr) {
    KVLINK_RETURN_IF_ERROR(from.lease->WaitLayer(layer, deadline));
    slab = from.lease->layer(layer);
  } else if (from.encoded != nullptr) {
    slab = from.encoded->slabs[layer];
  }
  MutexLock lock(&decoding_);
  const int64_t arrived = ready_layers_.load(std::memory_order_relaxed);
  if (arrived > layer) return absl::OkStatus();  // another request was first
  if (arrived < layer) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer ", layer, " of an encoding requested before layer ", arrived));
  }
  if (copies()) {
    KVLINK_RETURN_IF_ERROR(CopyLayer(layer, from, slab));
  } else {
    layer_data_[layer] = slab.data();
  }
  ready_at_ = SteadyNow();
  waited_ += ready_at_ - began;
  ready_layers_.store(layer + 1, std::memory_order_release);
  if (copies() && ready()) {
    if (kept_ != nullptr) deps_.host->Keep(identity_, std::exchange(kept_, nullptr));
    MutexLock source_lock(&source_mutex_);
    from_ = {};
  }
  return absl::OkStatus();
}

absl::Status Resident::CopyLayer(int64_t layer, const Source& from, absl::Span<const std::byte> slab) {
  if (from.host != nullptr) return deps_.decoder->DecodePinned(stored_, from.host->layer(layer), CopyOf(layer));
  if (layer == 0 && deps_.host != nullptr) {
    kept_ = deps_.host->Make(stored_, static_cast<int64_t>(layer_data_.size()));
  }
  if (on_device_) {
    // Not a mapped lease, so verified bytes stay valid.
    return deps_.decoder->DecodeOnDevice(stored_, slab.data(),
                                         kept_ == nullptr ? std::vector<absl::Span<std::byte>>() : kept_->Parts(layer),
                                         CopyOf(layer));
  }
  if (kept_ != nullptr) {
    kept_->Fill(layer, slab);
  } else {
    KVLINK_RETURN_IF_ERROR(deps_.decoder->Decode(stored_, slab, CopyOf(layer)));
  }
  // Only now is it certain that the copied bytes are the verified ones.
  if (from.lease != nullptr && !from.lease->intact()) {
    kept_ = nullptr;
    return absl::UnavailableError(
        absl::StrCat("the store revoked layer ", layer, " of an encoding while it was being read"));
  }
  return kept_ == nullptr ? absl::OkStatus() : deps_.decoder->DecodePinned(stored_, kept_->layer(layer), CopyOf(layer));
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
