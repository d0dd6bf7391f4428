// The table's entry for an encoding. Private to table*.cc.
#ifndef KVLINK_STORE_ENGINE_INDEX_TABLE_ENTRY_H_
#define KVLINK_STORE_ENGINE_INDEX_TABLE_ENTRY_H_

#include <cstdint>
#include <cstring>

#include "store/engine/disk/location.h"
#include "store/engine/index/table.h"

namespace kvlink::engine {

inline constexpr size_t kPoolEntries = 4096;  // allocated at a time

static_assert(sizeof(Location) == 64);

// One encoding. Kept small, because a node holds millions of them.
struct EntryUse::Entry {
  Table::Namespace* ns = nullptr;
  Identity identity;
  Location location;
  Table::Places::Item place;
  Entry* next_in_slot = nullptr;
  Entry* prev_in_slot = nullptr;
  int32_t uses = 0;
  int32_t pins = 0;
  Codec codec = Codec::kRawBf16;
  bool dead = false;     // removed, but still in use
  bool leaving = false;  // picked for eviction
  bool in_order = false;

  EncodingKey key() const { return {ns->name, identity, codec}; }
  // Its key among the ghosts of the eviction order. Identities are hashes, and a collision is harmless.
  uint64_t ghost() const {
    uint64_t start;
    std::memcpy(&start, identity.bytes.data(), sizeof(start));
    return start + static_cast<uint64_t>(codec);
  }
  int64_t block_bytes() const { return location.blocks() * kSegmentBlockBytes; }
};

inline Table::Places::Item* Table::Places::Find(Entry* entry) const {
  return entry->in_order ? &entry->place : nullptr;
}
inline Table::Places::Item* Table::Places::Add(Entry* entry) {
  ++size_;
  entry->in_order = true;
  return &entry->place;
}
inline void Table::Places::Erase(Entry* entry) {
  --size_;
  entry->in_order = false;
}

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_TABLE_ENTRY_H_
