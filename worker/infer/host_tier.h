// The second tier of a device's residents: encodings as they are stored (raw, q8, q4), copied to pinned host memory,
// from where they arrive again without the store. Never more than its budget, in pieces of kPieceBytes, of which each
// copy takes whole ones; the least recently used goes first. Pinning waits for the device, so that memory once pinned
// is kept, and used again.
//
// All content is verified: a copy is kept only when it is whole, and the store had not taken back any of the bytes by
// the time they were copied. So no store can fail a copy any more.
//
// Thread-safety: all methods of HostTier; a HostCopy by one thread at a time until it is kept, then by all. Lifetime:
// the backend outlives the tier, the tier every copy.
#ifndef KVLINK_WORKER_INFER_HOST_TIER_H_
#define KVLINK_WORKER_INFER_HOST_TIER_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/slab.h"
#include "kernels/kernels.h"
#include "proto/digest.h"

namespace kvlink::infer {

class HostTier;

// One encoding. Its memory goes back to the tier with the object.
class HostCopy {
 public:
  ~HostCopy();
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  const SlabShape& stored() const { return stored_; }  // of each layer
  int64_t layers() const { return layers_; }
  void Fill(int64_t layer, absl::Span<const std::byte> slab);
  // The slab of a layer, in parts that follow each other; Parts: to be filled.
  std::vector<absl::Span<std::byte>> Parts(int64_t layer) const;
  std::vector<absl::Span<const std::byte>> layer(int64_t layer) const;

 private:
  friend class HostTier;
  HostCopy(HostTier* tier, const SlabShape& stored, int64_t layers, std::vector<std::byte*> pieces)
      : tier_(tier), stored_(stored), layers_(layers), pieces_(std::move(pieces)) {}

  HostTier* const tier_;
  const SlabShape stored_;
  const int64_t layers_;
  const std::vector<std::byte*> pieces_;
};

class HostTier {
 public:
  static constexpr int64_t kPieceBytes = int64_t{1} << 20;

  HostTier(kernels::Backend* backend, int64_t budget_bytes)
      : backend_(backend), max_pieces_(budget_bytes / kPieceBytes) {}

  // An empty copy to be filled; evicts for it. nullptr: there is no room, or no memory.
  std::shared_ptr<HostCopy> Make(const SlabShape& stored, int64_t layers);
  // Takes a copy that is whole. One that is there already stays.
  void Keep(const Identity& identity, std::shared_ptr<const HostCopy> copy);
  // nullptr: not here. Else it is the one used last.
  std::shared_ptr<const HostCopy> Find(const Identity& identity);

  struct Stats {
    int64_t copies = 0;
    int64_t bytes = 0;  // in use, also of copies that are not kept yet, or not any more
    int64_t evictions = 0;
  };
  Stats stats() const;

 private:
  friend class HostCopy;
  // Pinned at once.
  static constexpr int64_t kBlockPieces = 64;
  struct Entry {
    Identity identity;
    std::shared_ptr<const HostCopy> copy;
  };
  using Lru = std::list<Entry>;  // least recently used first

  void Give(absl::Span<std::byte* const> pieces);
  // False: the budget or the host has no more.
  bool Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `pieces` can be had at all now, by evicting.
  bool Attainable(int64_t pieces) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets the least recently used copy that nobody else refers to. To be let go without the mutex.
  std::shared_ptr<const HostCopy> Evict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  kernels::Backend* const backend_;
  const int64_t max_pieces_;

  mutable Mutex mutex_;
  std::vector<kernels::Buffer> blocks_ ABSL_GUARDED_BY(mutex_);
  int64_t pieces_ ABSL_GUARDED_BY(mutex_) = 0;  // of all blocks
  std::vector<std::byte*> free_ ABSL_GUARDED_BY(mutex_);
  Lru lru_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Identity, Lru::iterator> index_ ABSL_GUARDED_BY(mutex_);
  int64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_HOST_TIER_H_
