// One node's shard: encodings in segment files and in the DRAM tier, the index and the catalog in RocksDB.
// What a caller may rely on is said in store/store.h; store/embedded puts that interface over this class.
//
// Thread-safety: all methods. Leases must be destroyed before the engine.
// Locks, in the order they are taken: space_mutex_ (growing, evicting), commit_mutex_ (one change of the index at a
// time, and the table follows it before the next), then those that protect what is named with them, and the locks
// inside of table, tier and files.
#ifndef KVLINK_STORE_ENGINE_ENGINE_H_
#define KVLINK_STORE_ENGINE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "proto/catalog.h"
#include "proto/manifest.h"
#include "store/engine/disk/bulk_io.h"
#include "store/engine/disk/io_observer.h"
#include "store/engine/disk/location.h"
#include "store/engine/disk/segment_files.h"
#include "store/engine/disk/store_directory.h"
#include "store/engine/index/namespace_settings.h"
#include "store/engine/index/table.h"
#include "store/engine/index/table_loader.h"
#include "store/engine/memory/dram_tier.h"
#include "store/engine/statistics.h"

namespace kvlink::engine {

class Engine;
class GroupCommit;
class Index;
class IndexBatch;
class IndexSnapshot;
struct PendingPut;

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
  int64_t capacity_bytes = 0;  // of segment files, remembered by the store; 0: as remembered, 64 GiB of a new one
  int64_t segment_bytes = 0;   // of a new store; 0: chosen by the capacity, at most 256 MiB
  // Most bytes of segments that the pinned encodings of one namespace may occupy; none given: half of the capacity.
  std::optional<int64_t> pinned_bytes;
  // Forgets the encodings that lie in segment files which are missing. Without it such a store is not opened, because
  // the file system that holds them may merely not be mounted.
  bool drop_missing = false;
  int64_t max_open_segments = 0;  // descriptors kept open; 0: SegmentFiles::Options says
  bool allow_uring = true;
  bool allow_direct = true;
  IoObserver* observer = nullptr;  // outlives the engine
  // The DRAM tier's pages lie in memfds that readers of the namespace may map.
  bool share_memory = false;
  // Told of each namespace's memory before pages of it are handed out, also while the engine opens; must not call the
  // engine.
  std::function<void(const TierMemory&)> memory_added;
  // Told of each piece of that memory that lies at one address, before chunk_ready of anything in it. It stays where it
  // is while the engine lives. One call at a time; must not call the engine.
  std::function<void(const TierPiece&)> piece_added;
  // Told of each chunk of that memory when its pages are there, before any of it is handed out; and when nothing of it
  // is in use any more, before its pages go back to the system. One call at a time, not while the engine opens; must
  // not call the engine. What a network needs registered follows the pages by these.
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

// A reader's hold on an encoding; store::Lease says more.
class EncodingLease {
 public:
  using Place = engine::Place;
  const Manifest& manifest() const { return resident_->manifest(); }
  bool from_dram() const { return from_dram_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  absl::Span<const std::byte> layer(int64_t layer) const { return resident_->slab(layer); }
  // Calls `arrived` once when the layer's bytes are there (read, not verified) or cannot be (why): within the call if
  // that is known already, else on a thread of the I/O, which it must not keep waiting.
  void OnLayerRead(int64_t layer, std::function<void(const absl::Status&)> arrived);
  Place place(int64_t layer) const { return resident_->place(layer); }
  // Names this stay in memory: no other stay, of this encoding or another, has its number while the engine lives.
  uint64_t residency() const { return resident_->number(); }
  // From now on the tier may take the memory back for a namespace that has less than its share, and says so by the
  // generation. REQUIRES: every layer has arrived. Of the lease only the destructor is used afterwards.
  void MakeRevocable() { resident_.MakeRevocable(); }
  // The bytes are good while the generation of this slot has this value (Engine::generations_descriptor).
  uint64_t generation_slot() const { return resident_->generation().number(); }
  uint64_t generation() const { return resident_->generation().generation(); }

 private:
  friend class Engine;
  EncodingLease(Engine* engine, EntryUse use, ResidentLease resident, bool from_dram)
      : engine_(engine), use_(std::move(use)), resident_(std::move(resident)), from_dram_(from_dram) {}
  Engine* const engine_;
  const EntryUse use_;
  ResidentLease resident_;
  const bool from_dram_;
};

// Cuts what moves between an encoding's slabs and its blocks into requests, slab by slab in the order of the layers.
// Thread-safety: none.
class RequestCutter {
 public:
  using Done = std::function<void(int64_t offset, int64_t length, const absl::Status&)>;
  // `done` is called for each request. The files outlive it, and memory is registered in chunks of `chunk_bytes`.
  RequestCutter(SegmentFiles* segments, Runs runs, int64_t chunk_bytes, bool write, Done done);
  // The next slab. DATA_LOSS: the blocks do not suffice, or are not there.
  absl::Status Add(absl::Span<std::byte> slab);
  // What has been cut since the last call; without `all` the last request stays, which the next slab may lengthen.
  std::vector<IoRequest> Take(bool all);

 private:
  SegmentFiles* const segments_;
  const Runs runs_;
  const int64_t chunk_bytes_, max_bytes_;
  const bool write_;
  const std::shared_ptr<const Done> done_;
  size_t run_ = 0;
  int64_t in_run_ = 0;    // bytes of the run already used
  int64_t position_ = 0;  // in the encoding
  int64_t start_ = 0;     // of the last request
  std::vector<IoRequest> requests_;
};

// An encoding on its way here: memory in the DRAM tier, taken layer by layer and filled by its owner, and, once its
// manifest is known, blocks to which each layer is written as soon as it is there. Ends in Engine::CommitPush, or is
// destroyed, which gives all back. Thread-safety: slab and place of a layer may be called at any time after its
// Reserve; Reserve beside them and beside the others, which are called one at a time. Must be destroyed before the
// engine.
class StreamingPut {
 public:
  ~StreamingPut();
  StreamingPut(const StreamingPut&) = delete;
  StreamingPut& operator=(const StreamingPut&) = delete;
  // Takes memory for a layer that has bytes, unless it has some: what could leave makes room. RESOURCE_EXHAUSTED: the
  // tier is full of what cannot leave.
  absl::Status Reserve(int64_t layer);
  // Writable, of the length that BeginPush was asked for. REQUIRES: reserved.
  absl::Span<std::byte> slab(int64_t layer) const { return residency_->slab(layer); }
  Place place(int64_t layer) const { return residency_->place(layer); }

  // The manifest, once, before or after the bytes. INVALID_ARGUMENT: of another encoding or of other lengths; errors as
  // Put's where there is no space. The push then is as before.
  absl::Status Accept(const Manifest& manifest);
  // REQUIRES: Accept returned OK; all of the layer, which has bytes, has been filled. Once for each. Zeroes its
  // padding, verifies it here and hands it to the disk. INVALID_ARGUMENT: it is not what the manifest says; such a push
  // cannot be stored any more.
  absl::Status WriteLayer(int64_t layer);

 private:
  friend class Engine;
  StreamingPut(Engine* engine, EncodingKey key, std::shared_ptr<Residency> residency);
  absl::Status SubmitVerified();
  // Detaches the PendingPut, which the caller must end. *left: bytes never submitted, plus one.
  std::shared_ptr<PendingPut> Release(int64_t* left);

  Engine* const engine_;
  const EncodingKey key_;
  std::shared_ptr<Residency> residency_;
  std::vector<int64_t> lengths_;     // of layers
  std::shared_ptr<PendingPut> put_;  // from Accept to Release
  std::unique_ptr<RequestCutter> writes_;
  size_t cut_layers_ = 0;  // that have been cut into writes
  int64_t submitted_bytes_ = 0;
  std::vector<bool> verified_;  // by layer
  absl::Status failure_;
  std::vector<bool> reserved_;  // by layer; Reserve's own
};

class Engine {
 public:
  struct Info {
    Location location;
    bool resident = false;
  };
  struct PutOutcome {
    Etag etag;
    bool written = false;
  };
  struct Document {
    std::string id;
    CatalogEntry entry;
  };
  struct Statistics {
    std::vector<Table::NamespaceUse> namespaces;
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
  ~Engine();

  // Encodings. A miss is an empty optional, or NOT_FOUND.
  std::optional<Info> Find(const EncodingKey& key);
  absl::StatusOr<std::unique_ptr<EncodingLease>> Read(const EncodingKey& key, const Etag& etag, absl::Time deadline);
  absl::StatusOr<PutOutcome> Put(absl::string_view ns, const Manifest& manifest,
                                 absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline);
  // Put without a copy: memory of the tier for the slabs (multiples of 4096 bytes, 0 for a layer without KV), to be
  // reserved, filled and committed; the first that has bytes is reserved. Whether the encoding is there already is not
  // looked at (Find). INVALID_ARGUMENT: lengths. RESOURCE_EXHAUSTED: the tier is full of what cannot leave.
  absl::StatusOr<std::unique_ptr<StreamingPut>> BeginPush(const EncodingKey& key, absl::Span<const int64_t> lengths);
  // REQUIRES: Accept returned OK. Stores what was written of it, if that was every layer; its memory stays in the tier.
  // `done` is called exactly once: with an outcome from another thread, or within the call, when durable, or when
  // nothing of it is left, with an error as WriteLayer's or Put's. It must neither wait nor call the engine.
  void CommitPush(std::unique_ptr<StreamingPut> push, std::function<void(absl::StatusOr<PutOutcome>)> done);
  // A use for the orders of eviction. NOT_FOUND.
  absl::Status Touch(const EncodingKey& key);
  // Starts loading into the DRAM tier; OK if it is there or on its way. Evicts others only while the namespace has less
  // than its share. NOT_FOUND, or errors as Read's.
  absl::Status Prefetch(const EncodingKey& key, absl::Time deadline);
  // A reader found wrong bytes: checks what is in memory and reads the segments again, with the priority of writes. OK:
  // intact (what was wrong in memory is forgotten and counted), or found intact less than ten minutes ago. DATA_LOSS:
  // damaged, and dropped. NOT_FOUND: a miss. UNAVAILABLE: it cannot be read now.
  absl::Status Suspect(const EncodingKey& key);
  // As store::Store's. A pin is of the encoding that is there now, and gives its sequence number: unpinning with that
  // leaves alone what was put under the name since (NOT_FOUND). RESOURCE_EXHAUSTED also beyond 2^31 - 1 pins of one.
  absl::StatusOr<uint64_t> Pin(const EncodingKey& key);
  absl::Status Unpin(const EncodingKey& key, std::optional<uint64_t> sequence = std::nullopt);
  absl::Status Remove(absl::string_view ns, const Identity& identity);

  // Catalog. Order of entries of one document: generation, then tombstones over others, then serialised bytes; the
  // greatest stays.
  absl::Status PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry);
  // Many in one commit. One status per entry, in order; the status of the call is that of the commit, and where it is
  // an error nothing has changed.
  struct EntryPut {
    absl::string_view id;
    const CatalogEntry* entry;
  };
  absl::StatusOr<std::vector<absl::Status>> PutEntries(absl::string_view ns, absl::Span<const EntryPut> puts);
  absl::StatusOr<CatalogEntry> GetEntry(absl::string_view ns, absl::string_view id);
  absl::StatusOr<std::vector<Document>> ListEntries(absl::string_view ns, absl::string_view after, int64_t limit);
  // Ids of a namespace that begin with `prefix`, behind `after`, in order: of documents, or of those that were deleted.
  absl::StatusOr<std::vector<std::string>> ListIds(absl::string_view ns, absl::string_view after,
                                                   absl::string_view prefix, int64_t limit, bool deleted);
  // Forgets a document, its generation included, as if it had never been; encodings that nobody else refers to go, too.
  // NOT_FOUND: nothing is known of it, not even that it was deleted.
  absl::Status EraseEntry(absl::string_view ns, absl::string_view id);

  // Namespaces. Durable on return, and applies at once: what is over a lower limit is evicted in the background.
  // INVALID_ARGUMENT: a negative limit, no name.
  absl::Status PutNamespace(absl::string_view ns, const NamespaceSettings& settings);
  // Deletes documents, tombstones, encodings and limits of a namespace, in commits of a bounded size.
  struct NamespaceDeleted {
    int64_t documents = 0, encodings = 0;
  };
  absl::StatusOr<NamespaceDeleted> DeleteNamespace(absl::string_view ns);
  // Those that PutNamespace was called for.
  std::map<std::string, NamespaceSettings> NamespaceSettingsAll();

  // The table of generations, one u64 each, that readers may map. -1 and 0 if it is not shared.
  int generations_descriptor() const { return tier_->generations().descriptor(); }
  int64_t generations_bytes() const { return options_.share_memory ? tier_->generations().bytes() : 0; }

  // Administration.
  absl::StatusOr<std::vector<Manifest>> ListManifests(absl::string_view ns, const Identity& after, int64_t limit);
  Statistics Stats();
  // Reads everything back and compares the index with itself. Nobody waits for it; what changes meanwhile is no
  // problem.
  absl::StatusOr<VerifyOutcome> Verify(const std::function<bool(int64_t, int64_t)>& progress);
  void DropDramTier();

 private:
  friend class EncodingLease;
  friend class StreamingPut;
  struct TierCounters {
    std::atomic<int64_t> hits{0}, tokens{0}, bytes{0};
  };
  struct Counters {
    TierCounters dram, segments;
    std::atomic<int64_t> misses{0}, bytes_read{0}, bytes_written{0};
    std::atomic<int64_t> pushes_open{0}, puts_in_flight{0}, loads_in_flight{0};
    std::atomic<int64_t> bytes_written_in_place{0}, puts_written_again{0}, failed_flushes{0};
    std::atomic<int64_t> evicted_capacity{0}, evicted_quota{0}, removed{0}, unreferenced{0}, dropped_damaged{0};
    std::atomic<int64_t> integrity_failures{0}, double_claims{0};
    std::atomic<int64_t> scrubbed_encodings{0}, scrubbed_bytes{0}, scrub_rounds{0}, scrub_damaged{0};
    std::atomic<int64_t> reads_repeated{0};
  };

  explicit Engine(const EngineOptions& options);
  // engine.cc
  absl::Status Start(const std::string& directory);
  absl::Status OpenSegments();
  absl::Status OpenIndex();
  absl::Status LoadTable();
  absl::Status LoadCapacity();
  // What is said of segments that the index names and that are not there.
  absl::Status MissingSegments(const TableLoader::Outcome& loaded) const;
  absl::Status StartMemory();
  void Close();
  // Commits a batch; on a full disk gives back the reserve and tries again.
  absl::Status CommitBatch(IndexBatch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  absl::Status Writable() const;

  // engine_read.cc
  struct Held {
    EntryUse use;
    ResidentLease resident;
    bool from_dram = false;
  };
  // A load whose room is being made: others who want the encoding wait for that.
  struct Load {
    Eviction evict = Eviction::kNothing;  // what whoever loads may do for room
    bool begun = false;
    absl::Status status;
  };
  // Leases what `use` names, loading it where it is not resident.
  absl::StatusOr<Held> Hold(EntryUse use, Eviction evict, absl::Time deadline);
  absl::StatusOr<ResidentLease> StartLoad(const EntryUse& use, Eviction evict, absl::Time deadline);
  absl::StatusOr<Manifest> ManifestOf(const EncodingKey& key, const Location& location);
  // Requests that move all of an encoding between memory and segments, in layer order; `done(offset, length, status)`
  // for each.
  absl::StatusOr<std::vector<IoRequest>> Requests(const Residency& residency, const Runs& runs, bool write,
                                                  RequestCutter::Done done) const;
  // Makes the request repeat itself once where it fails.
  void ReadTwice(IoRequest* request);
  // Its bytes are wrong (`what`): counts it, says so, and the store stops serving it.
  void DropDamaged(const EncodingKey& key, uint64_t sequence, absl::string_view what, bool count = true);
  // False: it was dropped already.
  bool DropLocked(const EncodingKey& key, uint64_t sequence, bool count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  std::vector<std::string> DocumentsOf(const EncodingKey& key) const;
  void NoteDamage(const DamagedEncoding& damage);

  // engine_catalog.cc
  int64_t DocumentCount(absl::string_view ns);
  void SetDocumentCount(absl::string_view ns, std::optional<int64_t> count);

  // engine_namespaces.cc
  absl::Status LoadNamespaces();
  absl::Status ForgetNamespace(absl::string_view ns);  // its limits

  // engine_verify.cc
  // Whether the encoding was read back for a suspicion lately; it counts as such from now on.
  bool NoteSuspect(uint64_t sequence);
  void VerifyIndex(std::vector<std::string>* problems);
  void VerifyCatalog(const IndexSnapshot& now, std::vector<std::string>* problems);
  // Whether the table has what the index has under this key.
  bool Serves(const EncodingKey& key, const Location& location);

  // engine_scrub.cc
  // Reads an encoding back from the segments, a few layers at a time and in the background, and checks it; what is
  // wrong or cannot be read is read once more. `next` is asked before each layer is read, with its bytes; false ends it
  // with CANCELLED. DATA_LOSS: damaged. UNAVAILABLE: it cannot be read now. NOT_FOUND: removed meanwhile.
  absl::Status VerifyEncoding(const EntryUse& use, const std::function<bool(int64_t)>& next);
  absl::Status ReadBack(const EntryUse& use, const std::function<bool(int64_t)>& next);
  // An encoding that failed while it was read: it is read back by the checker, and dropped if it fails again.
  struct Check {
    EncodingKey key;
    uint64_t sequence = 0;
    bool counted = false;  // as an integrity failure
  };
  void AskCheck(const EncodingKey& key, uint64_t sequence, bool counted);
  // Until no check of it waits or runs, or the deadline has passed.
  void AwaitCheck(uint64_t sequence, absl::Time deadline);
  std::optional<Check> NextCheck(absl::Time until);
  void CheckOne(const Check& check);
  bool closing() const;
  bool PaceScrub(int64_t bytes, absl::Time* free_at);
  bool ScrubRound();
  void RunChecks();

  // engine_write.cc
  absl::Status TakeSlabs(const std::shared_ptr<const Manifest>& manifest,
                         absl::Span<const absl::Span<const std::byte>> slabs, PendingPut* put);
  // Whether the manifest is complete, and of slabs of these lengths without gaps.
  static absl::Status CheckPut(const Manifest& manifest, absl::Span<const int64_t> lengths);
  // What must hold before any put begins: writable, not on a disk that is full.
  absl::Status CheckRoomToWrite();
  std::shared_ptr<PendingPut> NewPut(EncodingKey key, const Manifest& manifest);
  // Writes `put`'s source and hands it to the committer. `verify` (may be empty: verified already) runs in this thread
  // while the disk writes.
  absl::Status StartPut(const std::shared_ptr<PendingPut>& put, const std::function<absl::Status()>& verify);
  // What ends each write of `put`: notes blocks that could not be written, and PartDone.
  RequestCutter::Done WriteDone(const std::shared_ptr<PendingPut>& put);
  // Of all of `put`'s source.
  absl::StatusOr<std::vector<IoRequest>> Writes(const std::shared_ptr<PendingPut>& put);
  // Subtracts `part` from put->left. The call that reaches zero hands the put to the committer.
  void PartDone(const std::shared_ptr<PendingPut>& put, int64_t part, const absl::Status& status);
  void EndPush(const std::shared_ptr<PendingPut>& put, int64_t left, const absl::Status& status);
  // For the committer (group_commit.h): makes the records of those puts durable whose bytes are.
  void CommitGroup(const std::vector<std::shared_ptr<PendingPut>>& group);
  void FinishWinner(PendingPut* put, const absl::Status& committed);
  // Commits the batch together with the end of these encodings, and counts them in `reason`.
  absl::Status RemoveKeys(const std::vector<EncodingKey>& keys, IndexBatch* batch, std::atomic<int64_t>* reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);

  // engine_faults.cc
  // For the committer: makes the puts' bytes durable, notes what failed, and takes out what is written again.
  void FlushGroup(std::vector<std::shared_ptr<PendingPut>>* group);
  // Bytes [offset, offset + length) of the encoding could not be written.
  void NoteBadBlocks(PendingPut* put, int64_t offset, int64_t length, const absl::Status& why);
  // Takes the blocks that are bad from the put. REQUIRES: nothing writes to its blocks any more.
  void LoseBadBlocks(PendingPut* put);
  // The same, and the others come back to the table.
  void GiveBackBlocks(PendingPut* put);
  // Those of the blocks that cannot be written by themselves either, ascending as they do; for a bounded time.
  std::vector<Run> ProbeBlocks(const std::vector<Run>& blocks);
  // Writes a put that the device refused once more, elsewhere. False: it stays refused.
  bool WriteAgain(const std::shared_ptr<PendingPut>& put);
  absl::Status LoadBadBlocks();
  void KeepBadBlocks();
  void SealWornSegments();
  void Seal(uint32_t segment);

  // engine_space.cc
  absl::StatusOr<Runs> AllocateBlocks(absl::string_view ns, int64_t blocks);
  // INVALID_ARGUMENT, naming the limit: an encoding of so many bytes can never be stored here.
  absl::Status CheckSize(int64_t bytes) const;
  absl::Status NoRoom(absl::string_view ns, int64_t blocks, bool quota) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Removes what the table picked and counts it in `reason`. How many blocks that was.
  absl::StatusOr<int64_t> Evict(std::vector<EncodingKey> victims, std::atomic<int64_t>* reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  bool CanGrow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Adds a segment. False if the capacity or the disk has no room for one, or none could be made for a while.
  absl::StatusOr<bool> Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // What Grow answers where a segment could not be made although there is space.
  absl::StatusOr<bool> GrowFailed(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // What the segments may hold at most, and what they can hold now: without bad blocks and, where none can be added,
  // new segments.
  int64_t MaxBlocks() const;
  int64_t LimitBlocks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Empties and removes segments beyond the capacity, as far as what lies there may go.
  void Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  void AskMaintenance();
  void Maintain();

  const EngineOptions options_;
  const FileSystem files_;
  Counters counters_;
  std::unique_ptr<StoreDirectory> directory_;
  std::unique_ptr<Index> index_;
  std::unique_ptr<SegmentFiles> segments_;
  Table table_;
  std::unique_ptr<BulkIo> io_;
  std::unique_ptr<DramTier> tier_;
  std::unique_ptr<GroupCommit> group_commit_;

  int64_t capacity_ = 0;
  absl::Status unwritable_;  // why a store that was to be written was opened for reading only

  Mutex space_mutex_;
  int64_t free_when_full_ ABSL_GUARDED_BY(space_mutex_) = 0;                    // on the disk when growing failed last
  absl::Time grow_again_ ABSL_GUARDED_BY(space_mutex_) = absl::InfinitePast();  // at the latest
  // Since the last segment was added: how often growing failed for another reason than space, and when it first did.
  int grow_failures_ ABSL_GUARDED_BY(space_mutex_) = 0;
  absl::Time grow_fails_since_ ABSL_GUARDED_BY(space_mutex_);
  absl::Status grow_failure_
      ABSL_GUARDED_BY(space_mutex_);  // why the store makes do with its segments until grow_again_
  Mutex commit_mutex_;
  Mutex documents_mutex_;  // taken for moments; whoever changes the index writes under commit_mutex_ as well
  std::map<std::string, int64_t> documents_ ABSL_GUARDED_BY(documents_mutex_);  // per namespace, tombstones excluded
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<bool> disk_full_{false};  // growing failed; tried again when space was added or something deleted
  std::atomic<bool> reserve_spent_{false};

  Mutex loads_mutex_;
  CondVar loads_changed_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Load>> loads_ ABSL_GUARDED_BY(loads_mutex_);  // by sequence

  Mutex damage_mutex_;
  std::deque<DamagedEncoding> recent_damage_ ABSL_GUARDED_BY(damage_mutex_);
  Mutex suspects_mutex_;
  absl::flat_hash_set<uint64_t> suspects_ ABSL_GUARDED_BY(suspects_mutex_);  // sequences
  std::deque<std::pair<absl::Time, uint64_t>> suspects_in_order_ ABSL_GUARDED_BY(suspects_mutex_);

  mutable Mutex check_mutex_;
  CondVar check_wake_;  // a check came or ended, or the engine is closing
  std::deque<Check> checks_ ABSL_GUARDED_BY(check_mutex_);
  absl::flat_hash_set<uint64_t> checking_ ABSL_GUARDED_BY(check_mutex_);  // sequences of those that wait or run
  bool stop_checking_ ABSL_GUARDED_BY(check_mutex_) = false;
  Thread checker_;

  Mutex maintain_mutex_;
  CondVar maintain_wake_;
  bool maintain_asked_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  Thread maintainer_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_ENGINE_H_
