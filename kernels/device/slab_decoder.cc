#include "kernels/device/slab_decoder.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace kvlink::kernels {

absl::Status SlabDecoder::Decode(const SlabShape& stored, absl::Span<const std::byte> slab, std::byte* out) {
  return WithLane([&](Lane& lane) { return DecodeIn(lane, stored, slab, out); });
}

absl::Status SlabDecoder::DecodePinned(const SlabShape& stored, absl::Span<const absl::Span<const std::byte>> parts,
                                       std::byte* out) {
  return WithLane([&](Lane& lane) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(std::byte* const to, Staging(lane, stored, out));
    absl::Status launched;
    int64_t at = 0;
    for (const absl::Span<const std::byte> part : parts) {
      const auto bytes = static_cast<int64_t>(part.size());
      if (launched.ok()) launched = backend_->CopyIn(StreamOf(lane), part.data(), to + at, bytes);
      at += bytes;
    }
    if (launched.ok() && to != out) launched = Expand(lane, stored, to, out);
    return Finish(lane, launched);
  });
}

absl::Status SlabDecoder::DecodeOnDevice(const SlabShape& stored, const std::byte* slab,
                                         absl::Span<const absl::Span<std::byte>> copies, std::byte* out) {
  return WithLane([&](Lane& lane) -> absl::Status {
    const int64_t used = stored.used_bytes();
    absl::Status launched = stored.codec == Codec::kQ4 ? Expand(lane, stored, slab, out)
                                                       : backend_->CopyIn(StreamOf(lane), slab, out, used);
    int64_t at = 0;
    for (const absl::Span<std::byte> copy : copies) {
      const int64_t bytes = std::min(static_cast<int64_t>(copy.size()), used - at);
      if (bytes <= 0) break;
      if (launched.ok()) launched = backend_->CopyOut(StreamOf(lane), slab + at, copy.data(), bytes);
      at += bytes;
    }
    return Finish(lane, launched);
  });
}

absl::Status SlabDecoder::WithLane(absl::FunctionRef<absl::Status(Lane&)> decode) {
  std::unique_ptr<Lane> lane = TakeLane();
  const absl::Status status = decode(*lane);
  if (!status.ok()) *lane = {};  // its streams may keep failing
  GiveLane(std::move(lane));
  return status;
}

std::unique_ptr<SlabDecoder::Lane> SlabDecoder::TakeLane() {
  MutexLock lock(&mutex_);
  while (idle_.empty() && lanes_ == kMaxLanes) given_.Wait(&mutex_);  // at most as long as a layer takes
  if (idle_.empty()) {
    ++lanes_;
    return std::make_unique<Lane>();
  }
  std::unique_ptr<Lane> lane = std::move(idle_.back());
  idle_.pop_back();
  return lane;
}

void SlabDecoder::GiveLane(std::unique_ptr<Lane> lane) {
  MutexLock lock(&mutex_);
  idle_.push_back(std::move(lane));
  given_.Signal();
}

absl::StatusOr<std::byte*> SlabDecoder::Staging(Lane& lane, const SlabShape& stored, std::byte* out) {
  if (stored.codec != Codec::kQ4) return out;
  if (lane.staging.bytes() < stored.slab_bytes()) {
    lane.staging.reset();
    KVLINK_ASSIGN_OR_RETURN(lane.staging, backend_->Allocate(stored.slab_bytes()));
  }
  return static_cast<std::byte*>(lane.staging.data());
}

absl::Status SlabDecoder::DecodeIn(Lane& lane, const SlabShape& stored, absl::Span<const std::byte> slab,
                                   std::byte* out) {
  if (!on_device()) return Finish(lane, Expand(lane, stored, slab.data(), out));
  if (lane.transfer == nullptr) {
    KVLINK_ASSIGN_OR_RETURN(lane.transfer, Transfer::Create(backend_));
  }
  KVLINK_ASSIGN_OR_RETURN(std::byte* const to, Staging(lane, stored, out));
  KVLINK_RETURN_IF_ERROR(lane.transfer->ToDevice(slab.data(), to, stored.slab_bytes()));
  return to == out ? absl::OkStatus() : Finish(lane, Expand(lane, stored, to, out));
}

Stream& SlabDecoder::StreamOf(Lane& lane) {
  if (lane.stream == nullptr) lane.stream = backend_->NewStream();
  return *lane.stream;
}

absl::Status SlabDecoder::Expand(Lane& lane, const SlabShape& stored, const void* slab, std::byte* out) {
  const SlabShape decoded = DecodedShape(stored);
  const auto bytes = [&](const void* data, int64_t count) {
    return Tensor::Dense(const_cast<void*>(data), Dtype::kU8, backend_->device(), {count});
  };
  return backend_->Decode(StreamOf(lane), {.source_shape = stored,
                                           .source = bytes(slab, stored.slab_bytes()),
                                           .codec = decoded.codec,
                                           .rope = rope_,
                                           .out = bytes(out, decoded.slab_bytes())});
}

absl::Status SlabDecoder::Finish(Lane& lane, const absl::Status& launched) {
  const absl::Status finished = lane.stream == nullptr ? absl::OkStatus() : lane.stream->Synchronize();
  KVLINK_RETURN_IF_ERROR(launched);
  return finished;
}

}  // namespace kvlink::kernels
