// Caches entries read recently, for callers that accept entries of that age (DatabaseOptions::staleness).
//
// Thread-safety: all methods. Bounded: a full cache is emptied.
#ifndef KVLINK_STORE_DATABASE_ENTRIES_CACHE_H_
#define KVLINK_STORE_DATABASE_ENTRIES_CACHE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/catalog.h"

namespace kvlink::store::database {

class EntriesCache {
 public:
  explicit EntriesCache(absl::Duration staleness) : staleness_(staleness) {}
  bool enabled() const { return staleness_ > absl::ZeroDuration(); }

  // nullopt: the entry is not cached, or was read longer ago than the staleness.
  std::optional<CatalogEntry> Find(absl::string_view ns, absl::string_view id);
  // Take it before a read begins: Keep() stores what the read found only if nothing was forgotten since.
  uint64_t epoch();
  void Keep(absl::string_view ns, absl::string_view id, const CatalogEntry& entry, absl::Time read, uint64_t epoch);
  void Forget(absl::string_view ns, absl::string_view id);
  void ForgetAll();

 private:
  struct Kept {
    CatalogEntry entry;
    absl::Time read = absl::InfinitePast();
  };
  void Empty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration staleness_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Kept> kept_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_ENTRIES_CACHE_H_
