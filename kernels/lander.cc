#include "kernels/lander.h"

#include <utility>

#include "base/status.h"

namespace kvlink::kernels {

absl::Status Lander::Land(const SlabShape& stored, absl::Span<const std::byte> slab, std::byte* out) {
  std::unique_ptr<Lane> lane = TakeLane();
  const absl::Status status = LandIn(*lane, stored, slab, out);
  if (!status.ok()) *lane = {};  // its streams may fail for ever
  GiveLane(std::move(lane));
  return status;
}

std::unique_ptr<Lander::Lane> Lander::TakeLane() {
  MutexLock lock(&mutex_);
  while (idle_.empty() && lanes_ == kMostLanes) given_.Wait(&mutex_);  // for as long as a layer takes
  if (idle_.empty()) {
    ++lanes_;
    return std::make_unique<Lane>();
  }
  std::unique_ptr<Lane> lane = std::move(idle_.back());
  idle_.pop_back();
  return lane;
}

void Lander::GiveLane(std::unique_ptr<Lane> lane) {
  MutexLock lock(&mutex_);
  idle_.push_back(std::move(lane));
  given_.Signal();
}

absl::Status Lander::LandIn(Lane& lane, const SlabShape& stored, absl::Span<const std::byte> slab, std::byte* out) {
  if (!on_device()) return Expand(lane, stored, slab.data(), out);
  const int64_t bytes = stored.slab_bytes();
  if (lane.transfer == nullptr) {
    KVLINK_ASSIGN_OR_RETURN(lane.transfer, Transfer::Create(backend_));
  }
  if (stored.codec != Codec::kQ4) return lane.transfer->ToDevice(slab.data(), out, bytes);
  if (lane.staging.bytes() < bytes) {
    lane.staging.reset();
    KVLINK_ASSIGN_OR_RETURN(lane.staging, backend_->Allocate(bytes));
  }
  KVLINK_RETURN_IF_ERROR(lane.transfer->ToDevice(slab.data(), lane.staging.data(), bytes));
  return Expand(lane, stored, lane.staging.data(), out);
}

absl::Status Lander::Expand(Lane& lane, const SlabShape& stored, const void* slab, std::byte* out) {
  if (lane.stream == nullptr) lane.stream = backend_->NewStream();
  const SlabShape landed = Landed(stored);
  const auto bytes = [&](const void* data, int64_t count) {
    return Tensor::Dense(const_cast<void*>(data), Dtype::kU8, backend_->device(), {count});
  };
  const absl::Status launched = backend_->Land(*lane.stream, {.source_shape = stored,
                                                              .source = bytes(slab, stored.slab_bytes()),
                                                              .codec = landed.codec,
                                                              .rope = rope_,
                                                              .out = bytes(out, landed.slab_bytes())});
  // Also after an error: what was launched reads and writes memory that may go now.
  const absl::Status finished = lane.stream->Synchronize();
  KVLINK_RETURN_IF_ERROR(launched);
  return finished;
}

}  // namespace kvlink::kernels
