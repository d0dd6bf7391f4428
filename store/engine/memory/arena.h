// The DRAM tier's memory. Each namespace has an arena. An arena reserves address space in pieces, each a memory file,
// as needed: the first of 1 GiB (or of the whole tier if that is smaller), each further one as large as all the arena
// has, up to a sixteenth of the tier; an allocation that needs more gets a larger piece. So a namespace with little
// data takes little, and one that fills the tier has about twenty pieces. The chunks of a piece are individually backed
// by memory or not, out of one budget for all arenas. Within a piece, memory is cut into runs of 4096-byte pages. A
// piece unused for a while is removed; its number is never reused.
//
// First-touching memory is slow (0.5 GB/s if a hypervisor reclaimed it), so a thread keeps prefaulted memory ahead of
// demand. It starts with an arena's first allocation, so that a process that never loads anything pays nothing.
//
// Thread-safety: all methods. Pages must be destroyed before the pool, which owns the arenas.
#ifndef KVLINK_STORE_ENGINE_MEMORY_ARENA_H_
#define KVLINK_STORE_ENGINE_MEMORY_ARENA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/engine/memory/mapping.h"
#include "store/engine/memory/page_map.h"
#include "store/engine/types.h"

namespace kvlink::engine {

class Arena;
class ArenaPool;
class MemoryPiece;

// A run of pages, released on destruction. From an arena, or (Heap) from the process's heap.
class Pages {
 public:
  Pages() = default;
  Pages(Pages&& other) noexcept { *this = std::move(other); }
  Pages& operator=(Pages&& other) noexcept;
  ~Pages();
  // 4096-byte aligned. RESOURCE_EXHAUSTED.
  static absl::StatusOr<Pages> Heap(int64_t bytes);

  std::byte* data() const { return data_; }
  int64_t size() const { return bytes_; }
  // The piece it lies in, which it keeps alive. Null: the heap.
  const MemoryPiece* piece() const { return piece_; }

 private:
  friend class ArenaPool;
  Pages(MemoryPiece* piece, std::byte* data, int64_t bytes) : piece_(piece), data_(data), bytes_(bytes) {}
  MemoryPiece* piece_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The memory of one namespace. Operations on it are methods of the pool.
class Arena {
 public:
  const std::string& ns() const { return ns_; }

 private:
  friend class ArenaPool;
  friend class Pages;
  Arena(ArenaPool* pool, absl::string_view ns) : pool_(pool), ns_(ns) {}

  ArenaPool* const pool_;
  const std::string ns_;
  // Guarded by the pool's mutex_, which the annotations cannot express here.
  std::vector<std::shared_ptr<MemoryPiece>> pieces_;  // in order of creation
  int reserved_ = 0;                                  // chunks, in all pieces
  int chunks_ = 0;                                    // chunks of the budget: present, or becoming present
  uint64_t turn_ = 0;                                 // of its last allocation
  bool wanted_ = false;                               // an allocation was made or attempted since it last had no piece
  absl::Status refused_;                              // why it has no further piece although it needed one
};

// Address space of an arena. Operations on it are methods of the pool.
class MemoryPiece {
 public:
  const Arena* arena() const { return arena_; }
  // REQUIRES: `data` lies in the piece.
  int64_t offset(const std::byte* data) const { return data - mapping_->base(); }
  Place place(const std::byte* data) const { return {memory_.number, offset(data)}; }

 private:
  friend class ArenaPool;
  friend class Pages;
  MemoryPiece(Arena* arena, std::unique_ptr<Mapping> mapping, TierMemory memory, int64_t chunk_bytes, int chunks)
      : arena_(arena),
        mapping_(std::move(mapping)),
        memory_(std::move(memory)),
        map_(chunk_bytes, chunks),
        registered_(chunks, -1) {}

  Arena* const arena_;
  const std::unique_ptr<Mapping> mapping_;
  const TierMemory memory_;
  // Guarded by the pool's mutex_.
  PageMap map_;
  std::vector<int> registered_;  // per chunk: its number in the budget, while present
  absl::Time unused_since_;      // set while nothing of it is in use
};

// A present chunk, and how much of it is in use.
struct ChunkUse {
  std::shared_ptr<MemoryPiece> piece;
  int chunk = 0;
  int64_t bytes = 0;
};

struct ArenaPoolOptions {
  int64_t limit = 0;  // bytes, rounded down to whole chunks
  bool shared = false;
  // Called for each piece before any of it is handed out, and when nothing can lie in it any longer: all its chunks
  // have left. Calls, including those of the callbacks below, do not overlap; they must not call the pool.
  std::function<void(const TierMemory&)> memory_added, memory_gone;
  // Called for each chunk when its pages are present, before any of it is handed out; and when nothing of it is in use
  // any longer, before its pages are returned to the system.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  absl::Duration keep_unused = absl::Minutes(1);  // until an unused piece is removed
  int64_t first_piece_bytes = 0;                  // per arena; 0: 1 GiB; rounded up to whole chunks
  int64_t chunk_bytes = 0;  // a power of two; 0: derived from the limit: at most 32 MiB, or a 16384th of it
  int max_pieces = 0;       // of all arenas; 0: 16384; if shared, at most one per four descriptors
};

class ArenaPool {
 public:
  static constexpr int64_t kPageBytes = 4096;

  explicit ArenaPool(ArenaPoolOptions options);
  ~ArenaPool();

  // Adds an arena, which has no memory yet.
  Arena* Add(absl::string_view ns);

  // Allocates `bytes` (a multiple of 4096) contiguously, from the arena's memory, from the rest of the budget, or from
  // chunks that other arenas do not use. Returns empty Pages (data() null) if there is none.
  Pages Allocate(Arena* arena, int64_t bytes);
  // Why the arena's last attempt to reserve a piece failed (RESOURCE_EXHAUSTED, UNAVAILABLE), or OK.
  absl::Status refused(const Arena* arena) const;

  // Fair shares. An arena's share is an equal part of the budget among the arenas that have memory or want it.
  bool BelowShare(const Arena* arena) const;
  // The arenas that must give a chunk to `arena` if it needs one, furthest above its share first. No arena is pushed
  // below its share, and two never pass one chunk back and forth.
  std::vector<Arena*> Givers(const Arena* arena) const;
  // The present chunks of an arena that are not withdrawn.
  std::vector<ChunkUse> Used(const Arena* arena) const;
  // Reserves address space, if missing, for a chunk that helps `bytes` to fit. Returns false if there is none; then no
  // chunk need be given.
  bool MakeSpace(Arena* arena, int64_t bytes);
  // Prepares to give the chunk away: nothing more is allocated in it. Returns false, changing nothing, if the bytes in
  // use in it are no longer `bytes`.
  bool Withdraw(MemoryPiece* piece, int chunk, int64_t bytes);
  // Returns a withdrawn, unused chunk to the system and gives `to` another for it, one in which `bytes` would fit, or
  // help to fit, if possible.
  void Move(MemoryPiece* from, int chunk, Arena* to, int64_t bytes);

  // Lets callers that found no room wait. changes() grows whenever memory is freed, and with Changed(), which is called
  // when something becomes evictable. WaitForChange waits until it differs from `seen`; returns false if the deadline
  // came first.
  uint64_t changes() const;
  void Changed();
  bool WaitForChange(uint64_t seen, absl::Time deadline);

  // Ends the prefaulting thread.
  void StopGrowing();

  int64_t chunk_bytes() const { return chunk_bytes_; }
  int chunks() const { return chunks_; }
  // Larger allocations are better split: a contiguous range lies in one piece, so a larger piece would be created for
  // it.
  int64_t piece_bytes() const { return piece_chunks_ * chunk_bytes_; }
  int64_t limit() const { return limit_; }
  int64_t used() const;
  int64_t used(const Arena* arena) const;
  // Bytes of memory occupied by present chunks.
  int64_t present() const;
  int64_t present(const Arena* arena) const;

 private:
  friend class Pages;
  // Chunks [first, end) of a piece.
  struct Window {
    std::shared_ptr<MemoryPiece> piece;
    int first = 0, end = 0;
  };
  void Free(MemoryPiece* piece, std::byte* data, int64_t bytes);
  // Makes a chunk present that helps `bytes` to fit (0: any chunk), from the rest of the budget. Returns false if
  // nothing is left, or no chunk helps.
  bool Grow(Arena* arena, int64_t bytes);
  bool Fits(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The chunks that must be present for `bytes` to fit contiguously, with as few absent as possible. 0: any range with
  // an absent chunk. No piece: the arena has no such range of address space.
  Window NarrowestWindow(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first absent chunk in the window; its end if none is.
  static int FirstAbsent(const Window& window);
  // As MakeSpace.
  bool Reserve(Arena* arena, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Adds a piece in which `bytes` would fit. RESOURCE_EXHAUSTED: the arena already has address space for twice the
  // tier, or the process has no more address space, pieces or descriptors. UNAVAILABLE as Mapping::Create.
  absl::Status AddPiece(Arena* arena, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Number of chunks in the arena's next piece.
  absl::StatusOr<int> SizeOfNext(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Removes the pieces unused since `since`; returns how many.
  int RemoveUnused(absl::Time since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Removes a piece whose chunks are all withdrawn. Returns false, keeping the piece, if some chunks cannot be removed.
  bool RemovePiece(const std::shared_ptr<MemoryPiece>& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Finds an unused chunk of another arena or, outside of `keep`, of this one. No piece: there is none.
  Window FindEmpty(const Arena* arena, const Window& keep) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TierChunk ChunkOf(const MemoryPiece* piece, int chunk, int number) const;
  // Removes a chunk's memory; its budget then belongs to no arena. REQUIRES: withdrawn, unused.
  bool Vacate(MemoryPiece* piece, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  bool Populate(MemoryPiece* piece, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  int64_t PresentBytes(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t UsedBytes(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Active(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Arena* NextToPrefault() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Prefault();
  // Removes the pages that readers brought in by touching memory that is not present.
  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);

  const ArenaPoolOptions options_;
  const int64_t limit_;
  const int64_t chunk_bytes_;
  const int chunks_;
  const int first_chunks_;  // in an arena's first piece
  const int piece_chunks_;  // max per piece, unless an allocation needs more
  const int max_pieces_;

  Mutex grow_mutex_;  // serialises adding and removing chunks and pieces; taken before mutex_
  uint32_t last_memory_ ABSL_GUARDED_BY(grow_mutex_) = 0;
  mutable Mutex mutex_;
  CondVar wake_;
  std::vector<std::unique_ptr<Arena>> arenas_ ABSL_GUARDED_BY(mutex_);
  int pieces_ ABSL_GUARDED_BY(mutex_) = 0;                 // in all arenas
  std::vector<int> free_numbers_ ABSL_GUARDED_BY(mutex_);  // the rest of the budget
  uint64_t turn_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar changed_;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread prefaulter_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_ARENA_H_
