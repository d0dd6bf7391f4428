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

  // From now on no block of `segment` is handed out: neither those that are free nor those that come back. REQUIRES: no
  // run that Free is called with lies partly in it.
  void Seal(Run segment);
  // Forgets a sealed segment of which no block is taken any more.
  void Forget(Run segment);
  // How many of these blocks would be free if they came back.
  int64_t Returning(const Runs& runs) const;

  int64_t free_blocks() const { return free_blocks_; }
  // Blocks of sealed segments that nobody occupies.
  int64_t withheld_blocks() const { return withheld_blocks_; }
  int64_t withheld_blocks(Run segment) const;
  // Calls visit(run) for the free runs that begin in [first, end), in order.
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
  // The sealed segment that holds a block, or the end.
  std::map<uint32_t, Sealed>::iterator SealedAt(uint32_t block);

  void Insert(uint32_t first, uint32_t count);
  void Erase(std::map<uint32_t, uint32_t>::iterator it);

  std::map<uint32_t, uint32_t> by_first_;             // first block -> count; neighbours are merged
  std::set<std::pair<uint32_t, uint32_t>> by_count_;  // (count, first)
  int64_t free_blocks_ = 0;
  std::map<uint32_t, Sealed> sealed_;  // by first block
  int64_t withheld_blocks_ = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_ALLOCATOR_H_
