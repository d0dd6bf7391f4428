// One resident encoding: waiting for layers, and expanding q4.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/infer/resident_pool.h"

namespace kvlink::infer {
namespace {

using kernels::Dtype;
using kernels::Tensor;

Tensor Bytes(const std::byte* data, int64_t bytes, kernels::Device device) {
  return Tensor::Dense(const_cast<std::byte*>(data), Dtype::kU8, device, {bytes});
}

// What attention can read in place; q4 becomes raw-bf16.
Codec ResidentCodec(Codec stored) { return stored == Codec::kQ4 ? Codec::kRawBf16 : stored; }

}  // namespace

absl::StatusOr<std::shared_ptr<Resident>> Resident::FromLease(std::unique_ptr<store::Lease> lease,
                                                              kernels::Backend* backend, const kernels::Rope* rope) {
  std::shared_ptr<Resident> resident(new Resident());
  resident->source_ = lease->source();
  resident->lease_ = std::move(lease);
  KVLINK_RETURN_IF_ERROR(resident->Prepare(backend, rope));
  return resident;
}

absl::StatusOr<std::shared_ptr<Resident>> Resident::FromEncoded(std::shared_ptr<const encode::Encoded> encoded,
                                                                kernels::Backend* backend, const kernels::Rope* rope) {
  std::shared_ptr<Resident> resident(new Resident());
  resident->encoded_ = std::move(encoded);
  KVLINK_RETURN_IF_ERROR(resident->Prepare(backend, rope));
  return resident;
}

const Manifest& Resident::manifest() const { return lease_ != nullptr ? lease_->manifest() : encoded_->manifest; }

absl::Status Resident::Prepare(kernels::Backend* backend, const kernels::Rope* rope) {
  backend_ = backend;
  rope_ = rope;
  const Manifest& what = manifest();
  identity_ = what.identity;
  tokens_ = what.tokens;
  bytes_ = what.bytes();
  stored_ = what.shape(0);
  resident_ = stored_;
  resident_.codec = ResidentCodec(stored_.codec);
  layer_data_.resize(what.layers.size(), nullptr);
  if (resident_.codec != stored_.codec) {
    const int64_t layers = static_cast<int64_t>(what.layers.size());
    KVLINK_ASSIGN_OR_RETURN(expanded_, backend->Allocate(layers * resident_.slab_bytes()));
    stream_ = backend->NewStream();
    bytes_ += expanded_.bytes();
  }
  return absl::OkStatus();
}

absl::Status Resident::Available(int64_t layer, absl::Time deadline, absl::Span<const std::byte>* slab) {
  if (lease_ != nullptr) {
    KVLINK_RETURN_IF_ERROR(lease_->WaitLayer(layer, deadline));
    *slab = lease_->layer(layer);
  } else {
    *slab = encoded_->slabs[layer];
  }
  return absl::OkStatus();
}

absl::Status Resident::Expand(int64_t layer, absl::Span<const std::byte> slab) {
  std::byte* const out = static_cast<std::byte*>(expanded_.data()) + layer * resident_.slab_bytes();
  kernels::LandArgs args;
  args.source_shape = stored_;
  args.source = Bytes(slab.data(), stored_.slab_bytes(), backend_->device());
  args.codec = resident_.codec;
  args.rope = rope_;
  args.out = Bytes(out, resident_.slab_bytes(), backend_->device());
  KVLINK_RETURN_IF_ERROR(backend_->Land(*stream_, args));
  return stream_->Synchronize();
}

absl::Status Resident::WaitLayer(int64_t layer, absl::Time deadline) {
  if (landed_.load(std::memory_order_acquire) > layer) return absl::OkStatus();
  absl::Span<const std::byte> slab;
  KVLINK_RETURN_IF_ERROR(Available(layer, deadline, &slab));
  MutexLock lock(&mutex_);
  const int64_t landed = landed_.load(std::memory_order_relaxed);
  if (landed > layer) return absl::OkStatus();  // another request was first
  if (landed < layer) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer ", layer, " of an encoding waited for before layer ", landed));
  }
  if (expanded_.data() != nullptr) {
    KVLINK_RETURN_IF_ERROR(Expand(layer, slab));
    if (lease_ != nullptr && !lease_->intact()) {
      return absl::UnavailableError(
          absl::StrCat("the store took back layer ", layer, " of an encoding while it was read"));
    }
    layer_data_[layer] = static_cast<const std::byte*>(expanded_.data()) + layer * resident_.slab_bytes();
  } else {
    layer_data_[layer] = slab.data();
  }
  landed_.store(layer + 1, std::memory_order_release);
  return absl::OkStatus();
}

kernels::KvSegment Resident::segment() const {
  kernels::KvSegment segment;
  segment.codec = resident_.codec;
  segment.layer_data = layer_data_;
  segment.head_stride = resident_.head_bytes();
  segment.block_stride = resident_.block_stride();
  segment.tokens = tokens_;
  return segment;
}

}  // namespace kvlink::infer
