// Chunks are added and removed under grow_mutex_, one at a time, because the system calls that provide pages are slow.
// Free memory is tracked under mutex_, which is never held during such a call.
#include "store/engine/memory/arena.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>
#include <tuple>

#include "absl/base/optimization.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"

namespace kvlink::engine {
namespace {

// Prefaulted memory kept ahead of use, over all arenas.
constexpr int64_t kAhead = int64_t{128} << 20;
constexpr absl::Duration kTrimEvery = absl::Seconds(1);

constexpr int64_t kFirstPieceBytes = int64_t{1} << 30;
constexpr int64_t kMaxChunkBytes = int64_t{32} << 20;
constexpr int64_t kMaxChunks = 16384;  // io_uring's limit of registered buffers
constexpr int kMaxPieces = 16384;      // out of the 65530 mappings the kernel allows a process

// A small budget gets smaller chunks, so that there is something to share.
int64_t ChunkBytes(const ArenaPoolOptions& options) {
  if (options.chunk_bytes > 0) return options.chunk_bytes;
  const auto limit = static_cast<uint64_t>(std::max<int64_t>(options.limit, 1));
  const int64_t part = static_cast<int64_t>(std::bit_floor(std::max<uint64_t>(limit / 16, 1)));
  const int64_t few = static_cast<int64_t>(std::bit_ceil((limit + kMaxChunks - 1) / kMaxChunks));
  return std::clamp(part, ArenaPool::kPageBytes, std::max(kMaxChunkBytes, few));
}

int FirstChunks(const ArenaPoolOptions& options, int64_t chunk_bytes, int chunks) {
  const int64_t bytes = options.first_piece_bytes > 0 ? options.first_piece_bytes : kFirstPieceBytes;
  return static_cast<int>(std::clamp<int64_t>((bytes + chunk_bytes - 1) / chunk_bytes, 1, std::max(chunks, 1)));
}

int MaxPieces(const ArenaPoolOptions& options) {
  if (options.max_pieces > 0) return options.max_pieces;
  if (!options.shared) return kMaxPieces;
  return static_cast<int>(std::clamp<int64_t>(DescriptorLimit() / 4, 1, kMaxPieces));
}

}  // namespace

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(piece_, other.piece_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Pages::~Pages() {
  if (data_ == nullptr) return;
  if (piece_ != nullptr) {
    piece_->arena_->pool_->Free(piece_, data_, bytes_);
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
      chunk_bytes_(ChunkBytes(options_)),
      chunks_(static_cast<int>(limit_ / chunk_bytes_)),
      first_chunks_(FirstChunks(options_, chunk_bytes_, chunks_)),
      piece_chunks_(std::max(first_chunks_, (chunks_ + 15) / 16)),
      max_pieces_(MaxPieces(options_)) {
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

Arena* ArenaPool::Add(absl::string_view ns) {
  MutexLock lock(&mutex_);
  arenas_.emplace_back(new Arena(this, ns));
  return arenas_.back().get();
}

int64_t ArenaPool::used() const {
  MutexLock lock(&mutex_);
  int64_t used = 0;
  for (const auto& arena : arenas_) used += UsedBytes(arena.get());
  return used;
}

int64_t ArenaPool::used(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return UsedBytes(arena);
}

int64_t ArenaPool::present() const {
  MutexLock lock(&mutex_);
  return (chunks_ - static_cast<int64_t>(free_numbers_.size())) * chunk_bytes_;
}

int64_t ArenaPool::present(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return PresentBytes(arena);
}

int64_t ArenaPool::PresentBytes(const Arena* arena) const {
  int64_t present = 0;
  for (const auto& piece : arena->pieces_) present += piece->map_.present_bytes();
  return present;
}

int64_t ArenaPool::UsedBytes(const Arena* arena) const {
  int64_t used = 0;
  for (const auto& piece : arena->pieces_) used += piece->map_.used();
  return used;
}

absl::Status ArenaPool::refused(const Arena* arena) const {
  MutexLock lock(&mutex_);
  return arena->refused_;
}

Pages ArenaPool::Allocate(Arena* arena, int64_t bytes) {
  if (bytes <= 0 || bytes % kPageBytes != 0 || bytes > chunks_ * chunk_bytes_) return Pages();
  for (;;) {
    {
      MutexLock lock(&mutex_);
      arena->turn_ = ++turn_;
      arena->wanted_ = true;
      arena->refused_ = absl::OkStatus();
      if (!free_numbers_.empty() && NextToPrefault() != nullptr) wake_.Signal();
      for (const auto& piece : arena->pieces_) {  // older ones first: the newest may be removed again
        const auto offset = piece->map_.Allocate(bytes);
        if (offset.has_value()) return Pages(piece.get(), piece->mapping_->base() + *offset, bytes);
      }
      const bool growing = arena->chunks_ * chunk_bytes_ > PresentBytes(arena);
      if (!growing && free_numbers_.empty() && FindEmpty(arena, {}).piece == nullptr) return Pages();
    }
    if (!Grow(arena, bytes)) return Pages();
  }
}

void ArenaPool::Free(MemoryPiece* piece, std::byte* data, int64_t bytes) {
  MutexLock lock(&mutex_);
  piece->map_.Free(piece->offset(data), bytes);
  if (piece->map_.used() == 0) piece->unused_since_ = SteadyNow();
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
  // Of equal arenas, the one used longest ago.
  std::sort(givers.begin(), givers.end(), [](const Arena* a, const Arena* b) {
    return a->chunks_ != b->chunks_ ? a->chunks_ > b->chunks_ : a->turn_ < b->turn_;
  });
  return givers;
}

std::vector<ChunkUse> ArenaPool::Used(const Arena* arena) const {
  std::vector<ChunkUse> used;
  MutexLock lock(&mutex_);
  for (const auto& piece : arena->pieces_) {
    for (int chunk = 0; chunk < piece->map_.chunks(); ++chunk) {
      if (piece->map_.present(chunk) && !piece->map_.withdrawn(chunk)) {
        used.push_back({piece, chunk, piece->map_.used(chunk)});
      }
    }
  }
  return used;
}

bool ArenaPool::Withdraw(MemoryPiece* piece, int chunk, int64_t bytes) {
  MutexLock lock(&mutex_);
  PageMap& map = piece->map_;
  if (!map.present(chunk) || map.withdrawn(chunk) || map.used(chunk) != bytes) return false;
  map.Withdraw(chunk);
  return true;
}

bool ArenaPool::MakeSpace(Arena* arena, int64_t bytes) {
  MutexLock grow(&grow_mutex_);
  return Reserve(arena, bytes);
}

bool ArenaPool::Reserve(Arena* arena, int64_t bytes) {
  bytes = std::min(bytes, piece_bytes());  // larger allocations are split
  {
    MutexLock lock(&mutex_);
    if (NarrowestWindow(arena, bytes).piece != nullptr) return true;
  }
  if (AddPiece(arena, bytes).ok()) return true;
  MutexLock lock(&mutex_);
  return NarrowestWindow(arena, 0).piece != nullptr;
}

void ArenaPool::Move(MemoryPiece* from, int chunk, Arena* to, int64_t bytes) {
  MutexLock grow(&grow_mutex_);
  if (!Vacate(from, chunk) || !Reserve(to, bytes)) return;
  Window window;
  {
    MutexLock lock(&mutex_);
    window = NarrowestWindow(to, std::min(bytes, piece_bytes()));
    if (window.piece == nullptr || FirstAbsent(window) == window.end) window = NarrowestWindow(to, 0);
    if (window.piece == nullptr) return;
    window.first = FirstAbsent(window);
  }
  Populate(window.piece.get(), window.first);
}

bool ArenaPool::Fits(const Arena* arena, int64_t bytes) const {
  for (const auto& piece : arena->pieces_) {
    if (piece->map_.Fits(bytes)) return true;
  }
  return false;
}

int ArenaPool::FirstAbsent(const Window& window) {
  int chunk = window.first;
  while (chunk < window.end && window.piece->map_.present(chunk)) ++chunk;
  return chunk;
}

ArenaPool::Window ArenaPool::NarrowestWindow(const Arena* arena, int64_t bytes) const {
  Window best;
  int fewest = 0;
  for (const auto& piece : arena->pieces_) {
    Window window = {piece, 0, piece->map_.chunks()};
    if (bytes == 0) {
      if (FirstAbsent(window) < window.end) return window;
      continue;
    }
    const auto chunks = piece->map_.Window(bytes);
    if (!chunks.has_value()) continue;
    std::tie(window.first, window.end) = *chunks;
    int absent = 0;
    for (int chunk = window.first; chunk < window.end; ++chunk) absent += !piece->map_.present(chunk);
    if (best.piece != nullptr && absent >= fewest) continue;
    best = std::move(window);
    fewest = absent;
  }
  return best;
}

ArenaPool::Window ArenaPool::FindEmpty(const Arena* arena, const Window& keep) const {
  const Arena* best = nullptr;
  Window found;
  for (const auto& other : arenas_) {
    const bool own = other.get() == arena;
    // Other arenas first, and of those the one with most chunks.
    if (best != nullptr && (own || (best != arena && best->chunks_ >= other->chunks_))) continue;
    for (auto piece = other->pieces_.rbegin(); piece != other->pieces_.rend(); ++piece) {
      int chunk = (*piece)->map_.chunks() - 1;
      const auto kept = [&] { return *piece == keep.piece && chunk >= keep.first && chunk < keep.end; };
      while (chunk >= 0 && (!(*piece)->map_.empty(chunk) || kept())) --chunk;
      if (chunk < 0) continue;
      best = other.get();
      found = {*piece, chunk, chunk + 1};
      break;
    }
  }
  return found;
}

bool ArenaPool::Grow(Arena* arena, int64_t bytes) {
  MutexLock grow(&grow_mutex_);
  Window window, from;
  const auto fits = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return bytes > 0 && Fits(arena, bytes); };
  const auto find = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    window = NarrowestWindow(arena, bytes);
    from = free_numbers_.empty() && bytes > 0 ? FindEmpty(arena, window) : Window{};
    return !free_numbers_.empty() || from.piece != nullptr;
  };
  {
    MutexLock lock(&mutex_);
    if (fits()) return true;  // thanks to another caller
    if (!find()) return false;
  }
  if (window.piece == nullptr && (bytes == 0 || !AddPiece(arena, bytes).ok())) return false;
  {
    // Everything again: meanwhile other threads may have freed and allocated memory, and AddPiece may have removed
    // pieces.
    MutexLock lock(&mutex_);
    if (fits()) return true;
    if (!find()) return false;
    if (window.piece == nullptr) return bytes > 0;  // another caller used it; the next attempt adds a piece
    window.first = FirstAbsent(window);
    if (from.piece != nullptr) from.piece->map_.Withdraw(from.first);
  }
  if (from.piece != nullptr && !Vacate(from.piece.get(), from.first)) return false;
  return Populate(window.piece.get(), window.first);
}

TierChunk ArenaPool::ChunkOf(const MemoryPiece* piece, int chunk, int number) const {
  const int64_t offset = chunk * chunk_bytes_;
  return {number, piece->memory_.number, offset, piece->mapping_->base() + offset, chunk_bytes_};
}

bool ArenaPool::Vacate(MemoryPiece* piece, int chunk) {
  int number;
  {
    MutexLock lock(&mutex_);
    number = piece->registered_[chunk];
    ABSL_ASSERT(number >= 0 && piece->map_.withdrawn(chunk) && piece->map_.used(chunk) == 0);
  }
  // First release what pins the pages: pinned pages are not returned to the system.
  if (options_.chunk_leaves) options_.chunk_leaves(ChunkOf(piece, chunk, number));
  const bool removed = piece->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).ok();
  if (!removed && options_.chunk_ready) options_.chunk_ready(ChunkOf(piece, chunk, number));
  MutexLock lock(&mutex_);
  piece->map_.Remove(chunk);
  if (!removed) {
    piece->map_.Add(chunk);
    return false;
  }
  piece->registered_[chunk] = -1;
  --piece->arena_->chunks_;
  free_numbers_.push_back(number);
  return true;
}

bool ArenaPool::Populate(MemoryPiece* piece, int chunk) {
  int number;
  {
    MutexLock lock(&mutex_);
    number = free_numbers_.back();
    free_numbers_.pop_back();
    ++piece->arena_->chunks_;
  }
  const bool there = piece->mapping_->Populate(chunk * chunk_bytes_, chunk_bytes_).ok();
  if (there && options_.chunk_ready) options_.chunk_ready(ChunkOf(piece, chunk, number));
  // A partly populated chunk is useless.
  if (!there) piece->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).IgnoreError();
  MutexLock lock(&mutex_);
  if (!there) {
    --piece->arena_->chunks_;
    free_numbers_.push_back(number);
    return false;
  }
  piece->registered_[chunk] = number;
  piece->map_.Add(chunk);
  return true;
}

Arena* ArenaPool::NextToPrefault() const {
  const int64_t ahead = kAhead / std::max<int64_t>(Active(nullptr), 1);
  for (const auto& arena : arenas_) {
    const bool room = arena->wanted_ && arena->chunks_ < arena->reserved_;
    if (room && PresentBytes(arena.get()) - UsedBytes(arena.get()) < ahead) return arena.get();
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
        const bool tidy = pieces_ > 0 || failed;
        if (arena != nullptr || (tidy && SteadyNow() >= trim)) break;
        wake_.WaitUntil(&mutex_, tidy ? trim : absl::InfiniteFuture());
      }
    }
    failed = arena != nullptr && !Grow(arena, 0);
    if (SteadyNow() < trim) continue;
    MutexLock grow(&grow_mutex_);
    RemoveUnused(SteadyNow() - options_.keep_unused);
    if (options_.shared) Trim();
    trim = SteadyNow() + kTrimEvery;
  }
}

void ArenaPool::Trim() {
  std::vector<std::shared_ptr<MemoryPiece>> pieces;
  {
    MutexLock lock(&mutex_);
    for (const auto& arena : arenas_) pieces.insert(pieces.end(), arena->pieces_.begin(), arena->pieces_.end());
  }
  for (const auto& piece : pieces) {
    int64_t present;
    std::vector<int> absent;
    {
      MutexLock lock(&mutex_);
      present = piece->map_.present_bytes();
      for (int chunk = 0; chunk < piece->map_.chunks(); ++chunk) {
        if (!piece->map_.present(chunk)) absent.push_back(chunk);
      }
    }
    if (piece->mapping_->resident() <= present) continue;
    for (const int chunk : absent) piece->mapping_->Remove(chunk * chunk_bytes_, chunk_bytes_).IgnoreError();
  }
}

}  // namespace kvlink::engine
