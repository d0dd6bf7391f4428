// The DRAM tier's memory. Each namespace has an arena: room for all that the tier may hold, of which chunks are backed
// by memory; what all arenas have together comes out of one budget. Address space is taken a piece at a time, a
// sixteenth of the tier or 1 GiB. Within a piece memory is cut into runs of 4096-byte pages.
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

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/engine/memory/mapping.h"
#include "store/engine/memory/page_map.h"
#include "store/engine/types.h"

namespace kvlink::engine {

class Arena;
class ArenaPool;

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
  // Null: from the heap.
  const Arena* arena() const { return arena_; }

 private:
  friend class ArenaPool;
  Pages(Arena* arena, std::byte* data, int64_t bytes) : arena_(arena), data_(data), bytes_(bytes) {}
  Arena* arena_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The memory of one namespace. What happens to it is asked of the pool.
class Arena {
 public:
  const TierMemory& memory() const { return memory_; }
  // REQUIRES: `data` lies in it.
  Place place(const std::byte* data) const { return {memory_.number, offset(data)}; }
  int64_t offset(const std::byte* data) const { return mapping_->OffsetOf(data); }

 private:
  friend class ArenaPool;
  friend class Pages;
  Arena(ArenaPool* pool, std::unique_ptr<Mapping> mapping, TierMemory memory, int64_t chunk_bytes, int chunks)
      : pool_(pool),
        mapping_(std::move(mapping)),
        memory_(std::move(memory)),
        map_(chunk_bytes, chunks, static_cast<int>(mapping_->piece_bytes() / chunk_bytes)),
        registered_(chunks, -1),
        told_((chunks * chunk_bytes + mapping_->piece_bytes() - 1) / mapping_->piece_bytes(), false) {}

  ArenaPool* const pool_;
  const std::unique_ptr<Mapping> mapping_;
  const TierMemory memory_;
  // Guarded by the pool's mutex_, which the compiler cannot know here.
  PageMap map_;
  int chunks_ = 0;               // of the budget: present, or becoming so
  uint64_t turn_ = 0;            // of its last allocation
  bool wanted_ = false;          // something was allocated, or would have been
  std::vector<int> registered_;  // per chunk: its number in the budget, while it is present
  std::vector<bool> told_;       // per piece: mapped and announced; guarded by the pool's grow_mutex_
};

struct ArenaPoolOptions {
  int64_t limit = 0;  // bytes, rounded down to whole chunks
  bool shared = false;
  // Told of each chunk when its pages are there, before any of it is handed out; and when nothing of it is in use any
  // more, before its pages go back to the system. One call at a time.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  int64_t piece_bytes = 0;  // 0: a sixteenth of the limit, at least 1 GiB; rounded up to whole chunks
};

class ArenaPool {
 public:
  static constexpr int64_t kPageBytes = 4096;
  static constexpr int64_t kMaxChunkBytes = int64_t{32} << 20;

  explicit ArenaPool(ArenaPoolOptions options);
  ~ArenaPool();

  // Another arena, of no memory yet. Errors as Mapping::Create.
  absl::StatusOr<Arena*> Add(absl::string_view ns);

  // `bytes` (a multiple of 4096) in one piece, from memory the arena has, or from what is left of the budget, or from
  // chunks that other arenas do not use. Empty pages (data() null) if there is none.
  Pages Allocate(Arena* arena, int64_t bytes);

  // Fair shares. An arena's is an equal part of the budget among those that have memory, or want it.
  bool BelowShare(const Arena* arena) const;
  // Arenas that have to give a chunk to `arena` if it needs one, the one furthest above its share first: none is pushed
  // below its share, and two do not push one chunk to and fro.
  std::vector<Arena*> Givers(const Arena* arena) const;
  // Bytes in use of each chunk of an arena; -1 where it has no memory.
  std::vector<int64_t> Used(const Arena* arena) const;
  // The chunk is to be given away: nothing is allocated in it any more. False, changing nothing: something else than
  // `bytes` are in use in it by now.
  bool Withdraw(Arena* arena, int chunk, int64_t bytes);
  // Gives a withdrawn chunk, of which nothing is in use any more, back to the system, and `to` another for it, in which
  // or with which `bytes` would fit.
  void Move(Arena* from, int chunk, Arena* to, int64_t bytes);

  // For those who found no room: a number that grows whenever memory is freed, or Changed is called because something
  // may leave that could not before. Waits until it is not `seen` any more. False: the deadline came first.
  uint64_t changes() const;
  void Changed();
  bool WaitForChange(uint64_t seen, absl::Time deadline);

  // Ends the prefaulting thread.
  void StopGrowing();

  int64_t chunk_bytes() const { return chunk_bytes_; }
  int chunks() const { return chunks_; }
  // The largest allocation: each lies in one piece of memory.
  int64_t piece_bytes() const { return piece_chunks_ * chunk_bytes_; }
  int64_t limit() const { return limit_; }
  int64_t used() const;
  int64_t used(const Arena* arena) const;
  // Bytes of memory that chunks take.
  int64_t present() const;
  int64_t present(const Arena* arena) const;

 private:
  friend class Pages;
  void Free(Arena* arena, std::byte* data, int64_t bytes);
  // Makes a chunk present that helps `bytes` to fit, or (0) any, from what is left of the budget. False if there is
  // none left, or none that helps.
  bool Grow(Arena* arena, int64_t bytes);
  // A chunk that nothing is in, of another arena or, outside of `keep`, of this one.
  std::pair<Arena*, int> FindEmpty(const Arena* arena, std::pair<int, int> keep) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TierChunk ChunkOf(const Arena* arena, int chunk, int number) const;
  // Takes the chunk's memory out; it stays in the budget of nobody. REQUIRES: withdrawn, unused.
  bool Vacate(Arena* arena, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  // Maps the piece that the chunk lies in. False: there is no address space.
  bool MapPiece(Arena* arena, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  bool Populate(Arena* arena, int chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_);
  int64_t Active(const Arena* arena) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Arena* NextToPrefault() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Prefault();
  // Takes out again what readers brought in by touching memory that is not present.
  void Trim();

  const ArenaPoolOptions options_;
  const int64_t limit_;
  const int64_t chunk_bytes_;
  const int chunks_;
  const int piece_chunks_;

  Mutex grow_mutex_;  // one chunk comes or goes at a time; taken before mutex_
  mutable Mutex mutex_;
  CondVar wake_;
  std::vector<std::unique_ptr<Arena>> arenas_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> free_numbers_ ABSL_GUARDED_BY(mutex_);  // what is left of the budget
  uint64_t turn_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar changed_;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread prefaulter_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_ARENA_H_
