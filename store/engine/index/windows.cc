// For selected numbers of runs (all small ones, and fewer of the larger), a two-pointer pass over the pieces in address
// order prices every window of the length required; the cheapest non-overlapping ones are taken. That costs a sort and
// a dozen passes, whatever the size of the store.
#include "store/engine/index/windows.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace kvlink::engine {
namespace {

struct Window {
  int64_t cost = 0;
  size_t first = 0, last = 0;  // indices of pieces, both inclusive
};

// Returns the windows of at least `length` blocks that begin or end at a piece and contain no unneeded piece.
std::vector<Window> WindowsOf(const std::vector<Piece>& pieces, int64_t length) {
  std::vector<Window> windows;
  size_t first = 0;
  int64_t blocks = 0, cost = 0;
  for (size_t last = 0; last < pieces.size(); ++last) {
    const bool follows =
        last > 0 && uint64_t{pieces[last - 1].run.first} + pieces[last - 1].run.count == pieces[last].run.first;
    if (!follows) {
      first = last;
      blocks = cost = 0;
    }
    blocks += pieces[last].run.count;
    cost += pieces[last].cost;
    while (blocks - pieces[first].run.count >= length) {
      blocks -= pieces[first].run.count;
      cost -= pieces[first++].cost;
    }
    if (blocks >= length) windows.push_back({cost, first, last});
  }
  return windows;
}

// Returns the cheapest `count` windows that share no piece; nullopt if there are not that many.
std::optional<std::vector<Window>> Cheapest(std::vector<Window> windows, int count) {
  // A heap, since few of many are examined.
  const auto dearer = [](const Window& a, const Window& b) {
    return std::pair(a.cost, a.first) > std::pair(b.cost, b.first);
  };
  std::make_heap(windows.begin(), windows.end(), dearer);
  std::vector<Window> chosen;
  while (!windows.empty()) {
    std::pop_heap(windows.begin(), windows.end(), dearer);
    const Window window = windows.back();
    windows.pop_back();
    const bool overlaps = std::any_of(chosen.begin(), chosen.end(), [&](const Window& other) {
      return window.first <= other.last && other.first <= window.last;
    });
    if (overlaps) continue;
    chosen.push_back(window);
    if (static_cast<int>(chosen.size()) == count) return chosen;
  }
  return std::nullopt;
}

// Returns the longest stretches of adjacent pieces that together suffice: the fallback if no equal windows do.
std::optional<std::vector<Window>> Longest(const std::vector<Piece>& pieces, int64_t blocks) {
  std::vector<std::pair<int64_t, Window>> stretches;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i == 0 || uint64_t{pieces[i - 1].run.first} + pieces[i - 1].run.count != pieces[i].run.first) {
      stretches.push_back({0, {0, i, i}});
    }
    stretches.back().first += pieces[i].run.count;
    stretches.back().second.last = i;
  }
  std::stable_sort(stretches.begin(), stretches.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Window> chosen;
  for (const auto& [length, stretch] : stretches) {
    if (blocks <= 0 || static_cast<int>(chosen.size()) == kMaxRuns) break;
    chosen.push_back(stretch);
    blocks -= length;
  }
  if (blocks > 0) return std::nullopt;
  return chosen;
}

// Returns the cheapest encoding whose own runs (at most kMaxRuns) suffice; nullopt if there is none.
std::optional<std::pair<int64_t, int32_t>> CheapestAlone(const std::vector<Piece>& pieces, int64_t blocks) {
  std::map<int32_t, int64_t> sizes;
  for (const Piece& piece : pieces) {
    if (piece.owner != Piece::kFree) sizes[piece.owner] += piece.run.count;
  }
  std::optional<std::pair<int64_t, int32_t>> cheapest;
  for (const Piece& piece : pieces) {
    if (piece.owner == Piece::kFree || sizes[piece.owner] < blocks) continue;
    const std::pair<int64_t, int32_t> candidate(piece.cost, piece.owner);
    if (!cheapest.has_value() || candidate < *cheapest) cheapest = candidate;
  }
  return cheapest;
}

}  // namespace

std::vector<int32_t> CheapestWindows(std::vector<Piece>* pieces, int64_t blocks) {
  std::sort(pieces->begin(), pieces->end(), [](const Piece& a, const Piece& b) { return a.run.first < b.run.first; });
  std::set<int32_t> best;
  std::optional<int64_t> best_cost;
  const auto consider = [&](const std::optional<std::vector<Window>>& windows) {
    if (!windows.has_value()) return;
    // An owner in several windows is evicted, and paid for, once.
    std::set<int32_t> owners;
    int64_t cost = 0;
    for (const Window& window : *windows) {
      for (size_t i = window.first; i <= window.last; ++i) {
        const Piece& piece = (*pieces)[i];
        if (piece.owner != Piece::kFree && owners.insert(piece.owner).second) cost += piece.cost;
      }
    }
    if (best_cost.has_value() && cost >= *best_cost) return;
    best_cost = cost;
    best = std::move(owners);
  };
  static_assert(kMaxRuns == 64);
  for (const int runs : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}) {
    if (runs > blocks) break;
    consider(Cheapest(WindowsOf(*pieces, (blocks + runs - 1) / runs), runs));
  }
  const auto alone = CheapestAlone(*pieces, blocks);
  if (alone.has_value() && (!best_cost.has_value() || alone->first < *best_cost)) return {alone->second};
  if (!best_cost.has_value()) consider(Longest(*pieces, blocks));
  return {best.begin(), best.end()};
}

}  // namespace kvlink::engine
