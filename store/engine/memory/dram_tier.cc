#include "store/engine/memory/dram_tier.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kMaxResidencies = int64_t{1} << 24;
constexpr int64_t kPinnedCost = 1000;

std::vector<Pages> AllocatePages(ArenaPool* pool, Arena* arena, const Manifest& manifest) {
  std::vector<Pages> pages;
  if (Pages whole = pool->Allocate(arena, manifest.bytes()); whole.data() != nullptr) {
    pages.push_back(std::move(whole));
    return pages;
  }
  for (const LayerManifest& layer : manifest.layers) {
    if (layer.length == 0) continue;
    Pages piece = pool->Allocate(arena, layer.length);
    if (piece.data() == nullptr) return {};
    pages.push_back(std::move(piece));
  }
  return pages;
}

}  // namespace

ResidentLease& ResidentLease::operator=(ResidentLease&& other) noexcept {
  std::swap(tier_, other.tier_);
  std::swap(sequence_, other.sequence_);
  std::swap(residency_, other.residency_);
  return *this;
}

ResidentLease::~ResidentLease() {
  if (residency_ != nullptr) tier_->Release(sequence_, std::move(residency_));
}

absl::StatusOr<std::unique_ptr<DramTier>> DramTier::Create(DramTierOptions options) {
  int64_t most = options.max_residencies;
  if (most == 0) most = std::clamp<int64_t>(options.memory.limit / ArenaPool::kPageBytes, 1, kMaxResidencies);
  KVLINK_ASSIGN_OR_RETURN(auto generations, GenerationTable::Create(most, options.memory.shared));
  return std::unique_ptr<DramTier>(new DramTier(std::move(options), std::move(generations)));
}

absl::Status DramTier::AddNamespace(absl::string_view ns) { return SpaceOf(ns).status(); }

absl::StatusOr<DramTier::Space*> DramTier::SpaceOf(absl::string_view ns) {
  const auto find = [&]() -> Space* {
    MutexLock lock(&mutex_);
    const auto it = spaces_.find(std::string(ns));
    return it != spaces_.end() ? &it->second : nullptr;
  };
  if (Space* space = find()) return space;
  MutexLock adding(&add_mutex_);
  if (Space* space = find()) return space;
  KVLINK_ASSIGN_OR_RETURN(Arena* const arena, pool_->Add(ns));
  if (memory_added_) memory_added_(arena->memory());
  MutexLock lock(&mutex_);
  Space& space = spaces_[std::string(ns)];
  space.arena = arena;
  space_of_[arena] = &space;
  return &space;
}

std::shared_ptr<Residency> DramTier::TryTake(Arena* arena, const std::shared_ptr<const Manifest>& manifest) {
  std::vector<Pages> pages = AllocatePages(pool_.get(), arena, *manifest);
  if (pages.empty()) return nullptr;
  std::optional<GenerationSlot> generation = generations_->Take();
  if (!generation.has_value()) return nullptr;
  return std::make_shared<Residency>(manifest, std::move(pages), *std::move(generation), next_number_++);
}

absl::StatusOr<std::shared_ptr<Residency>> DramTier::MakeRoom(absl::string_view ns,
                                                              std::shared_ptr<const Manifest> manifest, bool may_evict,
                                                              absl::Time deadline) {
  const int64_t bytes = manifest->bytes();
  if (bytes > pool_->chunks() * pool_->chunk_bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat("an encoding of ", bytes,
                                                     " bytes does not fit in the DRAM tier of ", capacity(),
                                                     " bytes; give the store more DRAM"));
  }
  KVLINK_ASSIGN_OR_RETURN(Space* const space, SpaceOf(ns));
  for (;;) {
    if (auto residency = TryTake(space->arena, manifest)) return residency;
    if (may_evict) {
      if (pool_->BelowShare(space->arena) && MoveChunkTo(space, bytes)) continue;
      if (EvictOne(space, /*also_read=*/false) != nullptr) continue;
      if (MoveChunkTo(space, bytes)) continue;
    }
    if (!may_evict || !MemoryReturns(*space) || SteadyNow() >= deadline) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no room for ", bytes, " bytes in the DRAM tier of ", capacity(), " bytes: what namespace '", ns,
                       "' has of it is leased, and the others have no more than their share"));
    }
    absl::SleepFor(absl::Microseconds(200));
  }
}

bool DramTier::MemoryReturns(const Space& space) const {
  MutexLock lock(&mutex_);
  if (pool_->used(space.arena) > space.order.weight()) return true;
  return space.order.Any([this](uint64_t sequence)
                             ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return residents_.at(sequence).leases == 0; });
}

absl::StatusOr<std::shared_ptr<Residency>> DramTier::Outside(std::shared_ptr<const Manifest> manifest) {
  KVLINK_ASSIGN_OR_RETURN(Pages whole, Pages::Heap(manifest->bytes()));
  std::vector<Pages> pages;
  pages.push_back(std::move(whole));
  return std::make_shared<Residency>(std::move(manifest), std::move(pages));
}

std::shared_ptr<Residency> DramTier::TakeOut(uint64_t sequence) {
  auto it = residents_.find(sequence);
  std::shared_ptr<Residency> residency = std::move(it->second.residency);
  it->second.space->order.Erase(sequence);
  residents_.erase(it);
  return residency;
}

std::shared_ptr<Residency> DramTier::EvictOne(Space* space, bool also_read) {
  MutexLock lock(&mutex_);
  const auto idle = [also_read](const Holding& holding) {
    return holding.leases == 0 && (also_read || holding.residency.use_count() == 1);
  };
  std::optional<uint64_t> victim = space->order.Evict([&](uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Holding& holding = residents_.at(sequence);
    return idle(holding) && !holding.pinned;
  });
  if (!victim.has_value()) {
    victim = space->order.Evict([&](uint64_t sequence)
                                    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return idle(residents_.at(sequence)); });
  }
  if (!victim.has_value()) return nullptr;
  ++evictions_;
  return TakeOut(*victim);
}

std::optional<DramTier::Chunk> DramTier::CheapestChunk(const Space& space) const {
  const int64_t size = pool_->chunk_bytes();
  const std::byte* const base = space.arena->memory().base;
  std::vector<Chunk> chunks(pool_->chunks());
  std::vector<int64_t> cost(chunks.size(), 0);
  space.order.ForEach([&](uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Holding& holding = residents_.at(sequence);
    // Only what goes at once: not what is leased, nor what a read from the disk still holds.
    if (holding.leases > 0 || holding.residency.use_count() > 1) return;
    const int64_t worth = holding.pinned ? kPinnedCost : 1 + space.order.uses(sequence);
    for (const Pages& piece : holding.residency->pages()) {
      int64_t first = piece.data() - base;
      const int64_t end = first + piece.size();
      while (first < end) {
        const int64_t part = std::min(end - first, size - first % size);
        Chunk& chunk = chunks[first / size];
        chunk.bytes += part;
        cost[first / size] += part * worth;
        if (chunk.residents.empty() || chunk.residents.back() != sequence) chunk.residents.push_back(sequence);
        first += part;
      }
    }
  });
  const std::vector<int64_t> used = pool_->Used(space.arena);
  int best = -1;
  for (int chunk = 0; chunk < static_cast<int>(chunks.size()); ++chunk) {
    if (used[chunk] != chunks[chunk].bytes) continue;  // absent, or more is in it
    if (best < 0 || cost[chunk] < cost[best]) best = chunk;
  }
  if (best < 0) return std::nullopt;
  chunks[best].number = best;
  return std::move(chunks[best]);
}

bool DramTier::MoveChunkTo(Space* space, int64_t bytes) {
  for (Arena* const giver : pool_->Givers(space->arena)) {
    int number = 0;
    std::vector<std::shared_ptr<Residency>> leaving;
    {
      MutexLock lock(&mutex_);
      const std::optional<Chunk> chunk = CheapestChunk(*space_of_.at(giver));
      if (!chunk.has_value() || !pool_->Withdraw(giver, chunk->number, chunk->bytes)) continue;
      number = chunk->number;
      for (const uint64_t sequence : chunk->residents) leaving.push_back(TakeOut(sequence));
      evictions_ += static_cast<int64_t>(leaving.size());
    }
    leaving.clear();  // their generations change, and then the chunk is empty
    pool_->Move(giver, number, space->arena, bytes);
    return true;
  }
  return false;
}

ResidentLease DramTier::LeaseOf(uint64_t sequence, Holding* holding) {
  ResidentLease lease;
  lease.tier_ = this;
  lease.sequence_ = sequence;
  lease.residency_ = holding->residency;
  ++holding->leases;
  ++leases_;
  return lease;
}

ResidentLease DramTier::Acquire(uint64_t sequence) {
  MutexLock lock(&mutex_);
  auto it = residents_.find(sequence);
  if (it == residents_.end()) return ResidentLease();
  it->second.space->order.Touch(sequence);
  return LeaseOf(sequence, &it->second);
}

ResidentLease DramTier::Add(uint64_t sequence, std::shared_ptr<Residency> residency, bool pinned, bool* added) {
  MutexLock lock(&mutex_);
  auto [it, inserted] = residents_.try_emplace(sequence);
  *added = inserted;
  if (inserted) {
    it->second.space = space_of_.at(residency->pages().front().arena());
    it->second.space->order.Insert(sequence, sequence, residency->bytes());
    it->second.residency = std::move(residency);
    it->second.pinned = pinned;
  }
  return LeaseOf(sequence, &it->second);
}

bool DramTier::Resident(uint64_t sequence) const {
  MutexLock lock(&mutex_);
  return residents_.contains(sequence);
}

void DramTier::Touch(uint64_t sequence) {
  MutexLock lock(&mutex_);
  const auto it = residents_.find(sequence);
  if (it != residents_.end()) it->second.space->order.Touch(sequence);
}

void DramTier::Release(uint64_t sequence, std::shared_ptr<Residency> residency) {
  MutexLock lock(&mutex_);
  --leases_;
  // It may have been forgotten meanwhile; the lease then held the last of it, which goes behind the lock.
  auto it = residents_.find(sequence);
  if (it == residents_.end() || it->second.residency != residency) return;
  --it->second.leases;
  residency.reset();  // at once: who counts leases counts holders, too
}

void DramTier::Forget(uint64_t sequence) {
  std::shared_ptr<Residency> dropped;  // freed outside the lock
  MutexLock lock(&mutex_);
  if (residents_.contains(sequence)) dropped = TakeOut(sequence);
}

void DramTier::SetPinned(uint64_t sequence, bool pinned) {
  MutexLock lock(&mutex_);
  auto it = residents_.find(sequence);
  if (it != residents_.end()) it->second.pinned = pinned;
}

void DramTier::Drop() {
  std::vector<Space*> spaces;
  {
    MutexLock lock(&mutex_);
    for (auto& [ns, space] : spaces_) spaces.push_back(&space);
  }
  for (Space* space : spaces) {
    while (EvictOne(space, /*also_read=*/true) != nullptr) {
    }
  }
}

int64_t DramTier::leases() const {
  MutexLock lock(&mutex_);
  return leases_;
}

std::vector<DramTier::NamespaceMemory> DramTier::Namespaces() const {
  std::vector<NamespaceMemory> namespaces;
  MutexLock lock(&mutex_);
  for (const auto& [ns, space] : spaces_) {
    namespaces.push_back({ns, pool_->present(space.arena), pool_->used(space.arena), space.order.weight(),
                          static_cast<int64_t>(space.order.size())});
  }
  return namespaces;
}

std::map<std::string, int64_t> DramTier::used_by_namespace() const {
  std::map<std::string, int64_t> used;
  MutexLock lock(&mutex_);
  for (const auto& [ns, space] : spaces_) used[ns] = pool_->used(space.arena);
  return used;
}

int64_t DramTier::evictions() const {
  MutexLock lock(&mutex_);
  return evictions_;
}

}  // namespace kvlink::engine
