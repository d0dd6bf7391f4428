// Pieces of address space are added when an arena needs one, and removed when they have been unused for a while, or at
// once if another arena cannot get one otherwise. Their number is limited by what the process may have open and mapped.
#include <algorithm>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/memory/arena.h"

namespace kvlink::engine {

absl::StatusOr<int> ArenaPool::SizeOfNext(const Arena* arena, int64_t bytes) const {
  const int needed = static_cast<int>((bytes + chunk_bytes_ - 1) / chunk_bytes_);
  // Allocations may fragment address space, so there is more of it than memory. But not without limit: an arena without
  // enough contiguous space evicts.
  const int room = 2 * std::max(chunks_, 1) - arena->reserved_;
  if (needed > room) {
    return absl::ResourceExhaustedError(absl::StrCat("namespace '", arena->ns_, "' has address space for ",
                                                     arena->reserved_ * chunk_bytes_,
                                                     " bytes of the DRAM tier, and no row of ", bytes, " free"));
  }
  return std::min(room, std::max(needed, std::clamp(arena->reserved_, first_chunks_, piece_chunks_)));
}

absl::Status ArenaPool::AddPiece(Arena* arena, int64_t bytes) {
  const auto add = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(grow_mutex_) -> absl::Status {
    int chunks;
    {
      MutexLock lock(&mutex_);
      KVLINK_ASSIGN_OR_RETURN(chunks, SizeOfNext(arena, bytes));
      if (pieces_ >= max_pieces_) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "the DRAM tier has ", pieces_, " pieces of memory, each in use by a namespace, and may have no more; ",
            options_.shared ? "raise the limit on open files (ulimit -n), or " : "",
            "have fewer namespaces in memory"));
      }
    }
    const int64_t length = chunks * chunk_bytes_;
    KVLINK_ASSIGN_OR_RETURN(auto mapping,
                            Mapping::Create({.bytes = length, .alignment = chunk_bytes_, .shared = options_.shared}));
    TierMemory memory{++last_memory_, arena->ns_, length, mapping->descriptor()};
    const std::shared_ptr<MemoryPiece> piece(
        new MemoryPiece(arena, std::move(mapping), std::move(memory), chunk_bytes_, chunks));
    if (options_.memory_added) options_.memory_added(piece->memory_);
    MutexLock lock(&mutex_);
    piece->unused_since_ = SteadyNow();
    arena->pieces_.push_back(piece);
    arena->reserved_ += chunks;
    ++pieces_;
    wake_.Signal();  // the prefaulter, which watches it
    return absl::OkStatus();
  };
  absl::Status added = add();
  if (absl::IsResourceExhausted(added) && RemoveUnused(absl::InfiniteFuture()) > 0) added = add();
  added = Annotate(added, absl::StrCat("memory of the DRAM tier for namespace '", arena->ns_, "'"));
  MutexLock lock(&mutex_);
  arena->refused_ = added;
  return added;
}

int ArenaPool::RemoveUnused(absl::Time since) {
  std::vector<std::shared_ptr<MemoryPiece>> unused;
  {
    MutexLock lock(&mutex_);
    for (const auto& arena : arenas_) {
      for (const auto& piece : arena->pieces_) {
        PageMap& map = piece->map_;
        if (map.used() > 0 || piece->unused_since_ > since) continue;
        bool moving = false;  // a thread is about to move a chunk it withdrew
        for (int chunk = 0; chunk < map.chunks(); ++chunk) moving |= map.withdrawn(chunk);
        if (moving) continue;
        for (int chunk = 0; chunk < map.chunks(); ++chunk) {
          if (map.present(chunk)) map.Withdraw(chunk);
        }
        unused.push_back(piece);
      }
    }
  }
  int removed = 0;
  for (const auto& piece : unused) removed += RemovePiece(piece);
  return removed;
}

bool ArenaPool::RemovePiece(const std::shared_ptr<MemoryPiece>& piece) {
  bool all = true;
  for (int chunk = 0; chunk < piece->map_.chunks(); ++chunk) {
    bool withdrawn;
    {
      MutexLock lock(&mutex_);
      withdrawn = piece->map_.withdrawn(chunk);
    }
    if (withdrawn && !Vacate(piece.get(), chunk)) all = false;
  }
  {
    MutexLock lock(&mutex_);
    Arena* const arena = piece->arena_;
    if (!all) {
      piece->unused_since_ = SteadyNow();  // the system may keep refusing, so do not retry soon
      return false;
    }
    std::erase(arena->pieces_, piece);
    arena->reserved_ -= piece->map_.chunks();
    --pieces_;
    if (arena->pieces_.empty()) arena->wanted_ = false;
    ++changes_;
    changed_.SignalAll();
  }
  if (options_.memory_gone) options_.memory_gone(piece->memory_);
  return true;
}

}  // namespace kvlink::engine
