// The store's state in memory: every location record and its uses, the free blocks, the owners of the other blocks, and
// each namespace's eviction order.
//
// A removed encoding's blocks become free when its last use ends; until then its namespace is charged for them.
// Thread-safety: all methods. EntryUses must be destroyed before the table.
#ifndef KVLINK_STORE_ENGINE_INDEX_TABLE_H_
#define KVLINK_STORE_ENGINE_INDEX_TABLE_H_

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/slots.h"
#include "store/engine/disk/allocator.h"
#include "store/engine/disk/location.h"
#include "store/engine/index/namespace_settings.h"
#include "store/engine/s3_fifo.h"
#include "store/engine/types.h"

namespace kvlink::engine {

class Table;

// A hold on an encoding's blocks: while it lives, they are not reused and the encoding is not evicted.
class EntryUse {
 public:
  EntryUse() = default;
  EntryUse(EntryUse&& other) noexcept { *this = std::move(other); }
  EntryUse& operator=(EntryUse&& other) noexcept;
  ~EntryUse();
  explicit operator bool() const { return entry_ != nullptr; }
  EncodingKey key() const;
  const Location& location() const;
  // Drops the hold without releasing it: the blocks stay taken until the store is reopened.
  void Abandon() { entry_ = nullptr; }

 private:
  friend class Table;
  struct Entry;
  Table* table_ = nullptr;
  Entry* entry_ = nullptr;
};

class Table {
 public:
  Table();
  ~Table();

  struct PinState {
    uint64_t sequence = 0;  // of the encoding
    bool pinned = false;    // after the change
  };

  std::optional<Location> Find(const EncodingKey& key) const;
  // Empty if there is no such encoding. `touch`: counts as a use in the eviction order.
  EntryUse Use(const EncodingKey& key, bool touch);
  // Atomically replaces any encoding with the same key, and returns its sequence. REQUIRES: the location's blocks are
  // allocated for its namespace.
  std::optional<uint64_t> Insert(const EncodingKey& key, const Location& location);
  // Returns false if the key is absent or, with `sequence` given, belongs to another put.
  bool Remove(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt);
  // The stored variants (codecs) of an identity.
  std::vector<EncodingKey> Variants(absl::string_view ns, const Identity& identity) const;

  // Pins are counted. NOT_FOUND: absent (or being evicted), or nothing to unpin. RESOURCE_EXHAUSTED: the blocks of the
  // namespace's pinned encodings would exceed its limit, or `max_bytes` if it has none. Errors change nothing.
  absl::StatusOr<PinState> Pin(const EncodingKey& key, int64_t max_bytes);
  // With `sequence`, also NOT_FOUND if the key now belongs to another put.
  absl::StatusOr<PinState> Unpin(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt);
  bool Pinned(const EncodingKey& key) const;

  // Limits of namespaces, and the share of every limit that is enforced here (ShareOf), initially 1. Both are only
  // recorded; see OverLimit.
  void SetLimits(absl::string_view ns, const NamespaceSettings& limits);
  // Restores the state before any SetLimits.
  void ForgetLimits(absl::string_view ns);
  std::map<std::string, NamespaceSettings> LimitsAll() const;
  void SetShare(double share);
  double share() const;

  // Blocks.
  void AddFree(Run run);
  // nullopt if the namespace's limit or the free blocks do not suffice.
  std::optional<Runs> Allocate(absl::string_view ns, int64_t blocks);
  void Free(absl::string_view ns, const Runs& runs);
  int64_t free_blocks() const;

  // Removes unwritable blocks from allocated runs: no namespace is charged for them, and they never become free again.
  void Lose(absl::string_view ns, absl::Span<const Run> bad);
  // Likewise for blocks found bad before the store was opened. REQUIRES: the table is loaded. Blocks occupied by an
  // encoding are skipped.
  void LoseFree(absl::Span<const Run> bad);
  // Ascending; adjacent runs are merged.
  std::vector<Run> bad_blocks() const;
  // Stops handing out blocks of a segment, as BlockAllocator::Seal; its encodings stay. Idempotent.
  void Seal(Run segment);
  // Forgets a sealed segment. Returns false, changing nothing, if any of it is occupied.
  bool Forget(Run segment);
  // Bad blocks, plus unoccupied blocks of sealed segments.
  int64_t unusable_blocks() const;
  // Picks the evictable encodings in a segment; see PickOf.
  std::vector<EncodingKey> PickWithin(Run segment);
  // Whether a namespace with `more` additional blocks would occupy at most `percent` of its limit.
  bool WithinLimit(absl::string_view ns, int64_t more, int64_t percent) const;
  // Whether `blocks` by themselves fit into a namespace's limit.
  bool FitsLimit(absl::string_view ns, int64_t blocks) const;
  // By how many blocks a namespace with `more` additional ones would exceed its limit; 0 if it would not.
  int64_t OverLimit(absl::string_view ns, int64_t more) const;
  // Namespaces that occupy more than `high` percent of their limit, each with the number of blocks above `low` percent.
  std::vector<std::pair<std::string, int64_t>> OverWatermark(int64_t high, int64_t low) const;

  // Picks the next encodings to evict, with at least `blocks` blocks in total if that many are evictable. Picked
  // encodings can no longer be pinned; the caller must remove them or put them back.
  std::vector<EncodingKey> PickOf(absl::string_view ns, int64_t blocks);
  // Picks from the namespace that occupies most relative to its share of `limit` blocks. A namespace's share is its
  // limit; namespaces without one share what the limits leave, at least a tenth. If the shares exceed the total, all
  // are scaled down.
  std::vector<EncodingKey> PickOverall(int64_t blocks, int64_t limit);
  // Picks encodings to make room for `blocks` blocks of a namespace: first from namespaces above their shares, the most
  // relative to its share first; then from the namespace itself (from all without a limit, if it has none); from others
  // within their shares only if the namespace stays within its own. Picks by age if the resulting holes suffice; if
  // they would be too scattered for the runs of one encoding, picks the owners of the cheapest stretches of adjacent
  // blocks.
  std::vector<EncodingKey> PickFor(absl::string_view ns, int64_t blocks, int64_t limit);
  void PutBack(const EncodingKey& key);
  // Whether the encoding with this key is picked. One put again since is not.
  bool Picked(const EncodingKey& key) const;

  // Slots: a digest of each slot, updated with every change, and a chain of its entries. In total 2.5 MiB plus 16 bytes
  // per entry.
  std::vector<SlotDigest> SlotDigests(absl::Span<const uint16_t> slots) const;
  // Entries after `after` (none: from the first) in key order, at most `limit`.
  std::vector<SlotEntry> ListSlot(int slot, const std::optional<EncodingKey>& after, size_t limit) const;
  // The slots that this node owns, at first all. The entries of a slot that it no longer owns start anew in the
  // eviction order, as not used; PickOf picks those that are not used afterwards before any others.
  void SetOwned(const std::bitset<kSlots>& owned);

  std::vector<NamespaceUse> Namespaces() const;
  int64_t bytes() const;
  int64_t size() const;

 private:
  friend class EntryUse;
  friend class TableLoader;
  using Entry = EntryUse::Entry;
  struct Name {
    const Identity& identity;
    Codec codec;
  };
  struct NameHash {
    using is_transparent = void;
    size_t operator()(const Name& name) const { return absl::HashOf(name.identity, name.codec); }
    size_t operator()(const Entry* entry) const;
  };
  struct SameName {
    using is_transparent = void;
    bool operator()(const Entry* a, const Entry* b) const { return (*this)(a, NameOf(*b)); }
    bool operator()(const Entry* a, const Name& b) const;
    bool operator()(const Name& a, const Entry* b) const { return (*this)(b, a); }
  };
  // Each entry stores its own position in the eviction order.
  class Places {
   public:
    using Item = S3FifoItem<Entry*, uint64_t>;
    Item* Find(Entry* entry) const;
    Item* Add(Entry* entry);
    void Erase(Entry* entry);
    size_t size() const { return size_; }

   private:
    size_t size_ = 0;
  };
  struct Namespace {
    std::string name;
    uint64_t seed = 0;         // NamespaceSeed of the name
    int64_t bytes = 0;         // of encodings
    int64_t blocks = 0;        // occupied by encodings, by puts in progress, and by removed encodings still in use
    int64_t pinned = 0;        // encodings
    int64_t pinned_bytes = 0;  // in blocks
    bool moved = false;        // may have evictable entries in slots that are no longer owned
    std::optional<NamespaceSettings> limits;
    NamespaceSettings here;  // the share of them that is enforced; zeros if there are none
    absl::flat_hash_set<Entry*, NameHash, SameName> entries;
    S3Fifo<Entry*, uint64_t, Places> order;

    int64_t limit_blocks() const;  // INT64_MAX if unlimited
  };
  struct Slot {
    SlotDigest digest;
    Entry* first = nullptr;  // head of the chain
  };
  struct Shares;

  static Name NameOf(const Entry& entry);
  Entry* FindLocked(const EncodingKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Namespace& NamespaceOf(absl::string_view ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Namespace* Known(absl::string_view ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Every entry that lookups can find is in its slot.
  void AddToSlot(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeFromSlot(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Toggle(const Entry& entry, SlotDigest* digest);
  void Release(Entry* entry);
  void RemoveLocked(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeLocked(Namespace* ns, const Runs& runs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoseLocked(Run run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeEntry(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Shares SharesOf(int64_t limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Evictable(const Entry& entry, bool for_space) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the entry, which is no longer in the eviction order, a victim, and subtracts what that frees from `*blocks`.
  void Leave(Entry* entry, bool for_space, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes victims of a namespace in slots that are no longer owned, until `*blocks` are freed.
  void EvictMoved(Namespace* ns, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the next victim of a namespace and subtracts what that frees from `*blocks`. Returns false if nothing is
  // evictable. `for_space`: only victims whose blocks can be reused.
  bool EvictOne(Namespace* ns, bool for_space, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes victims one by one, each from the allowed namespace that occupies most relative to its share.
  template <typename Allowed>
  void EvictMost(int64_t limit, Allowed allowed, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // PickFor when the free blocks are scattered.
  std::vector<EncodingKey> PickAdjacent(absl::string_view ns, int64_t blocks, int64_t limit);
  std::vector<EncodingKey> PickByAge(Namespace* of, int64_t blocks, int64_t limit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The namespaces PickAdjacent may evict from, and at most how many blocks of each.
  absl::flat_hash_map<const Namespace*, int64_t> MayGive(const Namespace& of, int64_t blocks, int64_t limit) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Refills adjacent_ if it is too old.
  void RefreshAdjacent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(adjacent_mutex_);

  // Runs of encodings by address, possibly stale: entries are checked again before use.
  struct Occupied {
    Run run;
    Entry* entry = nullptr;
  };
  Mutex adjacent_mutex_;  // taken before mutex_
  std::vector<Occupied> adjacent_ ABSL_GUARDED_BY(adjacent_mutex_);
  size_t adjacent_cursor_ ABSL_GUARDED_BY(adjacent_mutex_) = 0;

  mutable Mutex mutex_;
  double share_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;               // to entries since adjacent_ was filled
  std::map<uint32_t, uint32_t> bad_ ABSL_GUARDED_BY(mutex_);  // first block -> count; adjacent runs are merged
  int64_t bad_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Namespace, std::less<>> namespaces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Entry[]>> pool_ ABSL_GUARDED_BY(mutex_);
  std::vector<Entry*> unused_ ABSL_GUARDED_BY(mutex_);
  BlockAllocator allocator_ ABSL_GUARDED_BY(mutex_);
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_) = std::vector<Slot>(kSlots);
  std::bitset<kSlots> moved_ ABSL_GUARDED_BY(mutex_);  // slots that are no longer owned
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t size_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_TABLE_H_
