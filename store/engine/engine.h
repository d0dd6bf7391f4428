// One node's shard: encodings in segment files and in the DRAM tier, with the index and the catalog in RocksDB. This
// header is only the interface; engine_impl.h holds the implementation. The contract is documented in store/store.h;
// store/embedded implements that interface on top of this class.
//
// Thread-safety: all methods. Leases and pushes must be destroyed before the engine.
#ifndef KVLINK_STORE_ENGINE_ENGINE_H_
#define KVLINK_STORE_ENGINE_ENGINE_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/catalog.h"
#include "proto/manifest.h"
#include "proto/node_id.h"
#include "proto/slots.h"
#include "store/engine/disk/location.h"
#include "store/engine/statistics.h"
#include "store/engine/types.h"

namespace kvlink::engine {

class IoObserver;  // store/engine/disk/io_observer.h

// An encoding whose bytes or records are wrong or unreadable.
struct DamagedEncoding {
  EncodingKey key;
  std::string what;
  std::vector<std::string> documents;  // documents of the namespace that refer to it; the first 16
};

struct EngineOptions {
  bool create = true;
  bool read_only = false;
  int64_t dram_bytes = int64_t{1} << 30;
  int64_t capacity_bytes = 0;  // of segment files, remembered by the store; 0: as remembered, or 64 GiB for a new store
  int64_t segment_bytes = 0;   // of a new store; 0: derived from the capacity, at most 4 GiB
  int64_t segment_piece_bytes = 0;  // size by which new segments grow; 0: the default of SegmentFiles::Options
  // Maximum bytes of segments that the pinned encodings of one namespace may occupy. Unset: half of the capacity.
  std::optional<int64_t> pinned_bytes;
  // Drops encodings that lie in missing or truncated segment files. If false, such a store is not opened, since the
  // file system with the files may merely not be mounted.
  bool drop_missing = false;
  int64_t max_open_segments = 0;  // kept open while unused; 0: the default of SegmentFiles::Options
  bool allow_uring = true;
  bool allow_direct = true;
  IoObserver* observer = nullptr;  // must outlive the engine
  // Places the DRAM tier in memfds that readers of the namespace may map.
  bool share_memory = false;
  // Called for each piece of a namespace's memory before any of it is handed out, and when nothing will lie in it any
  // longer. Calls, including those of the callbacks below, do not overlap. Must not call the engine.
  std::function<void(const TierMemory&)> memory_added, memory_gone;
  absl::Duration keep_unused_memory = absl::Minutes(1);  // until an empty piece is released
  // Called for each chunk of that memory when its pages are present, before any of it is handed out; and when none of
  // it is in use any longer, before its pages are returned to the system. Lets network registration follow the pages.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  // How long a read may wait for memory that is about to be released before it returns RESOURCE_EXHAUSTED.
  absl::Duration wait_for_room = absl::Milliseconds(250);
  // An encoding found intact is not read back again within this time, however often it is suspected.
  absl::Duration suspect_interval = absl::Minutes(10);
  // Rate limit of the background scrubber. 0: no scrubbing. A round over everything begins when the engine opens and
  // `scrub_round` after the start of the previous one.
  int64_t scrub_bytes_per_second = 0;
  absl::Duration scrub_round = absl::Hours(24);
  // Called, on any thread, for each encoding that was found damaged and is no longer served; must not call the engine.
  std::function<void(const DamagedEncoding&)> damage_found;
};

// A reader's hold on an encoding; see store::Lease. Must be destroyed before the engine. Thread-safety: all methods
// except MakeRevocable.
class EncodingLease {
 public:
  virtual ~EncodingLease() = default;
  virtual const Manifest& manifest() const = 0;
  virtual bool from_dram() const = 0;
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  virtual absl::Span<const std::byte> layer(int64_t layer) const = 0;
  // Calls `arrived` once, when the layer's bytes have been read (not verified), or with the reason they cannot be:
  // within this call if already known, otherwise on an I/O thread, which `arrived` must not block.
  virtual void OnLayerRead(int64_t layer, std::function<void(const absl::Status&)> arrived) = 0;
  virtual Place place(int64_t layer) const = 0;
  // Identifies this residency in memory: during the engine's lifetime no other residency, of any encoding, has the same
  // number.
  virtual uint64_t residency() const = 0;
  // Allows the tier to reclaim the memory for a namespace that has less than its share; a change of the generation then
  // signals that. REQUIRES: every layer has arrived. Afterwards only the destructor may be called.
  virtual void MakeRevocable() = 0;
  // The bytes are valid as long as the generation in this slot has this value (Engine::generations_descriptor).
  virtual uint64_t generation_slot() const = 0;
  virtual uint64_t generation() const = 0;
};

// An encoding being received: memory in the DRAM tier, reserved layer by layer and filled by the owner, and, once the
// manifest is known, blocks to which each layer is written as soon as it is complete. Ends in Engine::CommitPush;
// destroying it earlier releases everything. Thread-safety: slab() and place() of a layer may be called at any time
// after its Reserve; Reserve may run concurrently with them and with the other methods, which are called one at a time.
// Must be destroyed before the engine.
class StreamingPut {
 public:
  virtual ~StreamingPut() = default;
  // Reserves memory for a layer that has bytes, unless it is already reserved; evicts as needed. RESOURCE_EXHAUSTED:
  // the tier is full of encodings that cannot be evicted.
  virtual absl::Status Reserve(int64_t layer) = 0;
  // Writable, of the length passed to BeginPush. REQUIRES: reserved.
  virtual absl::Span<std::byte> slab(int64_t layer) const = 0;
  virtual Place place(int64_t layer) const = 0;

  // Supplies the manifest, once, before or after the bytes. INVALID_ARGUMENT: it is of another encoding or has other
  // lengths. If there is no space, the errors of Put. On error the push is unchanged.
  virtual absl::Status Accept(const Manifest& manifest) = 0;
  // Call once for each layer that has bytes. Zeroes the padding, verifies the layer on the calling thread and submits
  // it to the disk. REQUIRES: Accept returned OK, and the layer is completely filled. INVALID_ARGUMENT: it does not
  // match the manifest; the push can then no longer be stored.
  virtual absl::Status WriteLayer(int64_t layer) = 0;
};

class Engine {
 public:
  struct Info {
    Location location;
    bool resident = false;
  };
  struct PutOutcome {
    Etag etag;             // of what is stored
    bool written = false;  // whether that is the encoding that was put
  };
  struct Document {
    std::string id;
    CatalogEntry entry;
  };
  struct Statistics {
    std::vector<NamespaceUse> namespaces;
    std::map<std::string, int64_t> documents;
    std::map<std::string, int64_t> dram_bytes_by_namespace;  // used
    std::string io;
#define KVLINK_MEMBER(name, kind, metric, labels, help) int64_t name = 0;
    KVLINK_ENGINE_STATISTICS(KVLINK_MEMBER)  // documented in store/engine/statistics.h
#undef KVLINK_MEMBER
    std::vector<DamagedEncoding> recent_damage;  // the latest, oldest first
  };
  struct VerifyOutcome {
    int64_t encodings = 0;
    int64_t bytes = 0;
    std::vector<DamagedEncoding> damaged;  // the first 10,000
    std::vector<std::string> index_problems;
  };

  static absl::StatusOr<std::unique_ptr<Engine>> Open(const std::string& directory, const EngineOptions& options);
  virtual ~Engine() = default;

  // Encodings. A miss is nullopt or NOT_FOUND.
  virtual std::optional<Info> Find(const EncodingKey& key) = 0;
  virtual absl::StatusOr<std::unique_ptr<EncodingLease>> Read(const EncodingKey& key, const Etag& etag,
                                                              absl::Time deadline) = 0;
  // A put that replaces an encoding does so in one commit: after a crash, one of the two is there. Readers of the old
  // encoding keep it until they release it; then its blocks become free. Its pins end with it, since a pin refers to
  // one encoding.
  //
  // `admit`, if given, is called once more at commit time, under the lock that every removal takes: if it returns an
  // error, the put returns that error and nothing is stored. It must neither block nor call the engine.
  virtual absl::StatusOr<PutOutcome> Put(absl::string_view ns, const Manifest& manifest,
                                         absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline,
                                         PutMode mode = PutMode::kKeepExisting,
                                         const std::function<absl::Status()>& admit = nullptr) = 0;
  // A put without a copy: allocates tier memory for the slabs (lengths are multiples of 4096 bytes, 0 for a layer
  // without keys and values), to be reserved, filled and committed; the first layer with bytes is reserved at once.
  // Does not check whether the encoding already exists (use Find). INVALID_ARGUMENT: lengths. RESOURCE_EXHAUSTED: the
  // tier is full of encodings that cannot be evicted.
  virtual absl::StatusOr<std::unique_ptr<StreamingPut>> BeginPush(const EncodingKey& key,
                                                                  absl::Span<const int64_t> lengths,
                                                                  PutMode mode = PutMode::kKeepExisting) = 0;
  // Stores the push if every layer was written; its memory stays in the tier. `done` is called exactly once, on another
  // thread or within this call: with an outcome once durable, or, after everything was released, with an error as of
  // WriteLayer or Put. It must neither block nor call the engine. `admit`: as for Put. REQUIRES: Accept returned OK.
  virtual void CommitPush(std::unique_ptr<StreamingPut> push, std::function<void(absl::StatusOr<PutOutcome>)> done,
                          std::function<absl::Status()> admit = nullptr) = 0;
  // Counts as a use in the eviction orders. NOT_FOUND.
  virtual absl::Status Touch(const EncodingKey& key) = 0;
  // Starts loading into the DRAM tier; OK if already there or being loaded. Evicts other encodings only while the
  // namespace has less than its share. NOT_FOUND; otherwise errors as Read.
  virtual absl::Status Prefetch(const EncodingKey& key, absl::Time deadline) = 0;
  // Reports that a reader found wrong bytes. Checks the copy in memory and reads the segments again, with the priority
  // of writes. OK: intact (a wrong copy in memory is discarded and counted), or found intact less than ten minutes ago.
  // DATA_LOSS: damaged, and dropped. NOT_FOUND: a miss. UNAVAILABLE: it cannot be read now.
  virtual absl::Status Suspect(const EncodingKey& key) = 0;
  // As in store::Store. A pin refers to the encoding stored now and returns its sequence number; unpinning with that
  // number leaves anything put later under the same key alone (NOT_FOUND). RESOURCE_EXHAUSTED also beyond 2^31 - 1 pins
  // of one encoding.
  virtual absl::StatusOr<uint64_t> Pin(const EncodingKey& key) = 0;
  virtual absl::Status Unpin(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt) = 0;
  virtual absl::Status Remove(absl::string_view ns, const Identity& identity) = 0;

  // Slots, used to compare stores (store/cluster/repair). Answers from memory, in the order of `slots`. The digests
  // include everything admitted to commit before the call, so a caller that first stops admitting misses nothing.
  virtual std::vector<SlotDigest> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  // Lists at most `limit` encodings of a slot after the given key (none: from the first), ordered by (namespace,
  // identity, codec).
  virtual std::vector<SlotEntry> ListSlot(int slot, const std::optional<EncodingKey>& after, int64_t limit) = 0;
  // Whether a put of slabs of this size would keep the store and the namespace far enough below their limits that
  // nothing is evicted for it. Ignores concurrent puts.
  virtual bool HasRoom(absl::string_view ns, int64_t bytes) = 0;
  // Removes exactly this encoding. NOT_FOUND: absent, or another etag is stored. FAILED_PRECONDITION: pinned.
  virtual absl::Status RemoveEncoding(const EncodingKey& key, const Etag& etag) = 0;

  // Drops (store/cluster/repair/drops.h). Removes all codecs of the names, as Remove does, and stores the position, in
  // one commit.
  struct DroppedName {
    std::string ns;
    Identity identity;
  };
  virtual absl::Status Drop(absl::Span<const DroppedName> names, const DropPosition& position) = 0;
  // Removes every encoding with a single index record, and stores the position. The catalog stays.
  virtual absl::Status DropAll(const DropPosition& position) = 0;
  // The position stored last. Listings that begin after this call reflect it.
  virtual DropPosition dropped() const = 0;

  // Catalog. Of two entries of one document the greater stays, ordered by generation, then tombstones above others,
  // then by serialised bytes.
  virtual absl::Status PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) = 0;
  // Puts many entries in one commit. Returns for each, in order, the document's generation afterwards, or why it was
  // not put. An error of the call is the commit's, and nothing has changed. Sets each entry's write time, from Now().
  // An entry with generation 0 is assigned one: the greater of that time and the document's own generation + 1; if the
  // document already has the same contents, it stays, with its generation.
  struct EntryPut {
    absl::string_view id;
    const CatalogEntry* entry;
  };
  virtual absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutEntries(absl::string_view ns,
                                                                           absl::Span<const EntryPut> puts) = 0;
  virtual absl::StatusOr<CatalogEntry> GetEntry(absl::string_view ns, absl::string_view id) = 0;
  virtual absl::StatusOr<std::vector<Document>> ListEntries(absl::string_view ns, absl::string_view after,
                                                            int64_t limit) = 0;
  // Ids in a namespace that begin with `prefix` and follow `after`, in order: of existing documents, or of deleted
  // ones.
  virtual absl::StatusOr<std::vector<std::string>> ListIds(absl::string_view ns, absl::string_view after,
                                                           absl::string_view prefix, int64_t limit, bool deleted) = 0;
  // Forgets a document, including its generation, as if it had never existed, and removes encodings that no other
  // document refers to. NOT_FOUND: the document is unknown, not even as deleted.
  virtual absl::Status EraseEntry(absl::string_view ns, absl::string_view id) = 0;

  // Namespaces. Returns the settings now in force. Durable on return and effective at once: what exceeds a lowered
  // limit is evicted in the background. INVALID_ARGUMENT: a negative limit, an empty name, a revision out of range.
  // FAILED_PRECONDITION, with nothing changed: the revision is not above the current one.
  virtual absl::StatusOr<NamespaceSettings> PutNamespace(absl::string_view ns, const NamespaceChange& change) = 0;
  // Deletes a namespace's documents, tombstones, encodings and limits, in commits of bounded size.
  struct NamespaceDeleted {
    int64_t documents = 0, encodings = 0;
  };
  virtual absl::StatusOr<NamespaceDeleted> DeleteNamespace(absl::string_view ns) = 0;
  // Replaces the limits of all namespaces, regardless of revisions, on a node whose limits are decided elsewhere (by a
  // cluster's database). Namespaces not in `all` lose theirs. One commit, or none if nothing changes; durable and
  // effective as PutNamespace. INVALID_ARGUMENT, with nothing changed: as PutNamespace.
  virtual absl::Status ReplaceNamespaces(const std::map<std::string, NamespaceSettings>& all) = 0;
  // The settings of all namespaces that have any.
  virtual std::map<std::string, NamespaceSettings> NamespaceSettingsAll() = 0;
  // The share of every limit that is enforced here, 0 to 1 (ShareOf): in a cluster, limits apply to all nodes together.
  // Effective at once, as a change of all limits would be; the limits and their revisions stay as they are. Kept in
  // memory only: 1 when the engine opens.
  virtual void SetShareOfLimits(double share) = 0;
  virtual double share_of_limits() const = 0;
  // The slots that this node owns; at first all. A namespace above its limit evicts encodings of slots that are no
  // longer owned before any others, unless they were used since. Kept in memory only.
  virtual void SetOwnedSlots(const std::bitset<kSlots>& owned) = 0;

  // The table of generations, one u64 each, which readers may map. -1 and 0 if it is not shared.
  virtual int generations_descriptor() const = 0;
  virtual int64_t generations_bytes() const = 0;

  // Identifies this store and this opening of it. id(): the store's UUID. incarnation(): a number that increases with
  // every opening for writing, durable before Open returns (except on a full disk). It is at least the wall clock's
  // microseconds since 1970, so that copies of a directory get different ones.
  virtual NodeId id() const = 0;
  virtual uint64_t incarnation() const = 0;
  // The store's clock, in microseconds since 1970: follows the wall clock, but increases with every call. Its value at
  // an entry's write is stored with the entries, so that after reopening it does not fall behind them.
  virtual uint64_t Now() = 0;

  // Administration.
  virtual absl::StatusOr<std::vector<Manifest>> ListManifests(absl::string_view ns, const Identity& after,
                                                              int64_t limit) = 0;
  virtual Statistics Stats() = 0;
  // Reads everything back and checks the index for consistency, at low priority. Concurrent changes are not reported as
  // problems.
  virtual absl::StatusOr<VerifyOutcome> Verify(const std::function<bool(int64_t, int64_t)>& progress) = 0;
  virtual void DropDramTier() = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_ENGINE_H_
