// Chooses what to evict when enough blocks are free but too scattered: the cheapest stretches of adjacent blocks.
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_
#define KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_

#include <cstdint>
#include <vector>

#include "store/engine/disk/location.h"

namespace kvlink::engine {

// A run of blocks that is free or could be freed.
struct Piece {
  Run run;
  int64_t cost = 0;       // cost of evicting the owner; 0 for free blocks
  int32_t owner = kFree;  // the caller's number for the occupying encoding

  static constexpr int32_t kFree = -1;
};

// Returns the owners to evict, each once, so that `blocks` blocks fit into at most kMaxRuns runs, at the lowest cost
// found. Empty: no eviction achieves that, or none is needed. Sorts `pieces`, which must not overlap. Tries only
// windows of equal length, so the result is good rather than optimal.
std::vector<int32_t> CheapestWindows(std::vector<Piece>* pieces, int64_t blocks);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_
