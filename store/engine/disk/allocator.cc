// Keeps the free runs twice, by address and by length, so that neighbours merge and the best fit is found in O(log n).
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

std::map<uint32_t, BlockAllocator::Sealed>::iterator BlockAllocator::SealedAt(uint32_t block) {
  auto it = sealed_.upper_bound(block);
  if (it == sealed_.begin()) return sealed_.end();
  --it;
  return block < it->second.end ? it : sealed_.end();
}

void BlockAllocator::Seal(Run segment) {
  const uint64_t end = uint64_t{segment.first} + segment.count;
  const auto [it, added] = sealed_.try_emplace(segment.first, Sealed{end, 0});
  if (!added) return;
  auto run = by_first_.lower_bound(segment.first);
  while (run != by_first_.end() && run->first < end) {
    it->second.withheld += run->second;
    withheld_blocks_ += run->second;
    Erase(run++);
  }
}

void BlockAllocator::Forget(Run segment) {
  const auto it = sealed_.find(segment.first);
  if (it == sealed_.end()) return;
  withheld_blocks_ -= it->second.withheld;
  sealed_.erase(it);
}

int64_t BlockAllocator::Returning(const Runs& runs) const {
  int64_t blocks = 0;
  for (const Run& run : runs) {
    const auto next = sealed_.upper_bound(run.first);
    const bool sealed = next != sealed_.begin() && run.first < std::prev(next)->second.end;
    if (!sealed) blocks += run.count;
  }
  return blocks;
}

int64_t BlockAllocator::withheld_blocks(Run segment) const {
  const auto it = sealed_.find(segment.first);
  return it == sealed_.end() ? 0 : it->second.withheld;
}

void BlockAllocator::Free(Run run) {
  if (const auto sealed = SealedAt(run.first); sealed != sealed_.end()) {
    sealed->second.withheld += run.count;
    withheld_blocks_ += run.count;
    return;
  }
  auto next = by_first_.lower_bound(run.first);
  if (next != by_first_.end() && next->first == run.first + run.count) {
    run.count += next->second;
    auto gone = next++;
    Erase(gone);
  }
  if (next != by_first_.begin()) {
    auto prev = std::prev(next);
    if (prev->first + prev->second == run.first) {
      run.first = prev->first;
      run.count += prev->second;
      Erase(prev);
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
