// One node's shard: encodings in segment files and in the DRAM tier, the index and the catalog in RocksDB.
// What a caller may rely on is said in store/store.h; store/embedded puts that interface over this class.
//
// Thread-safety: all methods. Leases must be destroyed before the engine.
// Locks, in the order they are taken: space_mutex_ (growing, evicting), one of load_mutexes_ (making resident),
// commit_mutex_ (one change of the index at a time, and the table follows it before the next), then the locks inside of
// table, tier and files.
#ifndef KVLINK_STORE_ENGINE_ENGINE_H_
#define KVLINK_STORE_ENGINE_ENGINE_H_

#include <array>
#include <atomic>
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

namespace kvlink::engine {

class Engine;
class GroupCommit;
class Index;
class IndexBatch;
struct PendingPut;

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
  // Told of each chunk of that memory when its pages are there, before any of it is handed out; and when nothing of it
  // is in use any more, before its pages go back to the system. One call at a time, not while the engine opens; must
  // not call the engine. What a network needs registered follows the pages by these.
  std::function<void(const TierChunk&)> chunk_ready, chunk_leaves;
  // The background scrubber's limit. 0: none runs.
  int64_t scrub_bytes_per_second = 0;
};

// A reader's hold on an encoding; store::Lease says more.
class EncodingLease {
 public:
  using Place = engine::Place;
  const Manifest& manifest() const { return resident_->manifest(); }
  bool from_dram() const { return from_dram_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  absl::Span<const std::byte> layer(int64_t layer) const { return resident_->slab(layer); }
  // Calls `landed` once when the layer's bytes are there (read, not verified) or cannot be (why): within the call if
  // that is known already, else on a thread of the I/O, which it must not keep waiting.
  void OnLanded(int64_t layer, std::function<void(const absl::Status&)> landed);
  Place place(int64_t layer) const { return resident_->place(layer); }
  // Names this stay in memory: no other stay, of this encoding or another, has its number while the engine lives.
  uint64_t residency() const { return resident_->number(); }
  // The bytes are good while the generation of this slot has this value (Engine::generations_descriptor).
  uint64_t generation_slot() const { return resident_->generation().number(); }
  uint64_t generation() const { return resident_->generation().generation(); }

 private:
  friend class Engine;
  EncodingLease(Engine* engine, EntryUse use, ResidentLease resident, bool from_dram)
      : engine_(engine), use_(std::move(use)), resident_(std::move(resident)), from_dram_(from_dram) {}
  Engine* const engine_;
  const EntryUse use_;
  const ResidentLease resident_;
  const bool from_dram_;
};

// An encoding on its way here: memory in the DRAM tier that its owner fills, and, once its manifest is known, blocks to
// which each layer is written as soon as it is there. Ends in Engine::CommitPush, or is destroyed, which gives all
// back. Thread-safety: slab and place may be called at any time, of the others one at a time. Must be destroyed before
// the engine.
class PendingPush {
 public:
  ~PendingPush();
  PendingPush(const PendingPush&) = delete;
  PendingPush& operator=(const PendingPush&) = delete;
  // Writable, of the length that BeginPush was asked for.
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
  PendingPush(Engine* engine, EncodingKey key, std::shared_ptr<Residency> residency);
  void SubmitVerified();
  // Detaches the PendingPut, which the caller must end. *left: bytes never submitted, plus one.
  std::shared_ptr<PendingPut> Release(int64_t* left);

  Engine* const engine_;
  const EncodingKey key_;
  std::shared_ptr<Residency> residency_;
  std::vector<int64_t> lengths_;     // of layers
  std::shared_ptr<PendingPut> put_;  // from Accept to Release
  std::vector<IoRequest> writes_;    // of all layers, in their order; those before next_write_ are submitted
  size_t next_write_ = 0, verified_layers_ = 0;
  int64_t submitted_bytes_ = 0, verified_bytes_ = 0;  // of the layers before verified_layers_
  std::vector<bool> verified_;                        // by layer
  absl::Status failure_;
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
    int64_t capacity_bytes = 0;                              // of segment files
    int64_t segment_bytes = 0, segment_bytes_used = 0, dram_bytes = 0, dram_bytes_used = 0;
    int64_t hits_dram = 0, hits_segments = 0, misses = 0, bytes_read = 0, bytes_written = 0;
    int64_t bytes_written_in_place = 0;
    int64_t evictions = 0, integrity_failures = 0, double_claims = 0, leases = 0;
    std::string io;
    // By tier, of the encodings that Read gave leases on.
    int64_t hit_tokens_dram = 0, hit_tokens_segments = 0, hit_bytes_dram = 0, hit_bytes_segments = 0;
    // Why encodings left: `evictions` is the sum of the first two.
    int64_t evicted_capacity = 0;  // the store was full
    int64_t evicted_quota = 0;     // their namespace was
    int64_t removed = 0;           // Remove
    int64_t unreferenced = 0;      // no document refers to them any more
    int64_t dropped_damaged = 0;   // their bytes or records were wrong
    int64_t dram_evictions = 0;    // from memory only
    int64_t pinned_encodings = 0;
    int64_t loads_in_flight = 0;  // encodings being read from segments
    int64_t pushes_open = 0;      // begun, neither committed nor dropped
    int64_t puts_in_flight = 0;   // being written or made durable
    int64_t reads_waiting = 0, reads_in_flight = 0, writes_waiting = 0, writes_in_flight = 0;  // requests to the disk
    // What the device refused: blocks that are not used any more, blocks of segments that take no more writes, puts
    // that were written once more elsewhere, and flushes.
    int64_t bad_blocks = 0, sealed_blocks = 0, puts_written_again = 0, failed_flushes = 0;
    int64_t open_segments = 0;  // descriptors
    int64_t scrubbed_encodings = 0, scrubbed_bytes = 0, scrub_rounds = 0, scrub_damaged = 0;
  };
  struct Damage {
    EncodingKey key;
    std::string what;
  };
  struct VerifyOutcome {
    int64_t encodings = 0;
    int64_t bytes = 0;
    std::vector<Damage> damaged;
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
  // filled and committed. Whether the encoding is there already is not looked at (Find). INVALID_ARGUMENT: lengths.
  // RESOURCE_EXHAUSTED: the tier is full of what cannot leave.
  absl::StatusOr<std::unique_ptr<PendingPush>> BeginPush(const EncodingKey& key, absl::Span<const int64_t> lengths);
  // REQUIRES: Accept returned OK. Stores what was written of it, if that was every layer; its memory stays in the tier.
  // `done` is called exactly once: with an outcome from another thread, or within the call, when durable, or when
  // nothing of it is left, with an error as WriteLayer's or Put's. It must neither wait nor call the engine.
  void CommitPush(std::unique_ptr<PendingPush> push, std::function<void(absl::StatusOr<PutOutcome>)> done);
  // A use for the orders of eviction. NOT_FOUND.
  absl::Status Touch(const EncodingKey& key);
  // Starts loading into the DRAM tier; OK if it is there or on its way. NOT_FOUND, or errors as Read's.
  absl::Status Prefetch(const EncodingKey& key, absl::Time deadline);
  // A reader found wrong bytes: checks what is in memory and reads the segments again. OK: intact (what was wrong in
  // memory is forgotten and counted). DATA_LOSS: damaged, and dropped. NOT_FOUND: a miss.
  absl::Status Suspect(const EncodingKey& key);
  absl::Status Pin(const EncodingKey& key);
  absl::Status Unpin(const EncodingKey& key);
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
  absl::StatusOr<VerifyOutcome> Verify(const std::function<bool(int64_t, int64_t)>& progress);
  void DropDramTier();

 private:
  friend class EncodingLease;
  friend class GroupCommit;
  friend class PendingPush;
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
  // Leases what `use` names, loading it where it is not resident.
  absl::StatusOr<Held> Hold(EntryUse use, absl::Time deadline);
  absl::StatusOr<ResidentLease> Load(const EntryUse& use, std::shared_ptr<const Manifest> manifest,
                                     absl::Time deadline);
  absl::StatusOr<Manifest> ManifestOf(const EncodingKey& key, const Location& location);
  // Requests that move all of an encoding between memory and segments, in layer order; `done(offset, length, status)`
  // for each.
  absl::StatusOr<std::vector<IoRequest>> Requests(
      const Residency& residency, const Runs& runs, bool write,
      std::function<void(int64_t, int64_t, const absl::Status&)> done) const;
  // Its bytes are wrong: counts it, and the store stops serving it.
  void DropDamaged(const EncodingKey& key, uint64_t sequence, bool count = true);

  // engine_namespaces.cc
  absl::Status LoadNamespaces();
  absl::Status ForgetNamespace(absl::string_view ns);  // its limits

  // engine_verify.cc
  void VerifyIndex(std::vector<std::string>* problems);

  // engine_scrub.cc
  // Reads an encoding back from the segments, a few layers at a time, and checks it. `next` (may be empty) is asked
  // before each layer is read, with its bytes; false ends it with CANCELLED.
  absl::Status VerifyEncoding(const EntryUse& use, bool background, const std::function<bool(int64_t)>& next);
  bool PaceScrub(int64_t bytes, absl::Time* free_at);
  bool ScrubRound();
  void Scrub();

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
  // Of all of `put`'s source; each ends in PartDone.
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
  // The put's blocks come back to the table, but those that are bad.
  void GiveBackBlocks(PendingPut* put);
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
  absl::Status NoRoom(absl::string_view ns, int64_t blocks, bool quota) const;
  // Removes what the table picked and counts it in `reason`. How many blocks that was.
  absl::StatusOr<int64_t> Evict(std::vector<EncodingKey> victims, std::atomic<int64_t>* reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  bool CanGrow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Adds a segment. False if the capacity or the disk has no room for one.
  absl::StatusOr<bool> Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // What the segments may hold at most, and what they can hold now: without bad blocks and, on a full disk, new
  // segments.
  int64_t MaxBlocks() const;
  int64_t LimitBlocks() const;
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
  std::array<Mutex, 16> load_mutexes_;  // by sequence: what is loaded by one is not loaded by another at the same time
  Mutex commit_mutex_;
  std::map<std::string, int64_t> documents_ ABSL_GUARDED_BY(commit_mutex_);  // per namespace, tombstones excluded
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<bool> disk_full_{false};  // growing failed; tried again when space was added or something deleted
  std::atomic<bool> reserve_spent_{false};

  Mutex maintain_mutex_;
  CondVar maintain_wake_;
  bool maintain_asked_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  Thread maintainer_;
  CondVar scrub_wake_;
  Thread scrubber_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_ENGINE_H_
