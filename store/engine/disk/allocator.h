// Tracks which blocks of the segments are free. Not stored: opening a store rebuilds it from the location records.
// Thread-safety: none; the owner locks.
#ifndef KVLINK_STORE_ENGINE_DISK_ALLOCATOR_H_
#define KVLINK_STORE_ENGINE_DISK_ALLOCATOR_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "store/engine/disk/location.h"

namespace kvlink::engine {

class BlockAllocator {
 public:
  // Adds blocks to the free ones, initially and when they are released. REQUIRES: they are not free.
  void Free(Run run);
  // Takes exactly these blocks. Returns false, taking nothing, if any of them is not free.
  bool Claim(Run run);
  // Returns the smallest free run that fits all blocks; otherwise the largest free runs, at most kMaxRuns. nullopt if
  // those do not suffice.
  std::optional<Runs> Allocate(int64_t blocks);

  // Stops handing out blocks of `segment`, both the free ones and those released later. REQUIRES: no run passed to Free
  // lies partly in it.
  void Seal(Run segment);
  // Forgets a sealed segment. REQUIRES: none of its blocks is taken.
  void Forget(Run segment);
  // The number of these blocks that would become free if they were released.
  int64_t Returning(const Runs& runs) const;

  int64_t free_blocks() const { return free_blocks_; }
  // Unoccupied blocks of sealed segments.
  int64_t withheld_blocks() const { return withheld_blocks_; }
  int64_t withheld_blocks(Run segment) const;
  // Calls visit(run) for each free run that begins in [first, end), in order.
  template <typename Visit>
  void ForEachFree(uint32_t first, uint64_t end, Visit visit) const {
    for (auto it = by_first_.lower_bound(first); it != by_first_.end() && it->first < end; ++it) {
      visit(Run{it->first, it->second});
    }
  }

 private:
  struct Sealed {
    uint64_t end = 0;
    int64_t withheld = 0;
  };
  // The sealed segment that contains `block`, or end().
  std::map<uint32_t, Sealed>::iterator SealedAt(uint32_t block);

  void Insert(uint32_t first, uint32_t count);
  void Erase(std::map<uint32_t, uint32_t>::iterator it);

  std::map<uint32_t, uint32_t> by_first_;             // first block -> count; adjacent runs are merged
  std::set<std::pair<uint32_t, uint32_t>> by_count_;  // (count, first)
  int64_t free_blocks_ = 0;
  std::map<uint32_t, Sealed> sealed_;  // by first block
  int64_t withheld_blocks_ = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_ALLOCATOR_H_
