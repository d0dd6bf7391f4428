// The DRAM tier: which encodings are resident, who leases them, and what is evicted first (S3-FIFO per namespace;
// leased encodings stay, pinned ones go last). An encoding is identified by the sequence number of its put, which is
// unique.
//
// Each namespace's encodings lie in memory of their own. As long as memory is left, every namespace takes what it
// needs. After that, a namespace with more than its fair share evicts its own encodings, and one with less gets memory
// from the namespace furthest above its share. So others never push a namespace below its share, nor do readers that
// merely map what they lease: their leases are revoked if nothing else can be evicted.
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
  kBelowShare,  // as needed, while the requesting namespace has less than its share
  kAnything,    // as needed, except leased encodings
};

// A lease on a resident encoding: it stays in the tier as long as this lives.
class ResidentLease {
 public:
  ResidentLease() = default;
  ResidentLease(ResidentLease&& other) noexcept { *this = std::move(other); }
  ResidentLease& operator=(ResidentLease&& other) noexcept;
  ~ResidentLease();
  explicit operator bool() const { return residency_ != nullptr; }
  Residency& operator*() const { return *residency_; }
  Residency* operator->() const { return residency_.get(); }
  // Turns this into a revocable lease, and leaves this object empty. If a namespace below its share needs the memory,
  // the tier reclaims it and changes the generation. For readers that map the tier and check the generation.
  void MakeRevocable();

 private:
  friend class DramTier;
  DramTier* tier_ = nullptr;
  uint64_t sequence_ = 0;
  std::shared_ptr<Residency> residency_;
  uint64_t revocable_ = 0;  // Residency::number() of a revocable lease; `residency_` is then null
};

struct DramTierOptions {
  ArenaPoolOptions memory;  // its callbacks must not call the tier
  // Maximum residencies and pushes at a time; 0: as many as fit, up to 16 million.
  int64_t max_residencies = 0;
};

class DramTier {
 public:
  // RESOURCE_EXHAUSTED, UNAVAILABLE as Mapping::Create.
  static absl::StatusOr<std::unique_ptr<DramTier>> Create(DramTierOptions options);

  // Allocates memory for an encoding, contiguously or layer by layer; unleased encodings are evicted as far as `evict`
  // allows. Waits, until `wait_until`, only for memory whose last read or write is in progress. RESOURCE_EXHAUSTED;
  // UNAVAILABLE as Mapping::Create.
  absl::StatusOr<std::shared_ptr<Residency>> MakeRoom(absl::string_view ns, std::shared_ptr<const Manifest> manifest,
                                                      Eviction evict, absl::Time wait_until);
  // Likewise for an encoding that arrives slowly, layer by layer: takes no memory yet, only a place among the
  // residencies.
  absl::StatusOr<std::shared_ptr<Residency>> MakeEmpty(absl::string_view ns, std::shared_ptr<const Manifest> manifest);
  // Allocates memory for one layer of it. Never waits. Errors as MakeRoom.
  absl::Status TakeLayer(Residency* residency, int64_t layer, Eviction evict);
  // Allocates from the heap instead: for a put that finds the tier full of leases, and for reads the tier should not
  // hold.
  static absl::StatusOr<std::shared_ptr<Residency>> Outside(std::shared_ptr<const Manifest> manifest);

  // Leases a resident encoding; empty if it is not resident, or has failed (Residency::failed).
  ResidentLease Acquire(uint64_t sequence);
  // Makes an encoding from MakeRoom resident and leases it. If it has become resident meanwhile, drops `residency` and
  // sets `*added` to false. A failed residency is replaced.
  ResidentLease Add(uint64_t sequence, std::shared_ptr<Residency> residency, bool pinned, bool* added);
  bool Resident(uint64_t sequence) const;
  // Counts as a use in the eviction order.
  void Touch(uint64_t sequence);
  // Removes an encoding from the tier; leases keep its memory. With `only`: only if this is the residency.
  void Forget(uint64_t sequence, const Residency* only = nullptr);
  void SetPinned(uint64_t sequence, bool pinned);
  // Removes everything not leased.
  void Drop();

  // Call before the I/O to which chunks are announced is destroyed.
  void StopGrowing() { pool_->StopGrowing(); }

  int64_t capacity() const { return pool_->limit(); }
  int64_t used() const { return pool_->used(); }
  std::map<std::string, int64_t> used_by_namespace() const;
  int64_t present() const { return pool_->present(); }  // bytes of memory taken from the system
  // Disk requests should not cross a multiple of this address.
  int64_t chunk_bytes() const { return pool_->chunk_bytes(); }
  int chunks() const { return pool_->chunks(); }
  int64_t leases() const;
  int64_t evictions() const;
  int64_t revoked() const;  // encodings taken back from revocable leases
  struct NamespaceMemory {
    std::string ns;
    int64_t present = 0;    // bytes of memory taken from the system
    int64_t used = 0;       // bytes in use, of these
    int64_t resident = 0;   // bytes of encodings
    int64_t encodings = 0;  // resident
  };
  std::vector<NamespaceMemory> Namespaces() const;
  const GenerationTable& generations() const { return *generations_; }

 private:
  friend class ResidentLease;
  // The memory and eviction order of one namespace.
  struct Space {
    Arena* arena = nullptr;
    S3Fifo<uint64_t> order;
  };
  struct Holding {
    std::shared_ptr<Residency> residency;
    Space* space = nullptr;
    int leases = 0;
    int revocable = 0;  // of these leases
    bool pinned = false;
  };
  // No longer resident, but still in use by revocable leases.
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
  // One step towards room for `bytes`: evicts something, or obtains a chunk. Returns false if nothing is allowed.
  bool EvictFor(Space* space, Eviction evict, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether memory will be released without further eviction: by loads that no reader waits for, or by puts in
  // progress.
  bool MemoryReturns(const Space& space) const;
  // Removes the next encoding to evict; the caller drops it outside the lock. Null if none may be evicted. Skips
  // encodings that are still being read unless `also_read`: their reads would be wasted, and their memory would not
  // come back at once.
  std::shared_ptr<Residency> EvictOne(Space* space, bool also_read) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<Residency> TakeOut(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves a chunk of memory to `space` from a namespace that must give one. Returns false if there is none, or if all
  // its chunks are leased; `revoke`: by more than revocable leases.
  bool MoveChunkTo(Space* space, int64_t bytes, bool revoke) ABSL_LOCKS_EXCLUDED(mutex_);
  // The chunk of `space` that is cheapest to empty, and its contents. nullopt: each contains something leased.
  struct Chunk {
    std::shared_ptr<MemoryPiece> piece;
    int number = 0;  // within the piece
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
  std::map<std::string, Space, std::less<>> spaces_ ABSL_GUARDED_BY(mutex_);  // entries are never removed
  absl::flat_hash_map<uint64_t, Holding> residents_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Leftover> leftovers_ ABSL_GUARDED_BY(mutex_);  // by Residency::number()
  absl::flat_hash_map<const Arena*, Space*> space_of_ ABSL_GUARDED_BY(mutex_);
  int64_t leases_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t revoked_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_DRAM_TIER_H_
