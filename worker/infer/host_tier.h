// The second tier of a device's residents: encodings in their stored form (raw, q8, q4), copied to pinned host memory,
// from which they return without the store. Uses at most its budget, in pieces of kPieceBytes; each copy takes whole
// pieces, and the least recently used copy is evicted first. Pinning waits for the device, so pinned memory is kept and
// reused.
//
// All content is verified: a copy is kept only if it is complete and the store had not taken back any of the bytes
// before they were copied. So no store can invalidate a copy.
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

// One encoding. Its destructor returns its memory to the tier.
class HostCopy {
 public:
  ~HostCopy();
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  const SlabShape& stored() const { return stored_; }  // of each layer
  int64_t layers() const { return layers_; }
  void Fill(int64_t layer, absl::Span<const std::byte> slab);
  // The slab of a layer, as consecutive parts; Parts() for writing.
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

  // Returns an empty copy to be filled, evicting others for it. nullptr: no room or no memory.
  std::shared_ptr<HostCopy> Make(const SlabShape& stored, int64_t layers);
  // Keeps a complete copy. An existing copy of the same identity stays.
  void Keep(const Identity& identity, std::shared_ptr<const HostCopy> copy);
  // nullptr: not found. A copy that is found becomes the most recently used.
  std::shared_ptr<const HostCopy> Find(const Identity& identity);

  struct Stats {
    int64_t copies = 0;
    int64_t bytes = 0;  // in use, including copies not kept yet or no longer kept
    int64_t evictions = 0;
  };
  Stats stats() const;

 private:
  friend class HostCopy;
  // Pieces pinned at once.
  static constexpr int64_t kBlockPieces = 64;
  struct Entry {
    Identity identity;
    std::shared_ptr<const HostCopy> copy;
  };
  using Lru = std::list<Entry>;  // least recently used first

  void Give(absl::Span<std::byte* const> pieces);
  // False: the budget or the host has no more memory.
  bool Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether evicting can free `pieces` now.
  bool Attainable(int64_t pieces) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets and returns the least recently used copy with no other reference. Release it without the mutex.
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
