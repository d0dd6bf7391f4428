#include "worker/infer/host_tier.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvlink::infer {

HostCopy::~HostCopy() { tier_->Give(pieces_); }

std::vector<absl::Span<std::byte>> HostCopy::Parts(int64_t layer) const {
  std::vector<absl::Span<std::byte>> parts;
  const int64_t end = (layer + 1) * stored_.slab_bytes();
  for (int64_t at = layer * stored_.slab_bytes(); at < end;) {
    const int64_t within = at % HostTier::kPieceBytes;
    const int64_t count = std::min(end - at, HostTier::kPieceBytes - within);
    parts.emplace_back(pieces_[static_cast<size_t>(at / HostTier::kPieceBytes)] + within, static_cast<size_t>(count));
    at += count;
  }
  return parts;
}

std::vector<absl::Span<const std::byte>> HostCopy::layer(int64_t layer) const {
  const std::vector<absl::Span<std::byte>> parts = Parts(layer);
  return {parts.begin(), parts.end()};
}

void HostCopy::Fill(int64_t layer, absl::Span<const std::byte> slab) {
  for (const absl::Span<std::byte> part : Parts(layer)) {
    std::memcpy(part.data(), slab.data(), part.size());
    slab.remove_prefix(part.size());
  }
}

std::shared_ptr<HostCopy> HostTier::Make(const SlabShape& stored, int64_t layers) {
  const int64_t wanted = (layers * stored.slab_bytes() + kPieceBytes - 1) / kPieceBytes;
  while (true) {
    std::shared_ptr<const HostCopy> evicted;  // declared first: its destructor takes the mutex, so it must run after
                                              // the unlock
    MutexLock lock(&mutex_);
    while (static_cast<int64_t>(free_.size()) < wanted && Grow()) {
    }
    if (static_cast<int64_t>(free_.size()) >= wanted) {
      std::vector<std::byte*> pieces(free_.end() - wanted, free_.end());
      free_.resize(free_.size() - static_cast<size_t>(wanted));
      return std::shared_ptr<HostCopy>(new HostCopy(this, stored, layers, std::move(pieces)));
    }
    if (!Attainable(wanted)) return nullptr;
    evicted = Evict();
  }
}

void HostTier::Keep(const Identity& identity, std::shared_ptr<const HostCopy> copy) {
  MutexLock lock(&mutex_);
  if (index_.contains(identity)) return;
  lru_.push_back({identity, std::move(copy)});
  index_[identity] = std::prev(lru_.end());
}

std::shared_ptr<const HostCopy> HostTier::Find(const Identity& identity) {
  MutexLock lock(&mutex_);
  const auto found = index_.find(identity);
  if (found == index_.end()) return nullptr;
  lru_.splice(lru_.end(), lru_, found->second);
  return found->second->copy;
}

HostTier::Stats HostTier::stats() const {
  MutexLock lock(&mutex_);
  return {static_cast<int64_t>(lru_.size()), (pieces_ - static_cast<int64_t>(free_.size())) * kPieceBytes, evictions_};
}

void HostTier::Give(absl::Span<std::byte* const> pieces) {
  MutexLock lock(&mutex_);
  free_.insert(free_.end(), pieces.begin(), pieces.end());
}

bool HostTier::Grow() {
  const int64_t pieces = std::min(kBlockPieces, max_pieces_ - pieces_);
  if (pieces <= 0) return false;
  auto block = backend_->AllocatePinned(pieces * kPieceBytes);
  if (!block.ok()) return false;
  // free_ is used from its end: this hands pieces out in the order of their addresses.
  for (int64_t piece = pieces; piece-- > 0;) {
    free_.push_back(static_cast<std::byte*>(block->data()) + piece * kPieceBytes);
  }
  pieces_ += pieces;
  blocks_.push_back(*std::move(block));
  return true;
}

bool HostTier::Attainable(int64_t pieces) const {
  int64_t attainable = static_cast<int64_t>(free_.size());
  for (const Entry& entry : lru_) {
    if (entry.copy.use_count() == 1) attainable += static_cast<int64_t>(entry.copy->pieces_.size());
  }
  return pieces <= attainable;
}

std::shared_ptr<const HostCopy> HostTier::Evict() {
  const auto idle = std::find_if(lru_.begin(), lru_.end(), [](const Entry& e) { return e.copy.use_count() == 1; });
  if (idle == lru_.end()) return nullptr;
  std::shared_ptr<const HostCopy> copy = std::move(idle->copy);
  ++evictions_;
  index_.erase(idle->identity);
  lru_.erase(idle);
  return copy;
}

}  // namespace kvlink::infer
