#include "store/engine/index/table.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "store/engine/index/table_entry.h"

namespace kvlink::engine {

EntryUse& EntryUse::operator=(EntryUse&& other) noexcept {
  std::swap(table_, other.table_);
  std::swap(entry_, other.entry_);
  return *this;
}

EntryUse::~EntryUse() {
  if (entry_ != nullptr) table_->Release(entry_);
}

EncodingKey EntryUse::key() const { return entry_->key(); }
const Location& EntryUse::location() const { return entry_->location; }

Table::Table() = default;
Table::~Table() = default;

int64_t Table::Namespace::limit_blocks() const {
  return here.capacity_bytes == 0 ? INT64_MAX : here.capacity_bytes / kSegmentBlockBytes;
}

Table::Name Table::NameOf(const Entry& entry) { return {entry.identity, entry.codec}; }
size_t Table::NameHash::operator()(const Entry* entry) const { return (*this)(NameOf(*entry)); }
bool Table::SameName::operator()(const Entry* a, const Name& b) const {
  return a->identity == b.identity && a->codec == b.codec;
}

const Table::Namespace* Table::Known(absl::string_view ns) const {
  const auto it = namespaces_.find(std::string_view(ns.data(), ns.size()));
  return it == namespaces_.end() ? nullptr : &it->second;
}

Table::Namespace& Table::NamespaceOf(absl::string_view ns) {
  const std::string_view name(ns.data(), ns.size());
  auto it = namespaces_.find(name);
  if (it == namespaces_.end()) {
    it = namespaces_.try_emplace(std::string(name)).first;
    it->second.name = it->first;
    it->second.seed = NamespaceSeed(ns);
  }
  return it->second;
}

Table::Entry* Table::FindLocked(const EncodingKey& key) const {
  const Namespace* const ns = Known(key.ns);
  if (ns == nullptr) return nullptr;
  const auto it = ns->entries.find(Name{key.identity, key.codec});
  return it == ns->entries.end() ? nullptr : *it;
}

std::optional<Location> Table::Find(const EncodingKey& key) const {
  MutexLock lock(&mutex_);
  const Entry* const entry = FindLocked(key);
  if (entry == nullptr) return std::nullopt;
  return entry->location;
}

EntryUse Table::Use(const EncodingKey& key, bool touch) {
  EntryUse use;
  MutexLock lock(&mutex_);
  Entry* const entry = FindLocked(key);
  if (entry == nullptr) return use;
  use.table_ = this;
  use.entry_ = entry;
  ++entry->uses;
  if (touch) entry->ns->order.Touch(entry);
  return use;
}

void Table::Release(Entry* entry) {
  MutexLock lock(&mutex_);
  if (--entry->uses == 0 && entry->dead) FreeEntry(entry);
}

void Table::FreeEntry(Entry* entry) {
  FreeLocked(entry->ns, entry->location.runs);
  entry->ns = nullptr;
  entry->uses = entry->pins = 0;
  entry->dead = entry->leaving = false;
  unused_.push_back(entry);
}

std::optional<uint64_t> Table::Insert(const EncodingKey& key, const Location& location) {
  MutexLock lock(&mutex_);
  std::optional<uint64_t> replaced;
  if (Entry* const before = FindLocked(key); before != nullptr) {
    replaced = before->location.sequence;
    RemoveLocked(before);
  }
  if (unused_.empty()) {
    pool_.push_back(std::make_unique<Entry[]>(kPoolEntries));
    for (size_t i = kPoolEntries; i-- > 0;) unused_.push_back(&pool_.back()[i]);
  }
  Entry* const entry = unused_.back();
  unused_.pop_back();
  Namespace& ns = NamespaceOf(key.ns);
  entry->ns = &ns;
  entry->identity = key.identity;
  entry->codec = key.codec;
  entry->location = location;
  ns.bytes += location.bytes;
  bytes_ += location.bytes;
  ++size_;
  ++changes_;
  ns.order.Insert(entry, entry->ghost(), location.blocks());
  ns.entries.insert(entry);
  AddToSlot(entry);
  return replaced;
}

bool Table::Remove(const EncodingKey& key, std::optional<uint64_t> sequence) {
  MutexLock lock(&mutex_);
  Entry* const entry = FindLocked(key);
  if (entry == nullptr) return false;
  if (sequence.has_value() && entry->location.sequence != *sequence) return false;
  RemoveLocked(entry);
  return true;
}

void Table::RemoveLocked(Entry* entry) {
  Namespace& ns = *entry->ns;
  ns.entries.erase(entry);
  TakeFromSlot(entry);
  ns.bytes -= entry->location.bytes;
  if (entry->pins > 0) {
    ns.pinned_bytes -= entry->block_bytes();
    --ns.pinned;
  }
  bytes_ -= entry->location.bytes;
  --size_;
  ++changes_;
  ns.order.Erase(entry);
  entry->dead = true;
  if (entry->uses == 0) FreeEntry(entry);
}

std::vector<EncodingKey> Table::Variants(absl::string_view ns, const Identity& identity) const {
  std::vector<EncodingKey> keys;
  EncodingKey key{std::string(ns), identity};
  MutexLock lock(&mutex_);
  for (Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    key.codec = codec;
    if (FindLocked(key) != nullptr) keys.push_back(key);
  }
  return keys;
}

absl::StatusOr<Table::PinState> Table::Pin(const EncodingKey& key, int64_t max_bytes) {
  MutexLock lock(&mutex_);
  Entry* const entry = FindLocked(key);
  if (entry == nullptr || entry->leaving) return absl::NotFoundError("a miss: nothing to pin");
  if (entry->pins == std::numeric_limits<int32_t>::max()) {
    return absl::ResourceExhaustedError("pin: this encoding has the maximum number of pins");
  }
  if (entry->pins == 0) {
    Namespace& ns = *entry->ns;
    if (ns.here.pinned_bytes > 0) {
      max_bytes = ns.here.pinned_bytes;
    } else if (ns.here.capacity_bytes > 0) {
      max_bytes = std::min(max_bytes, ns.here.capacity_bytes / 2);
    }
    if (ns.pinned_bytes + entry->block_bytes() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("namespace '", key.ns, "' may pin ", max_bytes, " bytes, has pinned ", ns.pinned_bytes,
                       " and this encoding takes ", entry->block_bytes(), "; unpin others first"));
    }
    ns.pinned_bytes += entry->block_bytes();
    ++ns.pinned;
  }
  ++entry->pins;
  return PinState{entry->location.sequence, true};
}

absl::StatusOr<Table::PinState> Table::Unpin(const EncodingKey& key, std::optional<uint64_t> sequence) {
  MutexLock lock(&mutex_);
  Entry* const entry = FindLocked(key);
  if (entry != nullptr && sequence.has_value() && entry->location.sequence != *sequence) {
    return absl::NotFoundError("a miss: the pinned encoding is gone, and another has its name");
  }
  if (entry == nullptr || entry->pins == 0) return absl::NotFoundError("not pinned, or a miss");
  if (--entry->pins == 0) {
    entry->ns->pinned_bytes -= entry->block_bytes();
    --entry->ns->pinned;
  }
  return PinState{entry->location.sequence, entry->pins > 0};
}

bool Table::Pinned(const EncodingKey& key) const {
  MutexLock lock(&mutex_);
  const Entry* const entry = FindLocked(key);
  return entry != nullptr && entry->pins > 0;
}

void Table::SetLimits(absl::string_view ns, const NamespaceSettings& limits) {
  MutexLock lock(&mutex_);
  Namespace& of = NamespaceOf(ns);
  of.limits = limits;
  of.here = ShareOf(limits, share_);
}

void Table::ForgetLimits(absl::string_view ns) {
  MutexLock lock(&mutex_);
  const auto it = namespaces_.find(std::string(ns));
  if (it == namespaces_.end()) return;
  it->second.limits.reset();
  it->second.here = {};
}

std::map<std::string, NamespaceSettings> Table::LimitsAll() const {
  std::map<std::string, NamespaceSettings> all;
  MutexLock lock(&mutex_);
  for (const auto& [name, ns] : namespaces_) {
    if (ns.limits.has_value()) all.emplace(name, *ns.limits);
  }
  return all;
}

void Table::SetShare(double share) {
  MutexLock lock(&mutex_);
  share_ = share;
  for (auto& [name, ns] : namespaces_) {
    if (ns.limits.has_value()) ns.here = ShareOf(*ns.limits, share);
  }
}

double Table::share() const {
  MutexLock lock(&mutex_);
  return share_;
}

void Table::AddFree(Run run) {
  MutexLock lock(&mutex_);
  allocator_.Free(run);
}

std::optional<Runs> Table::Allocate(absl::string_view ns, int64_t blocks) {
  MutexLock lock(&mutex_);
  Namespace& of = NamespaceOf(ns);
  if (blocks > of.limit_blocks() - of.blocks) return std::nullopt;
  std::optional<Runs> runs = allocator_.Allocate(blocks);
  if (runs.has_value()) of.blocks += blocks;
  return runs;
}

void Table::Free(absl::string_view ns, const Runs& runs) {
  MutexLock lock(&mutex_);
  FreeLocked(&NamespaceOf(ns), runs);
}

void Table::FreeLocked(Namespace* ns, const Runs& runs) {
  for (const Run& run : runs) {
    allocator_.Free(run);
    ns->blocks -= run.count;
  }
}

void Table::LoseLocked(Run run) {
  bad_blocks_ += run.count;
  auto next = bad_.upper_bound(run.first);
  if (next != bad_.end() && next->first == run.first + run.count) {
    run.count += next->second;
    next = bad_.erase(next);
  }
  if (next != bad_.begin() && std::prev(next)->first + std::prev(next)->second == run.first) {
    std::prev(next)->second += run.count;
  } else {
    bad_.emplace(run.first, run.count);
  }
}

void Table::Lose(absl::string_view ns, absl::Span<const Run> bad) {
  MutexLock lock(&mutex_);
  for (const Run& run : bad) {
    NamespaceOf(ns).blocks -= run.count;
    LoseLocked(run);
  }
}

void Table::LoseFree(absl::Span<const Run> bad) {
  MutexLock lock(&mutex_);
  for (const Run& run : bad) {
    for (uint32_t block = run.first; block < run.first + run.count; ++block) {
      if (allocator_.Claim({block, 1})) LoseLocked({block, 1});
    }
  }
}

std::vector<Run> Table::bad_blocks() const {
  std::vector<Run> runs;
  MutexLock lock(&mutex_);
  for (const auto& [first, count] : bad_) runs.push_back({first, count});
  return runs;
}

void Table::Seal(Run segment) {
  MutexLock lock(&mutex_);
  allocator_.Seal(segment);
}

bool Table::Forget(Run segment) {
  MutexLock lock(&mutex_);
  const uint64_t end = uint64_t{segment.first} + segment.count;
  int64_t bad = 0;
  for (auto it = bad_.lower_bound(segment.first); it != bad_.end() && it->first < end; ++it) bad += it->second;
  if (allocator_.withheld_blocks(segment) + bad != segment.count) return false;
  allocator_.Forget(segment);
  bad_.erase(bad_.lower_bound(segment.first), bad_.lower_bound(static_cast<uint32_t>(end)));
  bad_blocks_ -= bad;
  return true;
}

int64_t Table::unusable_blocks() const {
  MutexLock lock(&mutex_);
  return bad_blocks_ + allocator_.withheld_blocks();
}

int64_t Table::free_blocks() const {
  MutexLock lock(&mutex_);
  return allocator_.free_blocks();
}

bool Table::FitsLimit(absl::string_view ns, int64_t blocks) const {
  MutexLock lock(&mutex_);
  const Namespace* const of = Known(ns);
  return of == nullptr || blocks <= of->limit_blocks();
}

bool Table::WithinLimit(absl::string_view ns, int64_t more, int64_t percent) const {
  MutexLock lock(&mutex_);
  const Namespace* const of = Known(ns);
  if (of == nullptr || of->limit_blocks() == INT64_MAX) return true;
  return static_cast<double>(of->blocks + more) <= static_cast<double>(of->limit_blocks()) / 100.0 * percent;
}

int64_t Table::OverLimit(absl::string_view ns, int64_t more) const {
  MutexLock lock(&mutex_);
  const Namespace* const of = Known(ns);
  if (of == nullptr || of->limit_blocks() == INT64_MAX) return 0;
  return std::max<int64_t>(0, of->blocks + more - of->limit_blocks());
}

std::vector<std::pair<std::string, int64_t>> Table::OverWatermark(int64_t high, int64_t low) const {
  std::vector<std::pair<std::string, int64_t>> over;
  MutexLock lock(&mutex_);
  for (const auto& [name, ns] : namespaces_) {
    const int64_t limit = ns.limit_blocks();
    if (limit == INT64_MAX || ns.blocks <= limit / 100.0 * high) continue;
    over.emplace_back(name, ns.blocks - static_cast<int64_t>(limit / 100.0 * low));
  }
  return over;
}

std::vector<NamespaceUse> Table::Namespaces() const {
  std::vector<NamespaceUse> uses;
  MutexLock lock(&mutex_);
  for (const auto& [name, ns] : namespaces_) {
    if (ns.entries.empty()) continue;
    uses.push_back({name, static_cast<int64_t>(ns.entries.size()), ns.bytes, ns.pinned_bytes, ns.pinned});
  }
  return uses;
}

int64_t Table::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

int64_t Table::size() const {
  MutexLock lock(&mutex_);
  return size_;
}

bool Table::Picked(const EncodingKey& key) const {
  MutexLock lock(&mutex_);
  const Entry* const entry = FindLocked(key);
  return entry != nullptr && entry->leaving;
}

void Table::PutBack(const EncodingKey& key) {
  MutexLock lock(&mutex_);
  Entry* const entry = FindLocked(key);
  if (entry == nullptr || !entry->leaving) return;
  entry->leaving = false;
  entry->ns->order.Insert(entry, entry->ghost(), entry->location.blocks());
}

}  // namespace kvlink::engine
