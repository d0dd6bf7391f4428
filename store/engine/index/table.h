// The store's state in memory: every location record and its users, free blocks, the owners of the others, and the
// order of eviction of each namespace.
//
// A removed encoding's blocks become free when the last use of it ends; until then its namespace is charged for them.
// Thread-safety: all methods. EntryUses must be destroyed before the table.
#ifndef KVLINK_STORE_ENGINE_INDEX_TABLE_H_
#define KVLINK_STORE_ENGINE_INDEX_TABLE_H_

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

// A hold on an encoding's blocks: while it lives they are not given to another encoding, and it is not evicted.
class EntryUse {
 public:
  EntryUse() = default;
  EntryUse(EntryUse&& other) noexcept { *this = std::move(other); }
  EntryUse& operator=(EntryUse&& other) noexcept;
  ~EntryUse();
  explicit operator bool() const { return entry_ != nullptr; }
  EncodingKey key() const;
  const Location& location() const;
  // Forgets the hold without giving it back: the blocks stay taken until the store is opened again.
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
    uint64_t sequence = 0;  // the encoding's
    bool pinned = false;    // after the change
  };

  std::optional<Location> Find(const EncodingKey& key) const;
  // Empty if there is none. `touch`: counts as a use for the order of eviction.
  EntryUse Use(const EncodingKey& key, bool touch);
  // What has the key already is removed, without a moment in which nothing has it; returned is its sequence. REQUIRES:
  // the location's blocks are allocated for its namespace.
  std::optional<uint64_t> Insert(const EncodingKey& key, const Location& location);
  // False if it is not there (or, with `sequence` given, another put's).
  bool Remove(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt);
  // Codecs of an identity that are there.
  std::vector<EncodingKey> Variants(absl::string_view ns, const Identity& identity) const;

  // Counted. NOT_FOUND: not there (or being evicted), or nothing to unpin. RESOURCE_EXHAUSTED: the blocks that the
  // namespace's pinned encodings occupy would come to more than its limit, or `max_bytes` where it has none. Errors
  // change nothing.
  absl::StatusOr<PinState> Pin(const EncodingKey& key, int64_t max_bytes);
  // With `sequence`: NOT_FOUND as well if another put's encoding has the name by now.
  absl::StatusOr<PinState> Unpin(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt);
  bool Pinned(const EncodingKey& key) const;

  // Limits of namespaces, and which share of each counts here (ShareOf); at first all of it. Both are only noted: see
  // OverLimit.
  void SetLimits(absl::string_view ns, const NamespaceSettings& limits);
  // As if SetLimits had never been called.
  void ForgetLimits(absl::string_view ns);
  std::map<std::string, NamespaceSettings> LimitsAll() const;
  void SetShare(double share);
  double share() const;

  // Blocks.
  void AddFree(Run run);
  // Nothing if the namespace's limit or the free blocks do not suffice.
  std::optional<Runs> Allocate(absl::string_view ns, int64_t blocks);
  void Free(absl::string_view ns, const Runs& runs);
  int64_t free_blocks() const;

  // Blocks of allocated runs that cannot be written: nobody is charged for them, and they are never free again.
  void Lose(absl::string_view ns, absl::Span<const Run> bad);
  // The same for blocks that a former life found bad. REQUIRES: the table is loaded. What an encoding occupies is left.
  void LoseFree(absl::Span<const Run> bad);
  // Ascending, merged where adjacent.
  std::vector<Run> bad_blocks() const;
  // No block of a segment is handed out any more, as BlockAllocator::Seal; what lies there stays. Idempotent.
  void Seal(Run segment);
  // Forgets a sealed segment. False, changing nothing, if something in it is occupied.
  bool Forget(Run segment);
  // Bad ones, and those of sealed segments that nobody occupies.
  int64_t unusable_blocks() const;
  // Evictable encodings that lie in a segment, as PickOf.
  std::vector<EncodingKey> PickWithin(Run segment);
  // Whether a namespace would occupy no more than `percent` of its limit with so many blocks more.
  bool WithinLimit(absl::string_view ns, int64_t more, int64_t percent) const;
  // Whether so many blocks are within a namespace's limit by themselves.
  bool FitsLimit(absl::string_view ns, int64_t blocks) const;
  // How many blocks a namespace would be over its limit with so many more. 0: none.
  int64_t OverLimit(absl::string_view ns, int64_t more) const;
  // Namespaces that occupy more than `high` percent of their limit, and by how many blocks they exceed `low` percent.
  std::vector<std::pair<std::string, int64_t>> OverWatermark(int64_t high, int64_t low) const;

  // The next encodings to evict, together at least `blocks` if that many may go. They cannot be pinned any more; the
  // caller removes them or puts them back.
  std::vector<EncodingKey> PickOf(absl::string_view ns, int64_t blocks);
  // From what occupies most relative to its share of `limit` blocks. A namespace's share is its limit; those without
  // one have together what the limits leave, at least a tenth; where that is more than there is, all shares shrink.
  std::vector<EncodingKey> PickOverall(int64_t blocks, int64_t limit);
  // To make room for so many blocks of a namespace: from what is over its share, the most relative to it first; then
  // from the namespace itself (from all without a limit, if it has none); from others within their shares only if it
  // stays within its own. By age where the holes that leaves will do; where they would lie too far apart for the runs
  // of one encoding, what occupies the cheapest stretches of adjacent blocks.
  std::vector<EncodingKey> PickFor(absl::string_view ns, int64_t blocks, int64_t limit);
  void PutBack(const EncodingKey& key);
  // Whether what has this name was picked. Something put again since was not.
  bool Picked(const EncodingKey& key) const;

  // Slots: what there is of each, by digests that follow every change, and a chain of its entries. Together 2.5 MiB,
  // and 16 bytes of each entry.
  std::vector<SlotDigest> SlotDigests(absl::Span<const uint16_t> slots) const;
  // Behind `after` (none: from the first) in the order of keys, at most `limit`.
  std::vector<SlotEntry> ListSlot(int slot, const std::optional<EncodingKey>& after, size_t limit) const;

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
  // Entries keep their place in the order of eviction themselves.
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
    int64_t blocks = 0;        // taken by encodings, by puts on their way, and by what is removed but in use
    int64_t pinned = 0;        // encodings
    int64_t pinned_bytes = 0;  // of blocks
    std::optional<NamespaceSettings> limits;
    NamespaceSettings here;  // what counts of them; zeros without any
    absl::flat_hash_set<Entry*, NameHash, SameName> entries;
    S3Fifo<Entry*, uint64_t, Places> order;

    int64_t limit_blocks() const;  // INT64_MAX: none
  };
  struct Slot {
    SlotDigest digest;
    Entry* first = nullptr;  // of its chain
  };
  struct Shares;

  static Name NameOf(const Entry& entry);
  Entry* FindLocked(const EncodingKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Namespace& NamespaceOf(absl::string_view ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Namespace* Known(absl::string_view ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Every entry that can be found is in its slot.
  void AddToSlot(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeFromSlot(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Toggle(const Entry& entry, SlotDigest* digest);
  void Release(Entry* entry);
  void RemoveLocked(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeLocked(Namespace* ns, const Runs& runs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoseLocked(Run run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeEntry(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Shares SharesOf(int64_t limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the next victim of a namespace, and what that gives from `*blocks`. False: nothing may go. `for_space`: only
  // what gives blocks that can be handed out again.
  bool EvictOne(Namespace* ns, bool for_space, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Victim by victim from the namespace of those allowed that occupies most relative to its share.
  template <typename Allowed>
  void EvictMost(int64_t limit, Allowed allowed, int64_t* blocks, std::vector<EncodingKey>* victims)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // PickFor where free blocks are scattered.
  std::vector<EncodingKey> PickAdjacent(absl::string_view ns, int64_t blocks, int64_t limit);
  std::vector<EncodingKey> PickByAge(Namespace* of, int64_t blocks, int64_t limit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whom PickAdjacent may take from, and how many blocks at most.
  absl::flat_hash_map<const Namespace*, int64_t> MayGive(const Namespace& of, int64_t blocks, int64_t limit) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fills adjacent_ where it is too old.
  void RefreshAdjacent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(adjacent_mutex_);

  // Runs of encodings by address, as of some time ago: entries are looked at again before they are believed.
  struct Occupied {
    Run run;
    Entry* entry = nullptr;
  };
  Mutex adjacent_mutex_;  // taken before mutex_
  std::vector<Occupied> adjacent_ ABSL_GUARDED_BY(adjacent_mutex_);
  size_t adjacent_cursor_ ABSL_GUARDED_BY(adjacent_mutex_) = 0;

  mutable Mutex mutex_;
  double share_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;               // of entries since adjacent_ was filled
  std::map<uint32_t, uint32_t> bad_ ABSL_GUARDED_BY(mutex_);  // first block -> count; neighbours are merged
  int64_t bad_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Namespace, std::less<>> namespaces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Entry[]>> pool_ ABSL_GUARDED_BY(mutex_);
  std::vector<Entry*> unused_ ABSL_GUARDED_BY(mutex_);
  BlockAllocator allocator_ ABSL_GUARDED_BY(mutex_);
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_) = std::vector<Slot>(kSlots);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t size_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_TABLE_H_
