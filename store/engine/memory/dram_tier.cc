// Memory is taken, evicted and moved in separate steps without a lock across them: a thread that finds none evicts and
// retries, and waits only if nothing may be evicted.
#include "store/engine/memory/dram_tier.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::engine {
namespace {

constexpr size_t kMaxSteps = 1024;  // of eviction, per locking
constexpr int64_t kMaxResidencies = int64_t{1} << 24;
// The cost of losing a byte. A byte that is neither pinned nor leased costs 1 to 4, depending on its uses.
constexpr int64_t kPinnedCost = 1000, kLeasedCost = 100000;

std::vector<Pages> AllocatePages(ArenaPool* pool, Arena* arena, const Manifest& manifest) {
  std::vector<Pages> pages;
  if (manifest.bytes() <= pool->piece_bytes()) {
    if (Pages whole = pool->Allocate(arena, manifest.bytes()); whole.data() != nullptr) {
      pages.push_back(std::move(whole));
      return pages;
    }
  }
  for (const LayerManifest& layer : manifest.layers) {
    if (layer.length == 0) continue;
    Pages slab = pool->Allocate(arena, layer.length);
    if (slab.data() == nullptr) return {};
    pages.push_back(std::move(slab));
  }
  return pages;
}

}  // namespace

ResidentLease& ResidentLease::operator=(ResidentLease&& other) noexcept {
  std::swap(tier_, other.tier_);
  std::swap(sequence_, other.sequence_);
  std::swap(residency_, other.residency_);
  std::swap(revocable_, other.revocable_);
  return *this;
}

ResidentLease::~ResidentLease() {
  if (residency_ != nullptr) tier_->Release(sequence_, std::move(residency_));
  if (revocable_ != 0) tier_->ReleaseRevocable(sequence_, revocable_);
}

void ResidentLease::MakeRevocable() {
  if (residency_ != nullptr) tier_->MakeRevocable(this);
}

absl::StatusOr<std::unique_ptr<DramTier>> DramTier::Create(DramTierOptions options) {
  int64_t most = options.max_residencies;
  if (most == 0) most = std::clamp<int64_t>(options.memory.limit / ArenaPool::kPageBytes, 1, kMaxResidencies);
  KVLINK_ASSIGN_OR_RETURN(auto generations, GenerationTable::Create(most, options.memory.shared));
  return std::unique_ptr<DramTier>(new DramTier(std::move(options), std::move(generations)));
}

DramTier::Space* DramTier::SpaceOf(absl::string_view ns) {
  MutexLock lock(&mutex_);
  const auto found = spaces_.find(ns);
  if (found != spaces_.end()) return &found->second;
  Space& space = spaces_[std::string(ns)];
  space.arena = pool_->Add(ns);
  space_of_[space.arena] = &space;
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
                                                              std::shared_ptr<const Manifest> manifest, Eviction evict,
                                                              absl::Time wait_until) {
  const int64_t bytes = manifest->bytes();
  KVLINK_RETURN_IF_ERROR(CheckFits(*manifest));
  Space* const space = SpaceOf(ns);
  for (;;) {
    // Read before looking for memory, so that memory freed after this ends the wait below.
    const uint64_t changes = pool_->changes();
    if (auto residency = TryTake(space->arena, manifest)) return residency;
    if (EvictFor(space, evict, bytes)) continue;
    if (evict == Eviction::kNothing || SteadyNow() >= wait_until || !MemoryReturns(*space) ||
        !pool_->WaitForChange(changes, wait_until)) {
      return NoRoom(*space, bytes);
    }
  }
}

absl::Status DramTier::CheckFits(const Manifest& manifest) const {
  if (manifest.bytes() <= pool_->chunks() * pool_->chunk_bytes()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("an encoding of ", manifest.bytes(),
                                                   " bytes does not fit in the DRAM tier of ", capacity(),
                                                   " bytes; give the store more DRAM"));
}

absl::Status DramTier::NoRoom(const Space& space, int64_t bytes) const {
  KVLINK_RETURN_IF_ERROR(pool_->refused(space.arena));
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for ", bytes, " bytes in the DRAM tier of ", capacity(), " bytes: what namespace '",
                   space.arena->ns(), "' has of it is in use, and the others have no more than their share"));
}

absl::StatusOr<std::shared_ptr<Residency>> DramTier::MakeEmpty(absl::string_view ns,
                                                               std::shared_ptr<const Manifest> manifest) {
  KVLINK_RETURN_IF_ERROR(CheckFits(*manifest));
  Space* const space = SpaceOf(ns);
  std::optional<GenerationSlot> generation = generations_->Take();
  if (!generation.has_value()) return NoRoom(*space, manifest->bytes());
  return Residency::WithoutPages(std::move(manifest), space->arena, *std::move(generation), next_number_++);
}

absl::Status DramTier::TakeLayer(Residency* residency, int64_t layer, Eviction evict) {
  const int64_t bytes = static_cast<int64_t>(residency->slab(layer).size());
  Space* space = nullptr;
  {
    MutexLock lock(&mutex_);
    space = space_of_.at(residency->arena());
  }
  do {
    if (Pages pages = pool_->Allocate(space->arena, bytes); pages.data() != nullptr) {
      residency->SetPages(layer, std::move(pages));
      return absl::OkStatus();
    }
  } while (EvictFor(space, evict, bytes));
  return NoRoom(*space, bytes);
}

bool DramTier::EvictFor(Space* space, Eviction evict, int64_t bytes) {
  if (evict == Eviction::kNothing) return false;
  const bool below_share = pool_->BelowShare(space->arena);
  if (below_share && MoveChunkTo(space, bytes, /*revoke=*/false)) return true;
  if (evict == Eviction::kBelowShare && !below_share) return false;
  if (EvictOne(space, /*also_read=*/false) != nullptr) return true;
  return MoveChunkTo(space, bytes, /*revoke=*/below_share);
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
  for (const bool also_pinned : {false, true}) {
    // Passes over only a few held encodings per locking, since other threads need the lock too.
    size_t left = 0;
    S3Fifo<uint64_t>::Pass pass;
    do {
      MutexLock lock(&mutex_);
      if (left == 0) left = 5 * space->order.size() + 1;
      size_t steps = kMaxSteps;
      const auto victim = space->order.Evict(
          [&](uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
            const Holding& holding = residents_.at(sequence);
            return holding.leases == 0 && (also_read || holding.residency.use_count() == 1) &&
                   (also_pinned || !holding.pinned);
          },
          &steps, &pass);
      if (victim.has_value()) {
        ++evictions_;
        return TakeOut(*victim);
      }
      if (steps > 0) break;  // all were passed over
      left -= std::min(left, kMaxSteps);
    } while (left > 0);
  }
  return nullptr;
}

std::optional<DramTier::Chunk> DramTier::CheapestChunk(const Space& space, bool revoke) const {
  const int64_t size = pool_->chunk_bytes();
  absl::flat_hash_map<std::pair<const MemoryPiece*, int64_t>, Chunk> chunks;  // of their contents
  const auto add = [&](const Residency& residency, int64_t worth, uint64_t name, std::vector<uint64_t> Chunk::*names) {
    for (const Pages& pages : residency.pages()) {
      int64_t first = pages.piece()->offset(pages.data());
      const int64_t end = first + pages.size();
      while (first < end) {
        const int64_t part = std::min(end - first, size - first % size);
        Chunk& chunk = chunks[{pages.piece(), first / size}];
        chunk.bytes += part;
        chunk.cost += part * worth;
        if ((chunk.*names).empty() || (chunk.*names).back() != name) (chunk.*names).push_back(name);
        first += part;
      }
    }
  };
  // Only what can be evicted at once: nothing firmly leased, and nothing that a disk read still holds.
  space.order.ForEach([&](uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Holding& holding = residents_.at(sequence);
    if (holding.leases > (revoke ? holding.revocable : 0) || holding.residency.use_count() > 1) return;
    const int64_t worth = holding.leases > 0 ? kLeasedCost
                          : holding.pinned   ? kPinnedCost
                                             : 1 + space.order.uses(sequence);
    add(*holding.residency, worth, sequence, &Chunk::residents);
  });
  if (revoke) {
    for (const auto& [number, leftover] : leftovers_) {
      if (leftover.space != &space || leftover.residency.use_count() > 1) continue;
      add(*leftover.residency, kLeasedCost, number, &Chunk::leftovers);
    }
  }
  std::optional<Chunk> best;
  for (const ChunkUse& use : pool_->Used(space.arena)) {
    Chunk& chunk = chunks[{use.piece.get(), use.chunk}];
    if (use.bytes != chunk.bytes) continue;  // something else is in it too
    if (best.has_value() && chunk.cost >= best->cost) continue;
    best = chunk;
    best->piece = use.piece;
    best->number = use.chunk;
  }
  return best;
}

bool DramTier::MoveChunkTo(Space* space, int64_t bytes, bool revoke) {
  const std::vector<Arena*> givers = pool_->Givers(space->arena);
  if (givers.empty() || !pool_->MakeSpace(space->arena, bytes)) return false;
  for (Arena* const giver : givers) {
    std::optional<Chunk> chunk;
    std::vector<std::shared_ptr<Residency>> leaving;
    {
      MutexLock lock(&mutex_);
      chunk = CheapestChunk(*space_of_.at(giver), revoke);
      if (!chunk.has_value() || !pool_->Withdraw(chunk->piece.get(), chunk->number, chunk->bytes)) continue;
      for (const uint64_t sequence : chunk->residents) {
        revoked_ += residents_.at(sequence).leases > 0;
        leaving.push_back(TakeOut(sequence));
      }
      for (const uint64_t left : chunk->leftovers) {
        const auto it = leftovers_.find(left);
        leaving.push_back(std::move(it->second.residency));
        leftovers_.erase(it);
        ++revoked_;
      }
      evictions_ += static_cast<int64_t>(leaving.size());
    }
    leaving.clear();  // changes their generations; then the chunk is empty
    pool_->Move(chunk->piece.get(), chunk->number, space->arena, bytes);
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
  if (it == residents_.end() || it->second.residency->failed()) return ResidentLease();
  it->second.space->order.Touch(sequence);
  return LeaseOf(sequence, &it->second);
}

ResidentLease DramTier::Add(uint64_t sequence, std::shared_ptr<Residency> residency, bool pinned, bool* added) {
  std::shared_ptr<Residency> failed;  // freed outside the lock
  MutexLock lock(&mutex_);
  if (const auto old = residents_.find(sequence); old != residents_.end() && old->second.residency->failed()) {
    failed = TakeOut(sequence);
  }
  auto [it, inserted] = residents_.try_emplace(sequence);
  *added = inserted;
  if (inserted) {
    it->second.space = space_of_.at(residency->arena());
    it->second.space->order.Insert(sequence, sequence, residency->bytes());
    it->second.residency = std::move(residency);
    it->second.pinned = pinned;
  }
  return LeaseOf(sequence, &it->second);
}

bool DramTier::Resident(uint64_t sequence) const {
  MutexLock lock(&mutex_);
  return residents_.contains(sequence);  // a failed residency leaves at once, through Residency::OnFailed
}

void DramTier::Touch(uint64_t sequence) {
  MutexLock lock(&mutex_);
  const auto it = residents_.find(sequence);
  if (it != residents_.end()) it->second.space->order.Touch(sequence);
}

void DramTier::Release(uint64_t sequence, std::shared_ptr<Residency> residency) {
  {
    MutexLock lock(&mutex_);
    --leases_;
    // It may have been forgotten meanwhile; the lease then holds the last reference, which is released after the lock.
    auto it = residents_.find(sequence);
    if (it == residents_.end() || it->second.residency != residency) return;
    residency.reset();  // at once: counts of leases and of holders must agree
    if (--it->second.leases > 0) return;
  }
  pool_->Changed();
}

void DramTier::Forget(uint64_t sequence, const Residency* only) {
  std::shared_ptr<Residency> dropped;  // freed outside the lock
  MutexLock lock(&mutex_);
  const auto it = residents_.find(sequence);
  if (it == residents_.end() || (only != nullptr && it->second.residency.get() != only)) return;
  Holding& holding = it->second;
  if (holding.revocable > 0) {
    leftovers_[holding.residency->number()] = {holding.residency, holding.space, holding.revocable};
  }
  dropped = TakeOut(sequence);
}

void DramTier::MakeRevocable(ResidentLease* lease) {
  {
    std::shared_ptr<Residency> dropped;  // released after the lock, although the tier holds it too
    MutexLock lock(&mutex_);
    const auto it = residents_.find(lease->sequence_);
    // A forgotten resident stays as long as its lease.
    if (it == residents_.end() || it->second.residency != lease->residency_) return;
    ++it->second.revocable;
    lease->revocable_ = lease->residency_->number();
    dropped = std::move(lease->residency_);
    lease->residency_ = nullptr;
  }
  pool_->Changed();  // a thread waiting for room may find it now
}

void DramTier::ReleaseRevocable(uint64_t sequence, uint64_t number) {
  std::shared_ptr<Residency> dropped;  // freed outside the lock
  {
    MutexLock lock(&mutex_);
    --leases_;
    const auto it = residents_.find(sequence);
    if (it != residents_.end() && it->second.residency->number() == number) {
      --it->second.revocable;
      if (--it->second.leases > 0) return;
    } else if (const auto left = leftovers_.find(number); left != leftovers_.end()) {
      if (--left->second.leases > 0) return;
      dropped = std::move(left->second.residency);
      leftovers_.erase(left);
    }
  }
  dropped = nullptr;
  pool_->Changed();
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

int64_t DramTier::revoked() const {
  MutexLock lock(&mutex_);
  return revoked_;
}

int64_t DramTier::evictions() const {
  MutexLock lock(&mutex_);
  return evictions_;
}

}  // namespace kvlink::engine
