// A transport and the memory registered with it, shared by all nodes reached over it.
//
// Thread-safety: all methods. Ownership: shared by the resources and by each node's data path; slices may outlive it.
#ifndef KVLINK_STORE_CLIENT_DATA_TRANSPORT_MEMORY_H_
#define KVLINK_STORE_CLIENT_DATA_TRANSPORT_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "store/client/control/timer.h"
#include "store/client/data/arena.h"
#include "store/client/resources.h"
#include "transport/transport.h"

namespace kvlink::store::client {

class TransportMemory {
 public:
  // `timer` must outlive it.
  TransportMemory(std::shared_ptr<transport::Transport> transport, const ResourceOptions& options, Timer* timer);
  const std::shared_ptr<transport::Transport>& transport() const { return transport_; }
  Arena& receive_memory() { return *receive_memory_; }
  Arena& sending() { return *sending_; }
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> AllocateSlabs(int64_t bytes);
  // Returns the slice for `slab` if it lies in memory from AllocateSlabs.
  std::optional<transport::Slice> Registered(absl::Span<const std::byte> slab);

 private:
  void Grown();
  // Called by the timer: releases memory unused for a while. Returns when to do so again.
  absl::Time Trim();

  const std::shared_ptr<transport::Transport> transport_;
  const absl::Duration idle_;
  const std::shared_ptr<Arena> receive_memory_, sending_;
  Mutex mutex_;
  std::list<std::weak_ptr<transport::RegisteredBuffer>> slabs_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> watched_{false};
  Alarm trim_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_TRANSPORT_MEMORY_H_
