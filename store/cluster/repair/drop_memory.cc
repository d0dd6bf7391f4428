// Keeps a 16-byte hash of each dropped name with the end of its batch, in order of the log and by hash. Beyond the
// limit it forgets the oldest and raises `since_`, so that older peers become kUnknown rather than wrongly allowed.
#include "store/cluster/repair/drop_memory.h"

#include <cstring>

namespace kvlink::store::cluster {

DropMemory::Mark DropMemory::MarkOf(absl::string_view ns, const std::optional<Identity>& identity) {
  // Identities are hashes, so the zero identity is free to mean the whole namespace.
  const EncodingHash hash = HashEncoding(NamespaceSeed(ns), identity.value_or(Identity()), Codec::kRawBf16, Etag());
  Mark mark;
  std::memcpy(mark.data(), &hash.low, sizeof(hash.low));
  std::memcpy(mark.data() + sizeof(hash.low), &hash.high, sizeof(hash.high));
  return mark;
}

void DropMemory::Reset(const DropPosition& position) {
  MutexLock lock(&mutex_);
  order_.clear();
  latest_.clear();
  position_ = since_ = position;
  advanced_.SignalAll();
}

void DropMemory::Close() {
  MutexLock lock(&mutex_);
  position_.reset();
}

void DropMemory::Remember(absl::Span<const database::Drop> drops, const DropPosition& end) {
  MutexLock lock(&mutex_);
  for (const database::Drop& drop : drops) {
    const Mark mark = MarkOf(drop.ns, drop.identity);
    latest_[mark] = end;
    order_.emplace_back(end, mark);
  }
  while (static_cast<int64_t>(order_.size()) > remembered_) {
    const auto [position, mark] = order_.front();
    order_.pop_front();
    since_ = position;
    const auto latest = latest_.find(mark);
    if (latest != latest_.end() && latest->second == position) latest_.erase(latest);
  }
}

void DropMemory::Advance(const DropPosition& end) {
  MutexLock lock(&mutex_);
  if (position_.has_value()) position_ = end;
  advanced_.SignalAll();
}

bool DropMemory::KnowsLocked(const DropPosition& peer) const {
  return position_.has_value() && peer.log == position_->log && peer >= since_;
}

bool DropMemory::DroppedLocked(const Mark& mark, const DropPosition& peer) const {
  const auto latest = latest_.find(mark);
  return latest != latest_.end() && latest->second > peer;
}

DropMemory::Verdict DropMemory::Ask(absl::string_view ns, const Identity& identity, const DropPosition& peer) const {
  const Mark one = MarkOf(ns, identity), all = MarkOf(ns, std::nullopt);
  MutexLock lock(&mutex_);
  if (!KnowsLocked(peer)) return Verdict::kUnknown;
  if (DroppedLocked(one, peer) || DroppedLocked(all, peer)) return Verdict::kDropped;
  return peer > *position_ ? Verdict::kAhead : Verdict::kAllowed;
}

bool DropMemory::DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const {
  return Ask(ns, identity, since) != Verdict::kAllowed;
}

bool DropMemory::Knows(const DropPosition& peer) const {
  MutexLock lock(&mutex_);
  return KnowsLocked(peer);
}

bool DropMemory::WaitFor(const DropPosition& peer, absl::Time deadline) const {
  MutexLock lock(&mutex_);
  while (!position_.has_value() || peer > *position_) {
    if (!advanced_.WaitUntil(&mutex_, deadline) && (!position_.has_value() || peer > *position_)) return false;
  }
  return true;
}

}  // namespace kvlink::store::cluster
