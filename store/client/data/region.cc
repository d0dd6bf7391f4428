#include "store/client/data/region.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/slab.h"
#include "base/status.h"
#include "store/client/data/verifier.h"

namespace kvlink::store::client {

absl::StatusOr<std::shared_ptr<Region>> Region::Open(const std::shared_ptr<transport::Transport>& transport,
                                                     const DeviceRegion& region, absl::Duration rest) {
  if (region.data == nullptr || region.bytes < kSlabAlignment || region.checksums == nullptr ||
      reinterpret_cast<uintptr_t>(region.data) % kSlabAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a region of ", region.bytes, " bytes of a device: it must be aligned, have a page, and checksums"));
  }
  KVLINK_ASSIGN_OR_RETURN(
      auto buffer,
      transport->Register(region.data, region.bytes, {transport::MemoryKind::kCuda, region.device}, region.owner));
  return std::shared_ptr<Region>(
      new Region(transport, region, std::make_shared<Arena>(std::move(buffer), "region of the device"), rest));
}

absl::StatusOr<std::vector<transport::Slice>> Region::Take(absl::Span<const int64_t> lengths) {
  {
    MutexLock lock(&mutex_);
    if (SteadyNow() < rests_until_) return absl::UnavailableError("receives in the region of the device failed");
  }
  return arena_->Take(lengths);
}

absl::Status Region::Verify(const Manifest& manifest, const Piece& piece, const transport::Slice& slice) const {
  return VerifyPiece(manifest, piece, [&](auto offsets, auto lengths, auto out) {
    std::vector<int64_t> in_region(offsets.begin(), offsets.end());
    for (int64_t& offset : in_region) offset += slice.offset;
    return region_.checksums(in_region, lengths, out);
  });
}

void Region::Ended(bool good) {
  MutexLock lock(&mutex_);
  failures_ = good ? 0 : failures_ + 1;
  if (failures_ < kMaxFailures) return;
  rests_until_ = SteadyNow() + rest_;
  --failures_;  // after the rest, one more failure suffices
}

}  // namespace kvlink::store::client
