// Fills an empty table with what the index holds: millions of records, from several threads.
// Thread-safety: Add by one thread for each shard, the rest by one.
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

  // REQUIRES: no two have one name.
  void Add(int shard, const KeyView& key, const Location& location);

  struct Outcome {
    std::vector<EncodingKey> claimed_twice;  // all that claim a block another claims too; none of them is served
    std::vector<EncodingKey> astray;         // their blocks are not among the usable ones
    std::vector<EncodingKey> missing;        // they lie in segments that are not there
    std::set<uint32_t> missing_segments;     // these
    uint64_t last_sequence = 0;              // of all
  };
  // The order of eviction becomes that of the puts, and free what nobody claims of `usable` (ascending, a run
  // for each segment of `blocks_per_segment` blocks that is there). Once.
  Outcome Finish(absl::Span<const Run> usable, uint32_t blocks_per_segment);

 private:
  using Entry = Table::Entry;
  using Namespace = Table::Namespace;
  struct Shard {
    std::vector<std::unique_ptr<Entry[]>> pool;
    size_t used = 0;  // of the last of them
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
