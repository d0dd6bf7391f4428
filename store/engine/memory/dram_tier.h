// The DRAM tier: which encodings are resident, who holds them, and what leaves first (S3-FIFO in each namespace; leased
// ones stay, pinned ones go last). An encoding is named by the sequence number of its put, which no two puts share.
//
// Each namespace's encodings lie in memory of their own. While there is memory left everybody takes what they need;
// then a namespace that has more than its fair share makes room among its own, and one that has less gets memory from
// the namespace that has most over its share. So none is pushed below its share by others, and none is kept below it by
// readers of others that only map what they lease: their leases are revoked where nothing else gives way.
//
// Thread-safety: all methods. Leases and residencies must be destroyed before the tier.
#ifndef KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_
#define KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_

#include <atomic>
#include <cstdint>
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

// How much may be evicted to make room.
enum class Eviction {
  kNothing,
  kBelowShare,  // what is needed, while the namespace that asks has less than its share
  kAnything,    // what is needed and not held
};

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
  // From now on this only asks for the memory to stay: where a namespace below its share needs it, the tier takes it
  // back, which the generation says. For readers that map the tier and look at that. This is empty afterwards.
  void MakeRevocable();

 private:
  friend class DramTier;
  DramTier* tier_ = nullptr;
  uint64_t sequence_ = 0;
  std::shared_ptr<Residency> residency_;
  uint64_t revocable_ = 0;  // Residency::number() of what it asks for; `residency_` is null then
};

struct DramTierOptions {
  ArenaPoolOptions memory;  // what is told of it must not call the tier
  // Most residencies and pushes at a time; 0: as many as find room, up to 16 million.
  int64_t max_residencies = 0;
};

class DramTier {
 public:
  // RESOURCE_EXHAUSTED, UNAVAILABLE as Mapping::Create.
  static absl::StatusOr<std::unique_ptr<DramTier>> Create(DramTierOptions options);

  // Memory for an encoding, in a row or each layer by itself; what is not leased makes room, as far as it may. Waits,
  // up to `wait_until`, only for memory whose last read or write is still under way. RESOURCE_EXHAUSTED; UNAVAILABLE as
  // Mapping::Create.
  absl::StatusOr<std::shared_ptr<Residency>> MakeRoom(absl::string_view ns, std::shared_ptr<const Manifest> manifest,
                                                      Eviction evict, absl::Time wait_until);
  // The same for what comes slowly, a layer at a time: no memory yet, only a place among the residencies.
  absl::StatusOr<std::shared_ptr<Residency>> MakeEmpty(absl::string_view ns, std::shared_ptr<const Manifest> manifest);
  // Memory for one layer of it. Never waits. Errors as MakeRoom.
  absl::Status TakeLayer(Residency* residency, int64_t layer, Eviction evict);
  // The same outside of the tier, from the heap: for a put that finds the tier full of leases, and to read what the
  // tier is not to hold.
  static absl::StatusOr<std::shared_ptr<Residency>> Outside(std::shared_ptr<const Manifest> manifest);

  // A lease on a resident encoding; empty if it is not resident, or has failed (Residency::failed).
  ResidentLease Acquire(uint64_t sequence);
  // Makes an encoding of MakeRoom's namespace resident and leases it. If it became so meanwhile, `residency` is dropped
  // and `*added` is false. One that has failed is replaced.
  ResidentLease Add(uint64_t sequence, std::shared_ptr<Residency> residency, bool pinned, bool* added);
  bool Resident(uint64_t sequence) const;
  // Counts as a use for the order of eviction.
  void Touch(uint64_t sequence);
  // Takes it out of the tier; those who hold it keep its memory. With `only`: no other stay of it than this.
  void Forget(uint64_t sequence, const Residency* only = nullptr);
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
  int64_t revoked() const;  // encodings that were taken from revocable leases
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
    int revocable = 0;  // of the leases
    bool pinned = false;
  };
  // Not resident any more, but asked for by revocable leases.
  struct Leftover {
    std::shared_ptr<Residency> residency;
    Space* space = nullptr;
    int leases = 0;
  };
  DramTier(DramTierOptions options, std::unique_ptr<GenerationTable> generations)
      : generations_(std::move(generations)), pool_(std::make_unique<ArenaPool>(std::move(options.memory))) {}
  Space* SpaceOf(absl::string_view ns) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<Residency> TryTake(Arena* arena, const std::shared_ptr<const Manifest>& manifest);
  void Release(uint64_t sequence, std::shared_ptr<Residency> residency);
  void MakeRevocable(ResidentLease* lease);
  void ReleaseRevocable(uint64_t sequence, uint64_t number);
  ResidentLease LeaseOf(uint64_t sequence, Holding* resident) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NoRoom(const Space& space, int64_t bytes) const;
  absl::Status CheckFits(const Manifest& manifest) const;
  // One step towards room for `bytes`: something left, or a chunk came. False: nothing may.
  bool EvictFor(Space* space, Eviction evict, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether memory comes back without anybody's doing: what loads hold that nobody waits for, or puts on their way.
  bool MemoryReturns(const Space& space) const;
  // Takes out what leaves next; the caller drops it outside the lock. Null if nothing may leave. What is still being
  // read is left alone, unless `also_read`: it would be read for nothing, and its memory does not come back at once.
  std::shared_ptr<Residency> EvictOne(Space* space, bool also_read) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<Residency> TakeOut(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves a chunk of memory to `space` from one that has to give. False if none has, or all theirs is held; `revoke`:
  // held by more than revocable leases.
  bool MoveChunkTo(Space* space, int64_t bytes, bool revoke) ABSL_LOCKS_EXCLUDED(mutex_);
  // The chunk of `space` that is cheapest to empty, and what is in it. Nothing: something in each is held.
  struct Chunk {
    std::shared_ptr<MemoryPiece> piece;
    int number = 0;  // in the piece
    int64_t bytes = 0;
    int64_t cost = 0;
    std::vector<uint64_t> residents;  // sequences
    std::vector<uint64_t> leftovers;  // numbers
  };
  std::optional<Chunk> CheapestChunk(const Space& space, bool revoke) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<GenerationTable> generations_;
  const std::unique_ptr<ArenaPool> pool_;
  std::atomic<uint64_t> next_number_{1};
  mutable Mutex mutex_;
  std::map<std::string, Space, std::less<>> spaces_ ABSL_GUARDED_BY(mutex_);  // stay
  absl::flat_hash_map<uint64_t, Holding> residents_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Leftover> leftovers_ ABSL_GUARDED_BY(mutex_);  // by Residency::number()
  absl::flat_hash_map<const Arena*, Space*> space_of_ ABSL_GUARDED_BY(mutex_);
  int64_t leases_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t revoked_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_
