// The contents of each slot. A slot's entries form a chain, so that listing a slot touches no others, and its digest is
// updated with every change, so that comparing slots touches no entry at all.
#include <algorithm>
#include <tuple>
#include <utility>

#include "store/engine/index/table.h"
#include "store/engine/index/table_entry.h"

namespace kvlink::engine {

void Table::Toggle(const Entry& entry, SlotDigest* digest) {
  const EncodingHash hash = HashEncoding(entry.ns->seed, entry.identity, entry.codec, entry.location.etag);
  digest->low ^= hash.low;
  digest->high ^= hash.high;
}

void Table::AddToSlot(Entry* entry) {
  Slot& slot = slots_[SlotOf(entry->identity)];
  entry->prev_in_slot = nullptr;
  entry->next_in_slot = slot.first;
  if (slot.first != nullptr) slot.first->prev_in_slot = entry;
  slot.first = entry;
  Toggle(*entry, &slot.digest);
  slot.digest.bytes += static_cast<uint64_t>(entry->location.bytes);
  ++slot.digest.encodings;
}

void Table::TakeFromSlot(Entry* entry) {
  Slot& slot = slots_[SlotOf(entry->identity)];
  if (entry->next_in_slot != nullptr) entry->next_in_slot->prev_in_slot = entry->prev_in_slot;
  (entry->prev_in_slot != nullptr ? entry->prev_in_slot->next_in_slot : slot.first) = entry->next_in_slot;
  Toggle(*entry, &slot.digest);
  slot.digest.bytes -= static_cast<uint64_t>(entry->location.bytes);
  --slot.digest.encodings;
}

void Table::SetOwned(const std::bitset<kSlots>& owned) {
  MutexLock lock(&mutex_);
  const std::bitset<kSlots> before = std::exchange(moved_, ~owned);
  if (moved_ == before) return;
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (!moved_.test(slot) || before.test(slot)) continue;
    for (Entry* entry = slots_[slot].first; entry != nullptr; entry = entry->next_in_slot) {
      entry->place.uses = 0;
      entry->ns->moved = true;
    }
  }
}

std::vector<SlotDigest> Table::SlotDigests(absl::Span<const uint16_t> slots) const {
  std::vector<SlotDigest> digests;
  digests.reserve(slots.size());
  MutexLock lock(&mutex_);
  for (const uint16_t slot : slots) digests.push_back(slots_[slot].digest);
  return digests;
}

std::vector<SlotEntry> Table::ListSlot(int slot, const std::optional<EncodingKey>& after, size_t limit) const {
  const auto name = [](const Entry& entry) {
    return std::tuple<const std::string&, const Identity&, const Codec&>(entry.ns->name, entry.identity, entry.codec);
  };
  std::vector<SlotEntry> listed;
  MutexLock lock(&mutex_);
  std::vector<const Entry*> entries;
  for (const Entry* entry = slots_[slot].first; entry != nullptr; entry = entry->next_in_slot) {
    if (after.has_value() && name(*entry) <= std::tie(after->ns, after->identity, after->codec)) continue;
    entries.push_back(entry);
  }
  const auto end = entries.begin() + static_cast<std::ptrdiff_t>(std::min(limit, entries.size()));
  std::partial_sort(entries.begin(), end, entries.end(),
                    [&](const Entry* a, const Entry* b) { return name(*a) < name(*b); });
  for (auto it = entries.begin(); it != end; ++it) {
    const Entry& entry = **it;
    // Entries picked for eviction are no longer in the order.
    const int heat = entry.in_order ? entry.place.uses + (entry.place.in_main ? 4 : 0) : 0;
    listed.push_back({entry.ns->name, entry.identity, entry.codec, entry.location.etag, entry.location.bytes, heat});
  }
  return listed;
}

}  // namespace kvlink::engine
