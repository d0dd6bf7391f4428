// The DRAM tier: which encodings are resident, who holds them, and what leaves first (S3-FIFO in each namespace; leased
// ones stay, pinned ones go last). An encoding is named by the sequence number of its put, which no two puts share.
//
// Each namespace's encodings lie in memory of their own. While there is memory left everybody takes what they need;
// then a namespace that has more than its fair share makes room among its own, and one that has less gets memory from
// the namespace that has most over its share. So none is pushed below its share by others.
//
// Thread-safety: all methods. Leases and residencies must be destroyed before the tier.
#ifndef KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_
#define KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/engine/memory/arena.h"
#include "store/engine/memory/generations.h"
#include "store/engine/memory/residency.h"
#include "store/engine/s3_fifo.h"

namespace kvlink::engine {

class DramTier;

// A hold on a resident encoding: it stays in the tier while this lives.
class ResidentLease {
 public:
  ResidentLease() = default;
  ResidentLease(ResidentLease&& other) noexcept { *this = std::move(other); }
  ResidentLease& operator=(ResidentLease&& other) noexcept;
  ~ResidentLease();
  explicit operator bool() const { return residency_ != nullptr; }
  Residency& operator*() const { return *residency_; }
  Residency* operator->() const { return residency_.get(); }

 private:
  friend class DramTier;
  DramTier* tier_ = nullptr;
  uint64_t sequence_ = 0;
  std::shared_ptr<Residency> residency_;
};

struct DramTierOptions {
  ArenaPoolOptions memory;
  // Told of each namespace's memory before any of it is handed out; must not call the tier.
  std::function<void(const TierMemory&)> memory_added;
  // Most residencies and pushes at a time; 0: as many as find room, up to 16 million.
  int64_t max_residencies = 0;
};

class DramTier {
 public:
  // RESOURCE_EXHAUSTED, UNAVAILABLE as Mapping::Create.
  static absl::StatusOr<std::unique_ptr<DramTier>> Create(DramTierOptions options);

  // Makes the namespace's memory, if it has none yet: MakeRoom does so too. Errors as Mapping::Create.
  absl::Status AddNamespace(absl::string_view ns);

  // Memory for an encoding, in one piece or one per layer; what is not leased makes room, if it may. Waits, up to the
  // deadline, only for memory whose last read or write is still under way. RESOURCE_EXHAUSTED.
  absl::StatusOr<std::shared_ptr<Residency>> MakeRoom(absl::string_view ns, std::shared_ptr<const Manifest> manifest,
                                                      bool may_evict, absl::Time deadline);
  // The same outside of the tier, from the heap: for a put that finds the tier full of leases, and to read what the
  // tier is not to hold.
  static absl::StatusOr<std::shared_ptr<Residency>> Outside(std::shared_ptr<const Manifest> manifest);

  // A lease on a resident encoding; empty if it is not resident.
  ResidentLease Acquire(uint64_t sequence);
  // Makes an encoding of MakeRoom's namespace resident and leases it. If it became so meanwhile, `residency` is dropped
  // and `*added` is false.
  ResidentLease Add(uint64_t sequence, std::shared_ptr<Residency> residency, bool pinned, bool* added);
  bool Resident(uint64_t sequence) const;
  // Counts as a use for the order of eviction.
  void Touch(uint64_t sequence);
  // Takes it out of the tier; those who hold it keep its memory.
  void Forget(uint64_t sequence);
  void SetPinned(uint64_t sequence, bool pinned);
  // Takes out everything not leased.
  void Drop();

  // Before the I/O that chunks are announced to is destroyed.
  void StopGrowing() { pool_->StopGrowing(); }

  int64_t capacity() const { return pool_->limit(); }
  int64_t used() const { return pool_->used(); }
  std::map<std::string, int64_t> used_by_namespace() const;
  int64_t present() const { return pool_->present(); }  // bytes of memory taken from the system
  // No request to the disk should cross a multiple of this address.
  int64_t chunk_bytes() const { return pool_->chunk_bytes(); }
  int chunks() const { return pool_->chunks(); }
  int64_t leases() const;
  int64_t evictions() const;
  struct NamespaceMemory {
    std::string ns;
    int64_t present = 0;    // bytes of memory taken from the system
    int64_t used = 0;       // bytes of them
    int64_t resident = 0;   // bytes of encodings
    int64_t encodings = 0;  // resident
  };
  std::vector<NamespaceMemory> Namespaces() const;
  const GenerationTable& generations() const { return *generations_; }

 private:
  friend class ResidentLease;
  // Of one namespace.
  struct Space {
    Arena* arena = nullptr;
    S3Fifo<uint64_t> order;
  };
  struct Holding {
    std::shared_ptr<Residency> residency;
    Space* space = nullptr;
    int leases = 0;
    bool pinned = false;
  };
  DramTier(DramTierOptions options, std::unique_ptr<GenerationTable> generations)
      : memory_added_(std::move(options.memory_added)),
        generations_(std::move(generations)),
        pool_(std::make_unique<ArenaPool>(std::move(options.memory))) {}
  absl::StatusOr<Space*> SpaceOf(absl::string_view ns) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<Residency> TryTake(Arena* arena, const std::shared_ptr<const Manifest>& manifest);
  void Release(uint64_t sequence, std::shared_ptr<Residency> residency);
  ResidentLease LeaseOf(uint64_t sequence, Holding* resident) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether memory comes back without anybody's doing: what loads hold that nobody waits for, or puts on their way.
  bool MemoryReturns(const Space& space) const;
  // Takes out what leaves next; the caller drops it outside the lock. Null if nothing may leave. What is still being
  // read is left alone, unless `also_read`: it would be read for nothing, and its memory does not come back at once.
  std::shared_ptr<Residency> EvictOne(Space* space, bool also_read) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<Residency> TakeOut(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves a chunk of memory to `space` from who has to give one. False if nobody has, or all theirs is held.
  bool MoveChunkTo(Space* space, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // The chunk of `space` that is cheapest to empty, and what is in it. Nothing: something in each is held.
  struct Chunk {
    int number = 0;
    int64_t bytes = 0;
    std::vector<uint64_t> residents;
  };
  std::optional<Chunk> CheapestChunk(const Space& space) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void(const TierMemory&)> memory_added_;
  const std::unique_ptr<GenerationTable> generations_;
  const std::unique_ptr<ArenaPool> pool_;
  std::atomic<uint64_t> next_number_{1};
  Mutex add_mutex_;  // one namespace's memory is made at a time; taken before mutex_
  mutable Mutex mutex_;
  std::map<std::string, Space, std::less<>> spaces_ ABSL_GUARDED_BY(mutex_);  // stay
  absl::flat_hash_map<uint64_t, Holding> residents_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<const Arena*, Space*> space_of_ ABSL_GUARDED_BY(mutex_);
  int64_t leases_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_
