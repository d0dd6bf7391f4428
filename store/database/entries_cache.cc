// A full cache is emptied, which costs one more read of each entry and needs no order of use. The byte count may be too
// high (replaced and forgotten entries count until the cache is emptied), never too low.
#include "store/database/entries_cache.h"

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink::store::database {
namespace {

constexpr int64_t kMaxBytes = int64_t{64} << 20;

// Names contain no control characters.
std::string KeyOf(absl::string_view ns, absl::string_view id) { return absl::StrCat(ns, "\n", id); }

int64_t MemoryOf(absl::string_view key, const CatalogEntry& entry) {
  size_t bytes = 256 + key.size() + entry.title.size();
  for (const CatalogPart& part : entry.parts) bytes += sizeof(part) + 4 * part.tokens.size();
  return static_cast<int64_t>(bytes);
}

}  // namespace

std::optional<CatalogEntry> EntriesCache::Find(absl::string_view ns, absl::string_view id) {
  if (!enabled()) return std::nullopt;
  MutexLock lock(&mutex_);
  const auto it = kept_.find(KeyOf(ns, id));
  if (it == kept_.end() || it->second.read + staleness_ < SteadyNow()) return std::nullopt;
  return it->second.entry;
}

uint64_t EntriesCache::epoch() {
  MutexLock lock(&mutex_);
  return epoch_;
}

void EntriesCache::Keep(absl::string_view ns, absl::string_view id, const CatalogEntry& entry, absl::Time read,
                        uint64_t epoch) {
  if (!enabled()) return;
  std::string key = KeyOf(ns, id);
  MutexLock lock(&mutex_);
  if (epoch != epoch_) return;
  bytes_ += MemoryOf(key, entry);
  if (bytes_ > kMaxBytes) {
    Empty();
    return;
  }
  Kept& kept = kept_[std::move(key)];
  if (kept.read <= read) kept = {entry, read};  // a slow read may end after a later one
}

void EntriesCache::Forget(absl::string_view ns, absl::string_view id) {
  if (!enabled()) return;
  MutexLock lock(&mutex_);
  ++epoch_;
  kept_.erase(KeyOf(ns, id));
}

void EntriesCache::ForgetAll() {
  MutexLock lock(&mutex_);
  ++epoch_;
  Empty();
}

void EntriesCache::Empty() {
  kept_.clear();
  bytes_ = 0;
}

}  // namespace kvlink::store::database
