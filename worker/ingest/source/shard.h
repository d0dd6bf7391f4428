// One of several processes that ingest a corpus together, and which documents it handles: those whose XXH3-64 of the id
// (seed 0), modulo the number of shards, is the shard's number. Every document is in exactly one shard, whatever the
// order of the corpus and whichever process reads it.
// Thread-safety: a plain value and pure functions.
#ifndef KVLINK_WORKER_INGEST_SOURCE_SHARD_H_
#define KVLINK_WORKER_INGEST_SOURCE_SHARD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::ingest {

inline constexpr int64_t kMaxShards = 65536;

// XXH3-64, seed 0.
uint64_t IdHash(absl::string_view id);

struct Shard {
  int64_t index = 0;  // from 0
  int64_t count = 1;
  bool Has(absl::string_view id) const {
    return count == 1 || IdHash(id) % static_cast<uint64_t>(count) == static_cast<uint64_t>(index);
  }
};

// "2/8" is the third of eight. INVALID_ARGUMENT: any other form, and more than kMaxShards.
absl::StatusOr<Shard> ParseShard(absl::string_view text);
// The shard of one pod of an indexed Kubernetes job: `index` is its JOB_COMPLETION_INDEX, or nullptr if unset.
// INVALID_ARGUMENT: no index, or an index not below `count`.
absl::StatusOr<Shard> ShardOfJob(int64_t count, const char* index);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_SHARD_H_
