// One node's shard: encodings in segment files and in the DRAM tier, the index and the catalog in RocksDB. This is its
// interface, and no more; engine_impl.h is what it is made of. What a caller may rely on is said in store/store.h;
// store/embedded puts that interface over this class.
//
// Thread-safety: all methods. Leases and pushes must be destroyed before the engine.
#ifndef KVLINK_STORE_ENGINE_ENGINE_H_
#define KVLINK_STORE_ENGINE_ENGINE_H_

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
#include "proto/slots.h"
#include "store/engine/disk/location.h"
#include "store/engine/statistics.h"
#include "store/engine/types.h"

namespace kvlink::engine {

class IoObserver;  // store/engine/disk/io_observer.h

// An encoding whose bytes or records are wrong, or cannot be read.
struct DamagedEncoding {
  EncodingKey key;
  std::string what;
  std::vector<std::string> documents;  // of the namespace that refer to it; the first 16
};

struct EngineOptions {
  bool create = true;
  bool read_only = false;
  int64_t dram_bytes = int64_t{1} << 30;
  int64_t capacity_bytes = 0;       // of segment files, remembered by the store; 0: as remembered, 64 GiB of a new one
  int64_t segment_bytes = 0;        // of a new store; 0: chosen by the capacity, at most 4 GiB
  int64_t segment_piece_bytes = 0;  // by which new segments grow; 0: SegmentFiles::Options says
  // Most bytes of segments that the pinned encodings of one namespace may occupy; none given: half of the capacity.
  std::optional<int64_t> pinned_bytes;
  // Forgets the encodings that lie in segment files which are missing or cut short. Without it such a store is not
  // opened, because the file system that holds them may merely not be mounted.
  bool drop_missing = false;
  int64_t max_open_segments = 0;  // descriptors kept open; 0: SegmentFiles::Options says
  bool allow_uring = true;
  bool allow_direct = true;
  IoObserver* observer = nullptr;  // outlives the engine
  // The DRAM tier's pages lie in memfds that readers of the namespace may map.
  bool share_memory = false;
  // Told of each piece of a namespace's memory before any of it is handed out, and when nothing will lie in it any
  // more. One call at a time, as of those below; must not call the engine.
  std::function<void(const TierMemory&)> memory_added, memory_gone;
  absl::Duration keep_unused_memory = absl::Minutes(1);  // a piece that nothing lies in
  // Told of each chunk of that memory when its pages are there, before any of it is handed out; and when nothing of it
  // is in use any more, before its pages go back to the system. What a network needs registered follows the pages by
  // these.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  // How long a read may wait for memory that is about to come back before it is RESOURCE_EXHAUSTED.
  absl::Duration wait_for_room = absl::Milliseconds(250);
  // An encoding that was found whole is not read back again so soon, whoever suspects it.
  absl::Duration suspect_interval = absl::Minutes(10);
  // The background scrubber's limit. 0: none runs. A round over everything begins when the engine opens, and
  // `scrub_round` after the last one began.
  int64_t scrub_bytes_per_second = 0;
  absl::Duration scrub_round = absl::Hours(24);
  // Told of each encoding that was found damaged and is not served any more, on any thread; must not call the engine.
  std::function<void(const DamagedEncoding&)> damage_found;
};

// A reader's hold on an encoding; store::Lease says more. Must be destroyed before the engine. Thread-safety: all
// methods but MakeRevocable.
class EncodingLease {
 public:
  virtual ~EncodingLease() = default;
  virtual const Manifest& manifest() const = 0;
  virtual bool from_dram() const = 0;
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  virtual absl::Span<const std::byte> layer(int64_t layer) const = 0;
  // Calls `arrived` once when the layer's bytes are there (read, not verified) or cannot be (why): within the call if
  // that is known already, else on a thread of the I/O, which it must not keep waiting.
  virtual void OnLayerRead(int64_t layer, std::function<void(const absl::Status&)> arrived) = 0;
  virtual Place place(int64_t layer) const = 0;
  // Names this stay in memory: no other stay, of this encoding or another, has its number while the engine lives.
  virtual uint64_t residency() const = 0;
  // From now on the tier may take the memory back for a namespace that has less than its share, and says so by the
  // generation. REQUIRES: every layer has arrived. Of the lease only the destructor is used afterwards.
  virtual void MakeRevocable() = 0;
  // The bytes are good while the generation of this slot has this value (Engine::generations_descriptor).
  virtual uint64_t generation_slot() const = 0;
  virtual uint64_t generation() const = 0;
};

// An encoding on its way here: memory in the DRAM tier, taken layer by layer and filled by its owner, and, once its
// manifest is known, blocks to which each layer is written as soon as it is there. Ends in Engine::CommitPush, or is
// destroyed, which gives all back. Thread-safety: slab and place of a layer may be called at any time after its
// Reserve; Reserve beside them and beside the others, which are called one at a time. Must be destroyed before the
// engine.
class StreamingPut {
 public:
  virtual ~StreamingPut() = default;
  // Takes memory for a layer that has bytes, unless it has some: what could leave makes room. RESOURCE_EXHAUSTED: the
  // tier is full of what cannot leave.
  virtual absl::Status Reserve(int64_t layer) = 0;
  // Writable, of the length that BeginPush was asked for. REQUIRES: reserved.
  virtual absl::Span<std::byte> slab(int64_t layer) const = 0;
  virtual Place place(int64_t layer) const = 0;

  // The manifest, once, before or after the bytes. INVALID_ARGUMENT: of another encoding or of other lengths; errors as
  // Put's where there is no space. The push then is as before.
  virtual absl::Status Accept(const Manifest& manifest) = 0;
  // REQUIRES: Accept returned OK; all of the layer, which has bytes, has been filled. Once for each. Zeroes its
  // padding, verifies it here and hands it to the disk. INVALID_ARGUMENT: it is not what the manifest says; such a push
  // cannot be stored any more.
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
    bool written = false;  // whether that is what was put
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
    KVLINK_ENGINE_STATISTICS(KVLINK_MEMBER)  // store/engine/statistics.h says what each is
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

  // Encodings. A miss is an empty optional, or NOT_FOUND.
  virtual std::optional<Info> Find(const EncodingKey& key) = 0;
  virtual absl::StatusOr<std::unique_ptr<EncodingLease>> Read(const EncodingKey& key, const Etag& etag,
                                                              absl::Time deadline) = 0;
  // A put that replaces what is there does so in one commit: after a crash one of the two is there. Who reads the one
  // before keeps it until they let go; then its blocks come free. Its pins end with it, since a pin is of one encoding.
  // `admit`, if given, is asked once more when it commits, under the lock that every removal takes: an error is the
  // put's, and nothing of it is stored. It must neither wait nor call the engine.
  virtual absl::StatusOr<PutOutcome> Put(absl::string_view ns, const Manifest& manifest,
                                         absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline,
                                         PutMode mode = PutMode::kKeepExisting,
                                         const std::function<absl::Status()>& admit = nullptr) = 0;
  // Put without a copy: memory of the tier for the slabs (multiples of 4096 bytes, 0 for a layer without KV), to be
  // reserved, filled and committed; the first that has bytes is reserved. Whether the encoding is there already is not
  // looked at (Find). INVALID_ARGUMENT: lengths. RESOURCE_EXHAUSTED: the tier is full of what cannot leave.
  virtual absl::StatusOr<std::unique_ptr<StreamingPut>> BeginPush(const EncodingKey& key,
                                                                  absl::Span<const int64_t> lengths,
                                                                  PutMode mode = PutMode::kKeepExisting) = 0;
  // REQUIRES: Accept returned OK. Stores what was written of it, if that was every layer; its memory stays in the tier.
  // `done` is called exactly once: with an outcome from another thread, or within the call, when durable, or when
  // nothing of it is left, with an error as WriteLayer's or Put's. It must neither wait nor call the engine. `admit`:
  // as Put's.
  virtual void CommitPush(std::unique_ptr<StreamingPut> push, std::function<void(absl::StatusOr<PutOutcome>)> done,
                          std::function<absl::Status()> admit = nullptr) = 0;
  // A use for the orders of eviction. NOT_FOUND.
  virtual absl::Status Touch(const EncodingKey& key) = 0;
  // Starts loading into the DRAM tier; OK if it is there or on its way. Evicts others only while the namespace has less
  // than its share. NOT_FOUND, or errors as Read's.
  virtual absl::Status Prefetch(const EncodingKey& key, absl::Time deadline) = 0;
  // A reader found wrong bytes: checks what is in memory and reads the segments again, with the priority of writes. OK:
  // intact (what was wrong in memory is forgotten and counted), or found intact less than ten minutes ago. DATA_LOSS:
  // damaged, and dropped. NOT_FOUND: a miss. UNAVAILABLE: it cannot be read now.
  virtual absl::Status Suspect(const EncodingKey& key) = 0;
  // As store::Store's. A pin is of the encoding that is there now, and gives its sequence number: unpinning with that
  // leaves alone what was put under the name since (NOT_FOUND). RESOURCE_EXHAUSTED also beyond 2^31 - 1 pins of one.
  virtual absl::StatusOr<uint64_t> Pin(const EncodingKey& key) = 0;
  virtual absl::Status Unpin(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt) = 0;
  virtual absl::Status Remove(absl::string_view ns, const Identity& identity) = 0;

  // Slots, for those who compare stores (store/cluster/repair). From memory; of the slots, in order. Whatever was
  // admitted to commit before the call is in it: who stops admitting and then asks misses nothing.
  virtual std::vector<SlotDigest> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  // Encodings of a slot behind one (none: from the first) by (namespace, identity, codec), at most `limit`.
  virtual std::vector<SlotEntry> ListSlot(int slot, const std::optional<EncodingKey>& after, int64_t limit) = 0;
  // Whether a put of slabs of so many bytes would leave the store, and the namespace, so far below their limits that
  // nothing is evicted for it. What else comes meanwhile is not considered.
  virtual bool HasRoom(absl::string_view ns, int64_t bytes) = 0;
  // Removes exactly this encoding. NOT_FOUND: it is not there, or another is. FAILED_PRECONDITION: it is pinned.
  virtual absl::Status RemoveEncoding(const EncodingKey& key, const Etag& etag) = 0;

  // Drops (store/cluster/repair/drops.h). Removes all codecs of the names, as Remove does, and keeps the position, in
  // one commit.
  struct DroppedName {
    std::string ns;
    Identity identity;
  };
  virtual absl::Status Drop(absl::Span<const DroppedName> names, const DropPosition& position) = 0;
  // Removes every encoding, by one record of the index, and keeps the position. The catalog stays.
  virtual absl::Status DropAll(const DropPosition& position) = 0;
  // The position that was kept last. What a listing that begins after this call gives has gone through it.
  virtual DropPosition dropped() const = 0;

  // Catalog. Order of entries of one document: generation, then tombstones over others, then serialised bytes; the
  // greatest stays.
  virtual absl::Status PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) = 0;
  // Many in one commit. For each entry, in order, the generation that the document has now, or why it was not put; the
  // status of the call is that of the commit, and where it is an error nothing has changed. Says of each when it was
  // written, by Now(). An entry of generation 0 gets one: the greater of that time and the document's own generation +
  // 1; where the document is as the entry wants it already, it stays, with its generation.
  struct EntryPut {
    absl::string_view id;
    const CatalogEntry* entry;
  };
  virtual absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutEntries(absl::string_view ns,
                                                                           absl::Span<const EntryPut> puts) = 0;
  virtual absl::StatusOr<CatalogEntry> GetEntry(absl::string_view ns, absl::string_view id) = 0;
  virtual absl::StatusOr<std::vector<Document>> ListEntries(absl::string_view ns, absl::string_view after,
                                                            int64_t limit) = 0;
  // Ids of a namespace that begin with `prefix`, behind `after`, in order: of documents, or of those that were deleted.
  virtual absl::StatusOr<std::vector<std::string>> ListIds(absl::string_view ns, absl::string_view after,
                                                           absl::string_view prefix, int64_t limit, bool deleted) = 0;
  // Forgets a document, its generation included, as if it had never been; encodings that nobody else refers to go, too.
  // NOT_FOUND: nothing is known of it, not even that it was deleted.
  virtual absl::Status EraseEntry(absl::string_view ns, absl::string_view id) = 0;

  // Namespaces. Returns what holds then. Durable on return, and applies at once: what is over a lower limit is evicted
  // in the background. INVALID_ARGUMENT: a negative limit, no name, a revision out of bounds. FAILED_PRECONDITION,
  // changing nothing: a revision that is not above the one that holds.
  virtual absl::StatusOr<NamespaceSettings> PutNamespace(absl::string_view ns, const NamespaceChange& change) = 0;
  // Deletes documents, tombstones, encodings and limits of a namespace, in commits of a bounded size.
  struct NamespaceDeleted {
    int64_t documents = 0, encodings = 0;
  };
  virtual absl::StatusOr<NamespaceDeleted> DeleteNamespace(absl::string_view ns) = 0;
  // Makes the limits of all namespaces these, whatever their revisions: of a node that takes them from elsewhere (a
  // cluster's database). Namespaces that are not named lose theirs. One commit, and none where nothing changes; durable
  // and applied as PutNamespace's. INVALID_ARGUMENT, changing nothing: as PutNamespace.
  virtual absl::Status ReplaceNamespaces(const std::map<std::string, NamespaceSettings>& all) = 0;
  // Those that PutNamespace was called for, or that ReplaceNamespaces named last.
  virtual std::map<std::string, NamespaceSettings> NamespaceSettingsAll() = 0;
  // Which share of the limits is enforced here, 0 to 1 (ShareOf): of a node of a cluster, whose limits are those of all
  // nodes together. Applies at once, as a change of all limits would; the limits and their revisions stay. In memory
  // alone: 1 when the engine opens.
  virtual void SetShareOfLimits(double share) = 0;
  virtual double share_of_limits() const = 0;

  // The table of generations, one u64 each, that readers may map. -1 and 0 if it is not shared.
  virtual int generations_descriptor() const = 0;
  virtual int64_t generations_bytes() const = 0;

  // Who this is. The 16 bytes of the store's UUID; and a number that is greater with every opening of the store for
  // writing, durable before Open returns (but not on a full disk). It is not below the wall clock's microseconds since
  // 1970, so that copies of one directory have different ones.
  virtual std::string id() const = 0;
  virtual uint64_t incarnation() const = 0;
  // The store's clock, in microseconds since 1970: the wall clock, but greater with every call. What it said when an
  // entry was written is kept with the entries, so that it does not fall behind them when the store is opened again.
  virtual uint64_t Now() = 0;

  // Administration.
  virtual absl::StatusOr<std::vector<Manifest>> ListManifests(absl::string_view ns, const Identity& after,
                                                              int64_t limit) = 0;
  virtual Statistics Stats() = 0;
  // Reads everything back and compares the index with itself. Nobody waits for it; what changes meanwhile is no
  // problem.
  virtual absl::StatusOr<VerifyOutcome> Verify(const std::function<bool(int64_t, int64_t)>& progress) = 0;
  virtual void DropDramTier() = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_ENGINE_H_
