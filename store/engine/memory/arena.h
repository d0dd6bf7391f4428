// The DRAM tier's memory. Each namespace has an arena, which reserves address space in pieces, a file of memory each,
// as it needs them: the first of 1 GiB, or of the whole tier where that is smaller; each further one as large as all
// that the arena has, up to a sixteenth of the tier; and a larger one for an allocation that takes more. So a namespace
// that holds little takes little, and one that fills the tier has some twenty. Chunks of a piece are backed by memory
// or not; what all arenas have together comes out of one budget. Within a piece memory is cut into runs of 4096-byte
// pages. A piece in which nothing has been in use for a while goes, and its number is never another's.
//
// The first touch of memory is slow (0.5 GB/s where a hypervisor reclaimed it), so a thread keeps ready memory ahead of
// demand; it begins with an arena's first allocation, so that a process which only looks pays nothing.
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

// A run of pages, given back on destruction. From an arena, or (Heap) from the process's heap.
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
  // What it lies in, which stays while this does. Null: the heap.
  const MemoryPiece* piece() const { return piece_; }

 private:
  friend class ArenaPool;
  Pages(MemoryPiece* piece, std::byte* data, int64_t bytes) : piece_(piece), data_(data), bytes_(bytes) {}
  MemoryPiece* piece_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The memory of one namespace. What happens to it is asked of the pool.
class Arena {
 public:
  const std::string& ns() const { return ns_; }

 private:
  friend class ArenaPool;
  friend class Pages;
  Arena(ArenaPool* pool, absl::string_view ns) : pool_(pool), ns_(ns) {}

  ArenaPool* const pool_;
  const std::string ns_;
  // Guarded by the pool's mutex_, which the compiler cannot know here.
  std::vector<std::shared_ptr<MemoryPiece>> pieces_;  // in the order of their making
  int reserved_ = 0;                                  // chunks of all of them
  int chunks_ = 0;                                    // of the budget: present, or becoming so
  uint64_t turn_ = 0;                                 // of its last allocation
  bool wanted_ = false;   // something was allocated, or would have been, since it had no piece
  absl::Status refused_;  // why it has no further piece, though it needed one
};

// Address space of an arena. What happens to it is asked of the pool.
class MemoryPiece {
 public:
  const Arena* arena() const { return arena_; }
  // REQUIRES: `data` lies in it.
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
  std::vector<int> registered_;  // per chunk: its number in the budget, while it is present
  absl::Time unused_since_;      // while nothing of it is in use
};

// A chunk that is there, and what of it is in use.
struct ChunkUse {
  std::shared_ptr<MemoryPiece> piece;
  int chunk = 0;
  int64_t bytes = 0;
};

struct ArenaPoolOptions {
  int64_t limit = 0;  // bytes, rounded down to whole chunks
  bool shared = false;
  // Told of each piece before any of it is handed out, and when nothing can lie in it any more: its chunks have left.
  // One call at a time, as of those below; they must not call the pool.
  std::function<void(const TierMemory&)> memory_added, memory_gone;
  // Told of each chunk when its pages are there, before any of it is handed out; and when nothing of it is in use any
  // more, before its pages go back to the system.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  absl::Duration keep_unused = absl::Minutes(1);  // a piece of which nothing is in use
  int64_t first_piece_bytes = 0;                  // of an arena; 0: 1 GiB; rounded up to whole chunks
  int64_t chunk_bytes = 0;                        // a power of two; 0: by the limit, at most 32 MiB, or a 16384th of it
  int max_pieces = 0;  // of all arenas; 0: 16384, of shared ones at most one for every four descriptors
};

class ArenaPool {
 public:
  static constexpr int64_t kPageBytes = 4096;

  explicit ArenaPool(ArenaPoolOptions options);
  ~ArenaPool();

  // Another arena, of no memory yet.
  Arena* Add(absl::string_view ns);

  // `bytes` (a multiple of 4096) in a row, from memory the arena has, or from what is left of the budget, or from
  // chunks that other arenas do not use. Empty pages (data() null) if there is none.
  Pages Allocate(Arena* arena, int64_t bytes);
  // Why the arena's last attempt to reserve a piece failed (RESOURCE_EXHAUSTED, UNAVAILABLE), or OK.
  absl::Status refused(const Arena* arena) const;

  // Fair shares. An arena's is an equal part of the budget among those that have memory, or want it.
  bool BelowShare(const Arena* arena) const;
  // Arenas that have to give a chunk to `arena` if it needs one, the one furthest above its share first: none is pushed
  // below its share, and two do not push one chunk to and fro.
  std::vector<Arena*> Givers(const Arena* arena) const;
  // The chunks of an arena that are there and not given away.
  std::vector<ChunkUse> Used(const Arena* arena) const;
  // Reserves address space, where it is missing, for a chunk that helps `bytes` to fit. False: there is none for it, so
  // that no chunk need be given.
  bool MakeSpace(Arena* arena, int64_t bytes);
  // The chunk is to be given away: nothing is allocated in it any more. False, changing nothing: something else than
  // `bytes` are in use in it by now.
  bool Withdraw(MemoryPiece* piece, int chunk, int64_t bytes);
  // Gives a withdrawn chunk, of which nothing is in use any more, back to the system, and `to` another for it, in which
  // or with which `bytes` would fit, as far as there can be one.
  void Move(MemoryPiece* from, int chunk, Arena* to, int64_t bytes);

  // For those who found no room: a number that grows whenever memory is freed, or Changed is called because something
  // may leave that could not before. Waits until it is not `seen` any more. False: the deadline came first.
  uint64_t changes() const;
  void Changed();
  bool WaitForChange(uint64_t seen, absl::Time deadline);

  // Ends the prefaulting thread.
  void StopGrowing();

  int64_t chunk_bytes() const { return chunk_bytes_; }
  int chunks() const { return chunks_; }
  // What has more is best allocated in parts: a row of bytes lies in one piece, and a larger piece would be made for
  // it.
  int64_t piece_bytes() const { return piece_chunks_ * chunk_bytes_; }
  int64_t limit() const { return limit_; }
  int64_t used() const;
  int64_t used(const Arena* arena) const;
  // Bytes of memory that chunks take.
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
  // Makes a chunk present that helps `bytes` to fit, or (0) any, from what is left of the budget. False if there is
  // none left, or none that helps.
  bool Grow(Arena* arena, int64_t bytes);
  bool Fits(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Chunks that have to be present so that `bytes` fit in a row, as few of them absent as possible. 0: any, of which
  // one is absent. No piece: no address space of the arena is that long.
  Window NarrowestWindow(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first chunk of it that is absent; its end if none is.
  static int FirstAbsent(const Window& window);
  // As MakeSpace.
  bool Reserve(Arena* arena, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Another piece, in which `bytes` would fit. RESOURCE_EXHAUSTED: the arena has address space for twice the tier, or
  // the process no more of it, or of pieces, or of descriptors. UNAVAILABLE as Mapping::Create.
  absl::Status AddPiece(Arena* arena, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Chunks of the arena's next piece.
  absl::StatusOr<int> SizeOfNext(const Arena* arena, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes out the pieces of which nothing has been in use since `since`. How many those were.
  int RemoveUnused(absl::Time since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Of a piece all chunks of which were withdrawn. False: some stay, and so does the piece.
  bool RemovePiece(const std::shared_ptr<MemoryPiece>& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // A chunk that nothing is in, of another arena or, outside of `keep`, of this one. No piece: there is none.
  Window FindEmpty(const Arena* arena, const Window& keep) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TierChunk ChunkOf(const MemoryPiece* piece, int chunk, int number) const;
  // Takes the chunk's memory out; it stays in the budget of nobody. REQUIRES: withdrawn, unused.
  bool Vacate(MemoryPiece* piece, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  bool Populate(MemoryPiece* piece, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  int64_t PresentBytes(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t UsedBytes(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Active(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Arena* NextToPrefault() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Prefault();
  // Takes out again what readers brought in by touching memory that is not present.
  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);

  const ArenaPoolOptions options_;
  const int64_t limit_;
  const int64_t chunk_bytes_;
  const int chunks_;
  const int first_chunks_;  // of an arena's first piece
  const int piece_chunks_;  // of a piece at most, unless an allocation takes more
  const int max_pieces_;

  Mutex grow_mutex_;  // one chunk or piece comes or goes at a time; taken before mutex_
  uint32_t last_memory_ ABSL_GUARDED_BY(grow_mutex_) = 0;
  mutable Mutex mutex_;
  CondVar wake_;
  std::vector<std::unique_ptr<Arena>> arenas_ ABSL_GUARDED_BY(mutex_);
  int pieces_ ABSL_GUARDED_BY(mutex_) = 0;                 // of all arenas
  std::vector<int> free_numbers_ ABSL_GUARDED_BY(mutex_);  // what is left of the budget
  uint64_t turn_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar changed_;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread prefaulter_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_ARENA_H_
