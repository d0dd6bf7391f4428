#include "store/engine/index/table_loader.h"

#include <algorithm>
#include <utility>

#include "base/thread.h"
#include "store/engine/index/table_entry.h"

namespace kvlink::engine {
namespace {

// Millions of entries are scattered in memory: prefetch those needed this many steps later.
constexpr size_t kPrefetch = 16;

void Prefetch(const void* data, size_t bytes) {
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(data) + line, 1);
}

}  // namespace

TableLoader::TableLoader(Table* table, int shards) : table_(table), shards_(shards) {}
TableLoader::~TableLoader() = default;

void TableLoader::Add(int shard, const KeyView& key, const Location& location) {
  Shard& to = shards_[shard];
  if (to.last == nullptr || to.last->name != key.ns) {
    MutexLock lock(&table_->mutex_);
    to.last = &table_->NamespaceOf(key.ns);
  }
  if (to.pool.empty() || to.used == kPoolEntries) {
    to.pool.push_back(std::make_unique<Entry[]>(kPoolEntries));
    to.used = 0;
  }
  Entry& entry = to.pool.back()[to.used++];
  entry.ns = to.last;
  entry.identity = key.identity;
  entry.codec = key.codec;
  entry.location = location;
  ++to.counts[to.last];
}

// Moves everything added into the table.
void TableLoader::Gather() {
  MutexLock lock(&table_->mutex_);
  absl::flat_hash_map<Namespace*, int64_t> counts;
  for (Shard& shard : shards_) {
    for (const auto& [ns, count] : shard.counts) counts[ns] += count;
    for (size_t i = 0; i < shard.pool.size(); ++i) {
      const size_t used = i + 1 < shard.pool.size() ? kPoolEntries : shard.used;
      for (size_t e = 0; e < kPoolEntries; ++e) {
        (e < used ? entries_ : table_->unused_).push_back(&shard.pool[i][e]);
      }
      table_->pool_.push_back(std::move(shard.pool[i]));
    }
  }
  for (const auto& [ns, count] : counts) ns->entries.reserve(count);
}

std::vector<TableLoader::Claim> TableLoader::Claims() const {
  std::vector<Claim> claims;
  claims.reserve(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    for (const Run& run : entries_[i]->location.runs) claims.push_back({run, static_cast<uint32_t>(i)});
  }
  std::sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.run.first < b.run.first; });
  return claims;
}

void TableLoader::Judge(const std::vector<Claim>& claims, absl::Span<const Run> usable, uint32_t blocks_per_segment,
                        Outcome* outcome) {
  verdicts_.assign(entries_.size(), Verdict::kGood);
  uint64_t end = 0;  // of the run that reaches furthest so far
  uint32_t owner = 0;
  auto within = usable.begin();
  std::set<uint32_t> present;
  for (const Run& run : usable) present.insert(run.first / blocks_per_segment);
  for (const Claim& claim : claims) {
    const uint64_t claim_end = uint64_t{claim.run.first} + claim.run.count;
    if (claim.run.first < end) verdicts_[owner] = verdicts_[claim.owner] = Verdict::kTwice;
    if (claim_end > end) {
      end = claim_end;
      owner = claim.owner;
    }
    while (within != usable.end() && uint64_t{within->first} + within->count <= claim.run.first) ++within;
    const bool inside = within != usable.end() && claim.run.first >= within->first &&
                        claim_end <= uint64_t{within->first} + within->count;
    if (inside || verdicts_[claim.owner] == Verdict::kTwice) continue;
    const uint32_t segment = claim.run.first / blocks_per_segment;
    if (!present.contains(segment)) {
      verdicts_[claim.owner] = Verdict::kMissing;
      outcome->missing_segments.insert(segment);
    } else if (verdicts_[claim.owner] == Verdict::kGood) {
      verdicts_[claim.owner] = Verdict::kAstray;
    }
  }
}

std::vector<Run> TableLoader::Unclaimed(const std::vector<Claim>& claims, absl::Span<const Run> usable) const {
  std::vector<Run> unclaimed;
  auto claim = claims.begin();
  for (const Run& run : usable) {
    uint32_t next = run.first;
    const uint32_t end = run.first + run.count;
    for (; claim != claims.end() && claim->run.first < end; ++claim) {
      if (verdicts_[claim->owner] != Verdict::kGood) continue;
      if (claim->run.first > next) unclaimed.push_back({next, claim->run.first - next});
      next = claim->run.first + claim->run.count;
    }
    if (end > next) unclaimed.push_back({next, end - next});
  }
  return unclaimed;
}

TableLoader::Outcome TableLoader::Finish(absl::Span<const Run> usable, uint32_t blocks_per_segment) {
  Outcome outcome;
  Gather();
  // In the order of the puts, which becomes the eviction order.
  std::vector<std::pair<uint64_t, uint32_t>> order(entries_.size());
  Thread sorting("index-sort", [&] {
    for (size_t i = 0; i < entries_.size(); ++i) order[i] = {entries_[i]->location.sequence, static_cast<uint32_t>(i)};
    std::sort(order.begin(), order.end());
  });
  const std::vector<Claim> claims = Claims();
  Judge(claims, usable, blocks_per_segment, &outcome);
  sorting.Join();

  if (!order.empty()) outcome.last_sequence = order.back().first;
  MutexLock lock(&table_->mutex_);
  Thread naming("index-name", [&] {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (i + kPrefetch < entries_.size()) entries_[i + kPrefetch]->ns->entries.prefetch(entries_[i + kPrefetch]);
      if (verdicts_[i] == Verdict::kGood) entries_[i]->ns->entries.insert(entries_[i]);
    }
  });
  for (const Run& run : Unclaimed(claims, usable)) table_->allocator_.Free(run);
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t index = order[i].second;
    Entry* const entry = entries_[index];
    // Entries lie in memory in the order of their names.
    if (i + kPrefetch < order.size()) Prefetch(entries_[order[i + kPrefetch].second], sizeof(Entry));
    if (verdicts_[index] != Verdict::kGood) {
      auto& list = verdicts_[index] == Verdict::kTwice    ? outcome.claimed_twice
                   : verdicts_[index] == Verdict::kAstray ? outcome.astray
                                                          : outcome.missing;
      list.push_back(entry->key());
      table_->unused_.push_back(entry);
      continue;
    }
    const Location& location = entry->location;
    Namespace& ns = *entry->ns;
    ns.bytes += location.bytes;
    ns.blocks += location.blocks();
    table_->bytes_ += location.bytes;
    ++table_->size_;
    ns.order.Insert(entry, entry->ghost(), location.blocks());
    table_->AddToSlot(entry);
  }
  naming.Join();
  return outcome;
}

}  // namespace kvlink::engine
