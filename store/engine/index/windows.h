// Chooses what to evict where free blocks would suffice but lie apart: the cheapest stretches of adjacent blocks.
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_
#define KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_

#include <cstdint>
#include <vector>

#include "store/engine/disk/location.h"

namespace kvlink::engine {

// A run of blocks that is free or could become free.
struct Piece {
  Run run;
  int64_t cost = 0;       // of evicting its owner; 0 for free blocks
  int32_t owner = kFree;  // the caller's number for the encoding that occupies it

  static constexpr int32_t kFree = -1;
};

// The owners to evict so that at most kMaxRuns runs hold `blocks` blocks, at the least cost found, each once. Empty: no
// eviction achieves that, or none is needed. Sorts `pieces`, which must not overlap. Windows are searched for with
// equal lengths, so the answer is good rather than optimal.
std::vector<int32_t> CheapestWindows(std::vector<Piece>* pieces, int64_t blocks);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_WINDOWS_H_
