// Chooses the encodings to evict: by each namespace's eviction order and share of the total or, if free blocks are
// scattered, by the cheapest stretches of adjacent blocks (windows.h).
#include <algorithm>
#include <utility>

#include "store/engine/index/table.h"
#include "store/engine/index/table_entry.h"
#include "store/engine/index/windows.h"

namespace kvlink::engine {
namespace {

// Occupied runs considered per allocation: enough to choose from, few enough not to delay readers.
constexpr size_t kMaxPieces = size_t{1} << 16;
constexpr int kMaxSlices = 4;
// adjacent_ is refilled when this much of it has changed.
constexpr int64_t kStalePart = 8, kStaleChanges = 64;

}  // namespace

// How the blocks are divided into shares.
struct Table::Shares {
  double shrink = 1;  // scales all shares so that together they fit
  int64_t pool = 1;   // joint share of the namespaces without a limit
  int64_t pool_blocks = 0;

  // Usage relative to the share; 1 is exactly the share. Namespaces without a limit count jointly.
  double Use(const Namespace& ns, int64_t more = 0) const {
    const bool in_pool = ns.limit_blocks() == INT64_MAX;
    const double share = static_cast<double>(std::max<int64_t>(1, in_pool ? pool : ns.limit_blocks())) * shrink;
    return static_cast<double>((in_pool ? pool_blocks : ns.blocks) + more) / share;
  }
};

bool Table::Evictable(const Entry& entry, bool for_space) const {
  return entry.uses == 0 && entry.pins == 0 && (!for_space || allocator_.Returning(entry.location.runs) > 0);
}

void Table::Leave(Entry* entry, bool for_space, int64_t* blocks, std::vector<EncodingKey>* victims) {
  entry->leaving = true;
  *blocks -= for_space ? allocator_.Returning(entry->location.runs) : entry->location.blocks();
  victims->push_back(entry->key());
}

bool Table::EvictOne(Namespace* ns, bool for_space, int64_t* blocks, std::vector<EncodingKey>* victims) {
  const std::optional<Entry*> victim = ns->order.Evict([&](const Entry* entry) {
    mutex_.AssertHeld();
    return Evictable(*entry, for_space);
  });
  if (!victim.has_value()) return false;
  Leave(*victim, for_space, blocks, victims);
  return true;
}

void Table::EvictMoved(Namespace* ns, int64_t* blocks, std::vector<EncodingKey>* victims) {
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (!moved_.test(slot)) continue;
    for (Entry* entry = slots_[slot].first; entry != nullptr; entry = entry->next_in_slot) {
      if (*blocks <= 0) return;
      if (entry->ns != ns || !entry->in_order || entry->place.uses > 0 || !Evictable(*entry, /*for_space=*/false)) {
        continue;
      }
      ns->order.Erase(entry);
      Leave(entry, /*for_space=*/false, blocks, victims);
    }
  }
  ns->moved = false;
}

std::vector<EncodingKey> Table::PickOf(absl::string_view ns, int64_t blocks) {
  std::vector<EncodingKey> victims;
  MutexLock lock(&mutex_);
  Namespace& of = NamespaceOf(ns);
  if (of.moved) EvictMoved(&of, &blocks, &victims);
  while (blocks > 0 && EvictOne(&of, /*for_space=*/false, &blocks, &victims)) {
  }
  return victims;
}

Table::Shares Table::SharesOf(int64_t limit) const {
  Shares shares;
  int64_t limits = 0;
  for (const auto& [name, ns] : namespaces_) {
    if (ns.limit_blocks() == INT64_MAX) {
      shares.pool_blocks += ns.blocks;
    } else {
      limits += std::min(ns.limit_blocks(), limit);
    }
  }
  shares.pool = std::max(limit - limits, limit / 10);
  const int64_t together = limits + (shares.pool_blocks > 0 ? shares.pool : 0);
  if (together > limit) shares.shrink = static_cast<double>(limit) / static_cast<double>(together);
  return shares;
}

template <typename Allowed>
void Table::EvictMost(int64_t limit, Allowed allowed, int64_t* blocks, std::vector<EncodingKey>* victims) {
  Shares shares = SharesOf(limit);
  std::vector<Namespace*> left;
  for (auto& [name, ns] : namespaces_) {
    if (!ns.entries.empty()) left.push_back(&ns);
  }
  // Counts victims as gone, so that the next one is picked where most is left.
  absl::flat_hash_map<const Namespace*, int64_t> gone;
  int64_t gone_of_pool = 0;
  while (*blocks > 0) {
    const auto use = [&](const Namespace* ns) {
      return shares.Use(*ns, -(ns->limit_blocks() == INT64_MAX ? gone_of_pool : gone[ns]));
    };
    auto most = left.end();
    for (auto it = left.begin(); it != left.end(); ++it) {
      if (!allowed(**it, use(*it))) continue;
      if (most == left.end() ||
          std::pair(use(*it), (*it)->blocks - gone[*it]) > std::pair(use(*most), (*most)->blocks - gone[*most])) {
        most = it;
      }
    }
    if (most == left.end()) return;
    const int64_t before = *blocks;
    if (!EvictOne(*most, /*for_space=*/true, blocks, victims)) {
      left.erase(most);
      continue;
    }
    gone[*most] += before - *blocks;
    if ((*most)->limit_blocks() == INT64_MAX) gone_of_pool += before - *blocks;
  }
}

std::vector<EncodingKey> Table::PickOverall(int64_t blocks, int64_t limit) {
  std::vector<EncodingKey> victims;
  MutexLock lock(&mutex_);
  EvictMost(
      limit, [](const Namespace&, double) { return true; }, &blocks, &victims);
  return victims;
}

std::vector<EncodingKey> Table::PickByAge(Namespace* of, int64_t blocks, int64_t limit) {
  std::vector<EncodingKey> victims;
  const bool within = SharesOf(limit).Use(*of, blocks) <= 1;
  EvictMost(
      limit, [](const Namespace&, double use) { return use > 1; }, &blocks, &victims);
  EvictMost(
      limit,
      [of](const Namespace& other, double) {
        return &other == of || (of->limit_blocks() == INT64_MAX && other.limit_blocks() == INT64_MAX);
      },
      &blocks, &victims);
  if (within)
    EvictMost(
        limit, [](const Namespace&, double) { return true; }, &blocks, &victims);
  return victims;
}

std::vector<EncodingKey> Table::PickFor(absl::string_view ns, int64_t blocks, int64_t limit) {
  {
    MutexLock lock(&mutex_);
    int64_t occupied = 0;
    for (const auto& [name, space] : namespaces_) occupied += space.blocks;
    // Half of what kMaxRuns holes of average size hold, since not every hole is of average size.
    const int64_t by_age = size_ > 0 ? occupied / size_ * kMaxRuns / 2 : blocks;
    const int64_t free = allocator_.free_blocks();
    if (free < blocks && blocks <= by_age) return PickByAge(&NamespaceOf(ns), blocks - free, limit);
  }
  return PickAdjacent(ns, blocks, limit);
}

absl::flat_hash_map<const Table::Namespace*, int64_t> Table::MayGive(const Namespace& of, int64_t blocks,
                                                                     int64_t limit) const {
  const Shares shares = SharesOf(limit);
  const bool within = shares.Use(of, blocks) <= 1;
  absl::flat_hash_map<const Namespace*, int64_t> may;
  for (const auto& [name, ns] : namespaces_) {
    const bool same_pool = of.limit_blocks() == INT64_MAX && ns.limit_blocks() == INT64_MAX;
    const double use = shares.Use(ns);
    if (&ns == &of || same_pool || within) {
      may[&ns] = INT64_MAX;
    } else if (use > 1) {
      may[&ns] = static_cast<int64_t>(static_cast<double>(ns.blocks) * (1 - 1 / use)) + 1;
    }
  }
  return may;
}

void Table::RefreshAdjacent() {
  {
    MutexLock lock(&mutex_);
    if (!adjacent_.empty() && changes_ <= static_cast<int64_t>(adjacent_.size()) / kStalePart + kStaleChanges) return;
    changes_ = 0;
    adjacent_.clear();
    for (const auto& [name, ns] : namespaces_) {
      for (Entry* const entry : ns.entries) {
        for (const Run& run : entry->location.runs) adjacent_.push_back({run, entry});
      }
    }
  }
  std::sort(adjacent_.begin(), adjacent_.end(),
            [](const Occupied& a, const Occupied& b) { return a.run.first < b.run.first; });
}

std::vector<EncodingKey> Table::PickAdjacent(absl::string_view ns, int64_t blocks, int64_t limit) {
  MutexLock adjacent(&adjacent_mutex_);
  RefreshAdjacent();
  MutexLock lock(&mutex_);
  auto may = MayGive(NamespaceOf(ns), blocks, limit);
  const bool all = adjacent_.size() <= kMaxPieces;
  for (int slice = 0; slice < (all ? 1 : kMaxSlices);) {
    if (all || adjacent_cursor_ >= adjacent_.size()) adjacent_cursor_ = 0;
    const size_t end = std::min(adjacent_cursor_ + kMaxPieces, adjacent_.size());
    std::vector<Piece> pieces;
    std::vector<Entry*> owners;
    absl::flat_hash_map<Entry*, int32_t> numbers;
    for (size_t i = adjacent_cursor_; i < end; ++i) {
      Entry* const entry = adjacent_[i].entry;
      const Run run = adjacent_[i].run;
      if (entry->ns == nullptr || entry->dead || entry->leaving || entry->uses > 0 || entry->pins > 0) continue;
      if (!may.contains(entry->ns) || allocator_.Returning({run}) == 0) continue;
      const Runs& runs = entry->location.runs;
      if (std::find(runs.begin(), runs.end(), run) == runs.end()) continue;  // another encoding by now
      const auto [number, added] = numbers.try_emplace(entry, static_cast<int32_t>(owners.size()));
      if (added) owners.push_back(entry);
      // Recently used encodings cost more.
      pieces.push_back({run, entry->location.blocks() * (1 + entry->place.uses), number->second});
    }
    const uint32_t first = all || adjacent_cursor_ == 0 ? 0 : adjacent_[adjacent_cursor_].run.first;
    const uint64_t last = end == adjacent_.size() ? uint64_t{UINT32_MAX} + 1 : adjacent_[end].run.first;
    allocator_.ForEachFree(first, last, [&pieces](Run run) { pieces.push_back({run, 0, Piece::kFree}); });
    const std::vector<int32_t> chosen = CheapestWindows(&pieces, blocks);

    absl::flat_hash_map<const Namespace*, int64_t> given;
    for (const int32_t owner : chosen) given[owners[owner]->ns] += owners[owner]->location.blocks();
    // A namespace above its share gives at most the excess; if this choice exceeds that, the namespace gives nothing,
    // and the choice starts over.
    bool again = false;
    for (const auto& [giver, count] : given) again |= count > may[giver] && may.erase(giver) > 0;
    if (again) continue;
    if (!chosen.empty()) {
      std::vector<EncodingKey> victims;
      for (const int32_t owner : chosen) {
        Entry* const entry = owners[owner];
        entry->ns->order.Erase(entry);
        entry->leaving = true;
        victims.push_back(entry->key());
      }
      return victims;
    }
    adjacent_cursor_ = end;
    ++slice;
  }
  return {};
}

std::vector<EncodingKey> Table::PickWithin(Run segment) {
  std::vector<EncodingKey> victims;
  const uint64_t end = uint64_t{segment.first} + segment.count;
  MutexLock lock(&mutex_);
  for (auto& [name, ns] : namespaces_) {
    for (Entry* const entry : ns.entries) {
      if (entry->leaving || entry->uses > 0 || entry->pins > 0) continue;
      const bool inside = std::any_of(entry->location.runs.begin(), entry->location.runs.end(),
                                      [&](const Run& run) { return run.first >= segment.first && run.first < end; });
      if (!inside) continue;
      ns.order.Erase(entry);
      entry->leaving = true;
      victims.push_back(entry->key());
    }
  }
  return victims;
}

}  // namespace kvlink::engine
