// A region of device memory for receiving encodings, registered with the client's transport.
//
// Thread-safety: all methods. Ownership: shared by pulls.
#ifndef KVLINK_STORE_CLIENT_DATA_REGION_H_
#define KVLINK_STORE_CLIENT_DATA_REGION_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/manifest.h"
#include "proto/part.h"
#include "store/client/data/arena.h"
#include "store/store.h"
#include "transport/transport.h"

namespace kvlink::store::client {

class Region : public DeviceBuffer, public std::enable_shared_from_this<Region> {
 public:
  // As Store::OpenDeviceBuffer. `rest`: how long the region is not used after kMaxFailures consecutive failed receives.
  static absl::StatusOr<std::shared_ptr<Region>> Open(const std::shared_ptr<transport::Transport>& transport,
                                                      const DeviceRegion& region, absl::Duration rest);
  // Whether payloads over `transport` can be received in it.
  bool ReachedBy(const std::shared_ptr<transport::Transport>& transport) const {
    return transport_.lock() == transport;
  }
  int64_t used() const override { return arena_->used(); }

  // As Arena::Take. UNAVAILABLE: the region is resting.
  absl::StatusOr<std::vector<transport::Slice>> Take(absl::Span<const int64_t> lengths);
  // As VerifyPiece, for the bytes that arrived in `slice`.
  absl::Status Verify(const Manifest& manifest, const Piece& piece, const transport::Slice& slice) const;
  // Records whether an encoding arrived completely.
  void Ended(bool good);

  static constexpr int kMaxFailures = 3;

 private:
  Region(const std::shared_ptr<transport::Transport>& transport, const DeviceRegion& region,
         std::shared_ptr<Arena> arena, absl::Duration rest)
      : transport_(transport), region_(region), arena_(std::move(arena)), rest_(rest) {}

  const std::weak_ptr<transport::Transport> transport_;  // the transport it is registered with
  const DeviceRegion region_;
  const std::shared_ptr<Arena> arena_;
  const absl::Duration rest_;
  Mutex mutex_;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;  // consecutive
  absl::Time rests_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_REGION_H_
