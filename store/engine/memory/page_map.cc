#include "store/engine/memory/page_map.h"

#include <algorithm>
#include <iterator>

namespace kvlink::engine {

template <typename Use>
void PageMap::EachChunk(int64_t first, int64_t bytes, Use use) const {
  while (bytes > 0) {
    const int64_t part = std::min(bytes, chunk_bytes_ - first % chunk_bytes_);
    use(static_cast<int>(first / chunk_bytes_), first, part);
    first += part;
    bytes -= part;
  }
}

void PageMap::Insert(int64_t first, int64_t bytes) {
  free_.emplace(first, bytes);
  by_size_.emplace(bytes, first);
}

void PageMap::Erase(std::map<int64_t, int64_t>::iterator range) {
  by_size_.erase({range->second, range->first});
  free_.erase(range);
}

std::optional<int64_t> PageMap::Allocate(int64_t bytes) {
  const auto fit = by_size_.lower_bound({bytes, 0});
  if (fit == by_size_.end()) return std::nullopt;
  const auto [size, offset] = *fit;
  Erase(free_.find(offset));
  if (size > bytes) Insert(offset + bytes, size - bytes);
  EachChunk(offset, bytes, [this](int chunk, int64_t, int64_t part) { chunks_[chunk].used += part; });
  used_ += bytes;
  return offset;
}

void PageMap::Free(int64_t offset, int64_t bytes) {
  used_ -= bytes;
  EachChunk(offset, bytes, [this](int chunk, int64_t first, int64_t part) {
    chunks_[chunk].used -= part;
    if (!chunks_[chunk].withdrawn) Release(first, part);
  });
}

void PageMap::Release(int64_t first, int64_t bytes) {
  auto next = free_.lower_bound(first);
  if (next != free_.end() && next->first == first + bytes) {
    bytes += next->second;
    const auto merged = next++;
    Erase(merged);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == first) {
      first = previous->first;
      bytes += previous->second;
      Erase(previous);
    }
  }
  Insert(first, bytes);
}

void PageMap::Add(int chunk) {
  chunks_[chunk] = {.present = true};
  ++present_;
  Release(chunk * chunk_bytes_, chunk_bytes_);
}

void PageMap::Withdraw(int chunk) {
  chunks_[chunk].withdrawn = true;
  const int64_t begin = chunk * chunk_bytes_, end = begin + chunk_bytes_;
  auto range = free_.upper_bound(begin);
  if (range != free_.begin()) --range;
  while (range != free_.end() && range->first < end) {
    const auto [first, bytes] = *range;
    const auto cut = range++;
    if (first + bytes <= begin) continue;
    Erase(cut);
    if (first < begin) Insert(first, begin - first);
    if (first + bytes > end) Insert(end, first + bytes - end);
  }
}

void PageMap::Remove(int chunk) {
  chunks_[chunk] = {};
  --present_;
}

std::optional<std::pair<int, int>> PageMap::Window(int64_t bytes) const {
  // Free ranges and absent chunks, merged, in order.
  std::vector<std::pair<int64_t, int64_t>> spans;
  const auto append = [&](int64_t first, int64_t length) {
    if (!spans.empty() && spans.back().second == first) {
      spans.back().second += length;
    } else {
      spans.emplace_back(first, first + length);
    }
  };
  auto range = free_.begin();
  std::vector<int> absent_before(chunks_.size() + 1, 0);
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    absent_before[chunk + 1] = absent_before[chunk] + !chunks_[chunk].present;
    if (chunks_[chunk].present) continue;
    const int64_t start = static_cast<int64_t>(chunk) * chunk_bytes_;
    for (; range != free_.end() && range->first < start; ++range) append(range->first, range->second);
    append(start, chunk_bytes_);
  }
  for (; range != free_.end(); ++range) append(range->first, range->second);

  std::optional<std::pair<int, int>> best;
  int fewest = static_cast<int>(chunks_.size()) + 1;
  for (const auto& [begin, end] : spans) {
    for (int64_t start = begin; start + bytes <= end; start += chunk_bytes_ - start % chunk_bytes_) {
      const int first = static_cast<int>(start / chunk_bytes_);
      const int last = static_cast<int>((start + bytes + chunk_bytes_ - 1) / chunk_bytes_);
      const int missing = absent_before[last] - absent_before[first];
      if (missing < fewest) {
        fewest = missing;
        best = {first, last};
      }
    }
  }
  return best;
}

}  // namespace kvlink::engine
