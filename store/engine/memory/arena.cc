// Chunks come and go under grow_mutex_, one at a time, because the system calls that bring pages take long; what is
// free changes under mutex_, which is never held during one.
#include "store/engine/memory/arena.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>
#include <tuple>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::engine {
namespace {

// Ready memory kept ahead of what is in use, by all arenas together.
constexpr int64_t kAhead = int64_t{128} << 20;
constexpr int64_t kMinPieceBytes = int64_t{1} << 30;
constexpr absl::Duration kTrimEvery = absl::Seconds(1);

// Of a small budget smaller chunks, so that there is something to share out.
int64_t ChunkBytes(int64_t limit) {
  const uint64_t part = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(limit / 16, 1)));
  return std::clamp(static_cast<int64_t>(part), ArenaPool::kPageBytes, ArenaPool::kMaxChunkBytes);
}

int PieceChunks(int64_t wanted, int64_t chunk_bytes, int chunks) {
  const int64_t sixteenth = (chunks + 15) / 16 * chunk_bytes;
  const int64_t bytes = wanted > 0 ? wanted : std::max(sixteenth, kMinPieceBytes);
  return static_cast<int>(std::clamp<int64_t>((bytes + chunk_bytes - 1) / chunk_bytes, 1, std::max(chunks, 1)));
}

}  // namespace

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Pages::~Pages() {
  if (data_ == nullptr) return;
  if (arena_ != nullptr) {
    arena_->pool_->Free(arena_, data_, bytes_);
  } else {
    std::free(data_);
  }
}

absl::StatusOr<Pages> Pages::Heap(int64_t bytes) {
  void* const data = std::aligned_alloc(ArenaPool::kPageBytes, bytes);
  if (data == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for a buffer of ", bytes, " bytes"));
  return Pages(nullptr, static_cast<std::byte*>(data), bytes);
}

ArenaPool::ArenaPool(ArenaPoolOptions options)
    : options_(std::move(options)),
      limit_(options_.limit),
      chunk_bytes_(ChunkBytes(limit_)),
      chunks_(static_cast<int>(limit_ / chunk_bytes_)),
      piece_chunks_(PieceChunks(options_.piece_bytes, chunk_bytes_, chunks_)) {
  for (int number = chunks_ - 1; number >= 0; --number) free_numbers_.push_back(number);
  prefaulter_ = Thread("kv-prefault", [this] { Prefault(); });
}

ArenaPool::~ArenaPool() { StopGrowing(); }

void ArenaPool::StopGrowing() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  prefaulter_.Join();
}

absl::StatusOr<Arena*> ArenaPool::Add(absl::string_view ns) {
  const int64_t bytes = std::max(chunks_, 1) * chunk_bytes_;
  auto mapping = Mapping::Create({.bytes = bytes,
                                  .piece_bytes = piece_chunks_ * chunk_bytes_,
                                  .alignment = chunk_bytes_,
                                  .shared = options_.shared});
  KVLINK_RETURN_IF_ERROR(Annotate(mapping.status(), absl::StrCat("the DRAM tier of namespace '", ns, "'")));
  TierMemory memory{0, std::string(ns), bytes, (*mapping)->descriptor()};
  MutexLock lock(&mutex_);
  memory.number = static_cast<uint32_t>(arenas_.size()) + 1;
  arenas_.emplace_back(new Arena(this, *std::move(mapping), std::move(memory), chunk_bytes_, std::max(chunks_, 1)));
  return arenas_.back().get();
}

int64_t ArenaPool::used() const {
  MutexLock lock(&mutex_);
  int64_t used = 0;
  for (const auto& arena : arenas_) used += arena->map_.used();
  return used;
}

int64_t ArenaPool::used(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return arena->map_.used();
}

int64_t ArenaPool::present() const {
  MutexLock lock(&mutex_);
  return (chunks_ - static_cast<int64_t>(free_numbers_.size())) * chunk_bytes_;
}

int64_t ArenaPool::present(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return arena->map_.present_bytes();
}

Pages ArenaPool::Allocate(Arena* arena, int64_t bytes) {
  if (bytes <= 0 || bytes % kPageBytes != 0 || bytes > piece_chunks_ * chunk_bytes_) return Pages();
  for (;;) {
    {
      MutexLock lock(&mutex_);
      arena->turn_ = ++turn_;
      arena->wanted_ = true;
      const auto offset = arena->map_.Allocate(bytes);
      if (!free_numbers_.empty() && NextToPrefault() != nullptr) wake_.Signal();
      if (offset.has_value()) return Pages(arena, arena->mapping_->At(*offset), bytes);
      const bool growing = arena->chunks_ * chunk_bytes_ > arena->map_.present_bytes();
      if (!growing && free_numbers_.empty() && FindEmpty(arena, {0, 0}).first == nullptr) return Pages();
    }
    if (!Grow(arena, bytes)) return Pages();
  }
}

void ArenaPool::Free(Arena* arena, std::byte* data, int64_t bytes) {
  MutexLock lock(&mutex_);
  arena->map_.Free(arena->offset(data), bytes);
  ++changes_;
  changed_.SignalAll();
}

uint64_t ArenaPool::changes() const {
  MutexLock lock(&mutex_);
  return changes_;
}

void ArenaPool::Changed() {
  MutexLock lock(&mutex_);
  ++changes_;
  changed_.SignalAll();
}

bool ArenaPool::WaitForChange(uint64_t seen, absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (changes_ == seen) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return false;
  }
  return true;
}

int64_t ArenaPool::Active(const Arena* arena) const {
  int64_t active = 0;
  for (const auto& other : arenas_) active += other->chunks_ > 0 || other.get() == arena;
  return active;
}

bool ArenaPool::BelowShare(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return arena->chunks_ * Active(arena) < chunks_;
}

std::vector<Arena*> ArenaPool::Givers(const Arena* arena) const {
  std::vector<Arena*> givers;
  MutexLock lock(&mutex_);
  const int64_t active = Active(arena);
  for (const auto& other : arenas_) {
    const bool above_share = other->chunks_ * active > chunks_;
    if (other.get() != arena && above_share && (other->chunks_ >= arena->chunks_ + 2 || arena->chunks_ == 0)) {
      givers.push_back(other.get());
    }
  }
  // Of equals the one that was used longest ago.
  std::sort(givers.begin(), givers.end(), [](const Arena* a, const Arena* b) {
    return a->chunks_ != b->chunks_ ? a->chunks_ > b->chunks_ : a->turn_ < b->turn_;
  });
  return givers;
}

std::vector<int64_t> ArenaPool::Used(const Arena* arena) const {
  std::vector<int64_t> used;
  MutexLock lock(&mutex_);
  for (int chunk = 0; chunk < chunks_; ++chunk) {
    const bool there = arena->map_.present(chunk) && !arena->map_.withdrawn(chunk);
    used.push_back(there ? arena->map_.used(chunk) : -1);
  }
  return used;
}

bool ArenaPool::Withdraw(Arena* arena, int chunk, int64_t bytes) {
  MutexLock lock(&mutex_);
  if (!arena->map_.present(chunk) || arena->map_.withdrawn(chunk) || arena->map_.used(chunk) != bytes) return false;
  arena->map_.Withdraw(chunk);
  return true;
}

void ArenaPool::Move(Arena* from, int chunk, Arena* to, int64_t bytes) {
  MutexLock grow(&grow_mutex_);
  if (!Vacate(from, chunk)) return;
  int position = 0;
  {
    MutexLock lock(&mutex_);
    const auto window = to->map_.Window(bytes);
    if (window.has_value()) position = window->first;
    while (position < chunks_ && to->map_.present(position)) ++position;
    if (position == chunks_) return;
  }
  Populate(to, position);
}

std::pair<Arena*, int> ArenaPool::FindEmpty(const Arena* arena, std::pair<int, int> keep) const {
  Arena* best = nullptr;
  int found = 0;
  for (const auto& other : arenas_) {
    const bool own = other.get() == arena;
    // Of others first, and of those that have most.
    if (best != nullptr && (own || (best != arena && best->chunks_ >= other->chunks_))) continue;
    for (int chunk = chunks_ - 1; chunk >= 0; --chunk) {
      if (!other->map_.empty(chunk) || (own && chunk >= keep.first && chunk < keep.second)) continue;
      best = other.get();
      found = chunk;
      break;
    }
  }
  return {best, found};
}

bool ArenaPool::Grow(Arena* arena, int64_t bytes) {
  MutexLock grow(&grow_mutex_);
  int position = 0, empty = 0;
  Arena* from = nullptr;
  {
    MutexLock lock(&mutex_);
    std::pair<int, int> window = {0, chunks_};
    if (bytes > 0) {
      if (arena->map_.Fits(bytes)) return true;  // another caller's doing
      const auto narrowest = arena->map_.Window(bytes);
      if (!narrowest.has_value()) return false;
      window = *narrowest;
    }
    position = window.first;
    while (position < window.second && arena->map_.present(position)) ++position;
    if (position == window.second) return false;
    if (free_numbers_.empty()) {
      if (bytes > 0) std::tie(from, empty) = FindEmpty(arena, window);
      if (from == nullptr) return false;
      from->map_.Withdraw(empty);
    }
  }
  if (from != nullptr && !Vacate(from, empty)) return false;
  return Populate(arena, position);
}

TierChunk ArenaPool::ChunkOf(const Arena* arena, int chunk, int number) const {
  const int64_t offset = chunk * chunk_bytes_;
  return {number, arena->memory_.number, offset, arena->mapping_->At(offset), chunk_bytes_};
}

bool ArenaPool::Vacate(Arena* arena, int chunk) {
  int number;
  {
    MutexLock lock(&mutex_);
    number = arena->registered_[chunk];
  }
  // First what pins the pages: pinned ones do not go back to the system.
  if (options_.chunk_leaves) options_.chunk_leaves(ChunkOf(arena, chunk, number));
  const bool removed = arena->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).ok();
  if (!removed && options_.chunk_ready) options_.chunk_ready(ChunkOf(arena, chunk, number));
  MutexLock lock(&mutex_);
  arena->map_.Remove(chunk);
  if (!removed) {
    arena->map_.Add(chunk);
    return false;
  }
  arena->registered_[chunk] = -1;
  --arena->chunks_;
  free_numbers_.push_back(number);
  return true;
}

bool ArenaPool::MapPiece(Arena* arena, int chunk) {
  const int64_t piece_bytes = arena->mapping_->piece_bytes();
  const size_t piece = chunk * chunk_bytes_ / piece_bytes;
  if (arena->told_[piece]) return true;
  const int64_t offset = static_cast<int64_t>(piece) * piece_bytes;
  if (!arena->mapping_->MapPiece(offset).ok()) return false;
  arena->told_[piece] = true;
  return true;
}

bool ArenaPool::Populate(Arena* arena, int chunk) {
  int number;
  {
    MutexLock lock(&mutex_);
    number = free_numbers_.back();
    free_numbers_.pop_back();
    ++arena->chunks_;
  }
  const bool there = MapPiece(arena, chunk) && arena->mapping_->Populate(chunk * chunk_bytes_, chunk_bytes_).ok();
  if (there && options_.chunk_ready) options_.chunk_ready(ChunkOf(arena, chunk, number));
  // Part of a chunk is useless.
  if (!there) arena->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).IgnoreError();
  MutexLock lock(&mutex_);
  if (!there) {
    --arena->chunks_;
    free_numbers_.push_back(number);
    return false;
  }
  arena->registered_[chunk] = number;
  arena->map_.Add(chunk);
  return true;
}

Arena* ArenaPool::NextToPrefault() const {
  const int64_t ahead = kAhead / std::max<int64_t>(Active(nullptr), 1);
  for (const auto& arena : arenas_) {
    if (arena->wanted_ && arena->map_.present_bytes() - arena->map_.used() < ahead) return arena.get();
  }
  return nullptr;
}

void ArenaPool::Prefault() {
  bool failed = false;
  absl::Time trim = SteadyNow() + kTrimEvery;
  for (;;) {
    Arena* arena = nullptr;
    {
      MutexLock lock(&mutex_);
      for (;;) {
        if (stop_) return;
        arena = failed || free_numbers_.empty() ? nullptr : NextToPrefault();
        if (arena != nullptr || ((options_.shared || failed) && SteadyNow() >= trim)) break;
        wake_.WaitUntil(&mutex_, options_.shared || failed ? trim : absl::InfiniteFuture());
      }
    }
    failed = arena != nullptr && !Grow(arena, 0);
    if (SteadyNow() < trim) continue;
    if (options_.shared) Trim();
    trim = SteadyNow() + kTrimEvery;
  }
}

void ArenaPool::Trim() {
  MutexLock grow(&grow_mutex_);
  std::vector<Arena*> arenas;
  {
    MutexLock lock(&mutex_);
    for (const auto& arena : arenas_) arenas.push_back(arena.get());
  }
  for (Arena* arena : arenas) {
    int64_t present;
    std::vector<bool> absent(chunks_);
    {
      MutexLock lock(&mutex_);
      present = arena->map_.present_bytes();
      for (int chunk = 0; chunk < chunks_; ++chunk) absent[chunk] = !arena->map_.present(chunk);
    }
    if (arena->mapping_->resident() <= present) continue;
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      if (absent[chunk]) arena->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).IgnoreError();
    }
  }
}

}  // namespace kvlink::engine
