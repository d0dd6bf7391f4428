// Fills an empty table from the index: millions of records, from several threads. Thread-safety: Add from one thread
// per shard; the rest from one thread.
#ifndef KVLINK_STORE_ENGINE_INDEX_TABLE_LOADER_H_
#define KVLINK_STORE_ENGINE_INDEX_TABLE_LOADER_H_

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "store/engine/disk/location.h"
#include "store/engine/index/table.h"

namespace kvlink::engine {

class TableLoader {
 public:
  TableLoader(Table* table, int shards);
  ~TableLoader();

  // REQUIRES: keys are unique.
  void Add(int shard, const KeyView& key, const Location& location);

  struct Outcome {
    std::vector<EncodingKey> claimed_twice;  // all claimants of a block that is claimed twice; none is served
    std::vector<EncodingKey> astray;         // their blocks are outside the usable ones
    std::vector<EncodingKey> missing;        // in segments that do not exist
    std::set<uint32_t> missing_segments;     // those segments
    uint64_t last_sequence = 0;              // the highest of all
  };
  // Call once, last. Sets the eviction order to the order of the puts, and frees the unclaimed blocks of `usable`
  // (ascending; one run for each existing segment of `blocks_per_segment` blocks).
  Outcome Finish(absl::Span<const Run> usable, uint32_t blocks_per_segment);

 private:
  using Entry = Table::Entry;
  using Namespace = Table::Namespace;
  struct Shard {
    std::vector<std::unique_ptr<Entry[]>> pool;
    size_t used = 0;  // entries used in the last pool
    Namespace* last = nullptr;
    absl::flat_hash_map<Namespace*, int64_t> counts;
  };
  struct Claim {
    Run run;
    uint32_t owner = 0;
  };
  enum class Verdict : uint8_t { kGood, kTwice, kAstray, kMissing };

  void Gather();
  std::vector<Claim> Claims() const;
  void Judge(const std::vector<Claim>& claims, absl::Span<const Run> usable, uint32_t blocks_per_segment,
             Outcome* outcome);
  std::vector<Run> Unclaimed(const std::vector<Claim>& claims, absl::Span<const Run> usable) const;

  Table* const table_;
  std::vector<Shard> shards_;
  std::vector<Entry*> entries_;
  std::vector<Verdict> verdicts_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_TABLE_LOADER_H_
