// Which blocks of the segments are free. Never stored: opening rebuilds it from the location records.
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
  // Adds blocks to the free ones. REQUIRES: they are not free. Also how blocks come back.
  void Free(Run run);
  // Takes exactly these blocks. False, taking nothing, if one of them is not free.
  bool Claim(Run run);
  // The smallest free run that holds all; else the largest free runs, at most kMaxRuns. Empty if those do not suffice.
  std::optional<Runs> Allocate(int64_t blocks);

  int64_t free_blocks() const { return free_blocks_; }

 private:
  void Insert(uint32_t first, uint32_t count);
  void Erase(std::map<uint32_t, uint32_t>::iterator it);

  std::map<uint32_t, uint32_t> by_first_;             // first block -> count; neighbours are merged
  std::set<std::pair<uint32_t, uint32_t>> by_count_;  // (count, first)
  int64_t free_blocks_ = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_ALLOCATOR_H_
