#include "store/engine/disk/allocator.h"

#include <algorithm>
#include <iterator>

namespace kvlink::engine {

void BlockAllocator::Insert(uint32_t first, uint32_t count) {
  by_first_.emplace(first, count);
  by_count_.emplace(count, first);
  free_blocks_ += count;
}

void BlockAllocator::Erase(std::map<uint32_t, uint32_t>::iterator it) {
  free_blocks_ -= it->second;
  by_count_.erase({it->second, it->first});
  by_first_.erase(it);
}

void BlockAllocator::Free(Run run) {
  auto next = by_first_.lower_bound(run.first);
  if (next != by_first_.end() && next->first == run.first + run.count) {
    run.count += next->second;
    auto gone = next++;
    Erase(gone);
  }
  if (next != by_first_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == run.first) {
      run.first = previous->first;
      run.count += previous->second;
      Erase(previous);
    }
  }
  Insert(run.first, run.count);
}

bool BlockAllocator::Claim(Run run) {
  auto it = by_first_.upper_bound(run.first);
  if (it == by_first_.begin()) return false;
  --it;
  const Run whole{it->first, it->second};
  if (run.first + run.count > whole.first + whole.count) return false;
  Erase(it);
  if (run.first > whole.first) Insert(whole.first, run.first - whole.first);
  const uint32_t end = run.first + run.count;
  if (whole.first + whole.count > end) Insert(end, whole.first + whole.count - end);
  return true;
}

std::optional<Runs> BlockAllocator::Allocate(int64_t blocks) {
  if (blocks <= 0 || blocks > free_blocks_) return std::nullopt;
  Runs runs;
  auto fit = by_count_.lower_bound({static_cast<uint32_t>(blocks), 0});
  if (fit != by_count_.end()) {
    runs.push_back({fit->second, static_cast<uint32_t>(blocks)});
  } else {
    int64_t left = blocks;
    for (auto it = by_count_.rbegin(); it != by_count_.rend() && left > 0 && runs.size() < kMaxRuns; ++it) {
      const uint32_t count = static_cast<uint32_t>(std::min<int64_t>(left, it->first));
      runs.push_back({it->second, count});
      left -= count;
    }
    if (left > 0) return std::nullopt;
  }
  for (const Run& run : runs) Claim(run);
  return runs;
}

}  // namespace kvlink::engine
