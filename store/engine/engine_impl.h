// The implementation of Engine. Included only by store/engine/*.cc.
//
// Lock order: space_mutex_ (growing, evicting), commit_mutex_ (one change of the index at a time; the table follows it
// before the next), then the locks that guard individual members, and the locks inside the table, the tier and the
// files.
#ifndef KVLINK_STORE_ENGINE_ENGINE_IMPL_H_
#define KVLINK_STORE_ENGINE_ENGINE_IMPL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/engine/disk/bulk_io.h"
#include "store/engine/disk/io_observer.h"
#include "store/engine/disk/segment_files.h"
#include "store/engine/disk/store_directory.h"
#include "store/engine/engine.h"
#include "store/engine/index/namespace_settings.h"
#include "store/engine/index/table.h"
#include "store/engine/index/table_loader.h"
#include "store/engine/memory/dram_tier.h"
#include "store/engine/request_cutter.h"

namespace kvlink::engine {

// Keys that a walk over the index reads at once.
inline constexpr int64_t kKeysAtOnce = 256;
// Index metadata: the number of documents of each namespace.
inline constexpr absl::string_view kDocumentsPrefix = "documents/";

class EngineImpl;
class GroupCommit;
class Index;
class IndexBatch;
class IndexSnapshot;
struct PendingPut;

// Parses the manifest in an area read from a segment. An etag is the hash of the whole manifest, so a manifest with the
// location record's etag is the one that was stored. DATA_LOSS: it is another one, or not a manifest. UNIMPLEMENTED:
// written by another build.
absl::StatusOr<Manifest> StoredManifest(const Pages& area, const EncodingKey& key, const Location& location);

class EncodingLeaseImpl final : public EncodingLease {
 public:
  EncodingLeaseImpl(EngineImpl* engine, EntryUse use, ResidentLease resident, bool from_dram)
      : engine_(engine), use_(std::move(use)), resident_(std::move(resident)), from_dram_(from_dram) {}
  const Manifest& manifest() const override { return resident_->manifest(); }
  bool from_dram() const override { return from_dram_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override;
  absl::Span<const std::byte> layer(int64_t layer) const override { return resident_->slab(layer); }
  void OnLayerRead(int64_t layer, std::function<void(const absl::Status&)> arrived) override;
  Place place(int64_t layer) const override { return resident_->place(layer); }
  uint64_t residency() const override { return resident_->number(); }
  void MakeRevocable() override { resident_.MakeRevocable(); }
  uint64_t generation_slot() const override { return resident_->generation().number(); }
  uint64_t generation() const override { return resident_->generation().generation(); }

 private:
  EngineImpl* const engine_;
  const EntryUse use_;
  ResidentLease resident_;
  const bool from_dram_;
};

class StreamingPutImpl final : public StreamingPut {
 public:
  StreamingPutImpl(EngineImpl* engine, EncodingKey key, PutMode mode, std::shared_ptr<Residency> residency);
  ~StreamingPutImpl() override;
  StreamingPutImpl(const StreamingPutImpl&) = delete;
  StreamingPutImpl& operator=(const StreamingPutImpl&) = delete;
  absl::Status Reserve(int64_t layer) override;
  absl::Span<std::byte> slab(int64_t layer) const override { return residency_->slab(layer); }
  Place place(int64_t layer) const override { return residency_->place(layer); }
  absl::Status Accept(const Manifest& manifest) override;
  absl::Status WriteLayer(int64_t layer) override;

 private:
  friend class EngineImpl;
  absl::Status SubmitVerified();
  // Detaches the PendingPut, which the caller must end. *left: bytes never submitted, plus one.
  std::shared_ptr<PendingPut> Release(int64_t* left);

  EngineImpl* const engine_;
  const EncodingKey key_;
  const PutMode mode_;
  std::shared_ptr<Residency> residency_;
  std::vector<int64_t> lengths_;     // of the layers
  std::shared_ptr<PendingPut> put_;  // from Accept to Release
  std::unique_ptr<RequestCutter> writes_;
  size_t cut_layers_ = 0;  // layers already cut into writes
  int64_t submitted_bytes_ = 0;
  std::vector<bool> verified_;  // by layer
  absl::Status failure_;
  std::vector<bool> reserved_;  // by layer; used only by Reserve
};

class EngineImpl final : public Engine {
 public:
  // `unwritable`: why the engine is open read-only although write access was requested.
  explicit EngineImpl(const EngineOptions& options, absl::Status unwritable = absl::OkStatus());
  ~EngineImpl() override;
  // Call once, first. Errors as Engine::Open; after an error only the destructor may be called.
  absl::Status Start(const std::string& directory);

  std::optional<Info> Find(const EncodingKey& key) override;
  absl::StatusOr<std::unique_ptr<EncodingLease>> Read(const EncodingKey& key, const Etag& etag,
                                                      absl::Time deadline) override;
  absl::StatusOr<PutOutcome> Put(absl::string_view ns, const Manifest& manifest,
                                 absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline, PutMode mode,
                                 const std::function<absl::Status()>& admit) override;
  absl::StatusOr<std::unique_ptr<StreamingPut>> BeginPush(const EncodingKey& key, absl::Span<const int64_t> lengths,
                                                          PutMode mode) override;
  void CommitPush(std::unique_ptr<StreamingPut> push, std::function<void(absl::StatusOr<PutOutcome>)> done,
                  std::function<absl::Status()> admit) override;
  absl::Status Touch(const EncodingKey& key) override;
  absl::Status Prefetch(const EncodingKey& key, absl::Time deadline) override;
  absl::Status Suspect(const EncodingKey& key) override;
  absl::StatusOr<uint64_t> Pin(const EncodingKey& key) override;
  absl::Status Unpin(const EncodingKey& key, std::optional<uint64_t> sequence) override;
  absl::Status Remove(absl::string_view ns, const Identity& identity) override;
  std::vector<SlotDigest> SlotDigests(absl::Span<const uint16_t> slots) override;
  std::vector<SlotEntry> ListSlot(int slot, const std::optional<EncodingKey>& after, int64_t limit) override {
    return table_.ListSlot(slot, after, static_cast<size_t>(std::max<int64_t>(limit, 0)));
  }
  bool HasRoom(absl::string_view ns, int64_t bytes) override;
  absl::Status RemoveEncoding(const EncodingKey& key, const Etag& etag) override;
  absl::Status Drop(absl::Span<const DroppedName> names, const DropPosition& position) override;
  absl::Status DropAll(const DropPosition& position) override;
  DropPosition dropped() const override;
  absl::Status PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) override;
  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutEntries(absl::string_view ns,
                                                                   absl::Span<const EntryPut> puts) override;
  absl::StatusOr<CatalogEntry> GetEntry(absl::string_view ns, absl::string_view id) override;
  absl::StatusOr<std::vector<Document>> ListEntries(absl::string_view ns, absl::string_view after,
                                                    int64_t limit) override;
  absl::StatusOr<std::vector<std::string>> ListIds(absl::string_view ns, absl::string_view after,
                                                   absl::string_view prefix, int64_t limit, bool deleted) override;
  absl::Status EraseEntry(absl::string_view ns, absl::string_view id) override;
  absl::StatusOr<NamespaceSettings> PutNamespace(absl::string_view ns, const NamespaceChange& change) override;
  absl::StatusOr<NamespaceDeleted> DeleteNamespace(absl::string_view ns) override;
  absl::Status ReplaceNamespaces(const std::map<std::string, NamespaceSettings>& all) override;
  std::map<std::string, NamespaceSettings> NamespaceSettingsAll() override;
  void SetShareOfLimits(double share) override;
  double share_of_limits() const override { return table_.share(); }
  void SetOwnedSlots(const std::bitset<kSlots>& owned) override { table_.SetOwned(owned); }
  NodeId id() const override { return directory_->identity()->uuid; }
  uint64_t incarnation() const override { return incarnation_; }
  uint64_t Now() override;
  int generations_descriptor() const override { return tier_->generations().descriptor(); }
  int64_t generations_bytes() const override { return options_.share_memory ? tier_->generations().bytes() : 0; }
  absl::StatusOr<std::vector<Manifest>> ListManifests(absl::string_view ns, const Identity& after,
                                                      int64_t limit) override;
  Statistics Stats() override;
  absl::StatusOr<VerifyOutcome> Verify(const std::function<bool(int64_t, int64_t)>& progress) override;
  void DropDramTier() override;

 private:
  friend class EncodingLeaseImpl;
  friend class StreamingPutImpl;
  struct TierCounters {
    std::atomic<int64_t> hits{0}, tokens{0}, bytes{0};
  };
  struct Counters {
    TierCounters dram, segments;
    std::atomic<int64_t> misses{0}, bytes_read{0}, bytes_written{0};
    std::atomic<int64_t> pushes_open{0}, puts_in_flight{0}, loads_in_flight{0};
    std::atomic<int64_t> bytes_written_in_place{0}, puts_written_again{0}, failed_flushes{0};
    std::atomic<int64_t> evicted_capacity{0}, evicted_quota{0}, removed{0}, unreferenced{0}, dropped_damaged{0};
    std::atomic<int64_t> replaced{0};
    std::atomic<int64_t> integrity_failures{0}, double_claims{0};
    std::atomic<int64_t> scrubbed_encodings{0}, scrubbed_bytes{0}, scrub_rounds{0}, scrub_damaged{0};
    std::atomic<int64_t> reads_repeated{0};
  };

  // engine.cc
  absl::Status OpenSegments();
  absl::Status OpenIndex();
  absl::Status LoadTable();
  absl::Status LoadCapacity();
  // The error for segments that are named by the index but missing.
  absl::Status MissingSegments(const TableLoader::Outcome& loaded) const;
  absl::Status StartMemory();
  void Close();
  // Commits a batch; on a full disk releases the reserve and retries.
  absl::Status CommitBatch(IndexBatch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  absl::Status Writable() const;

  // engine_identity.cc
  // Resumes the clock from its stored value, and starts a new incarnation.
  absl::Status StartIncarnation();
  void KeepTime(IndexBatch* batch) const;

  // engine_read.cc
  struct Held {
    EntryUse use;
    ResidentLease resident;
    bool from_dram = false;
  };
  // A load that is making room; other readers of the encoding wait for it.
  struct Load {
    Eviction evict = Eviction::kNothing;  // what the loading thread may evict to make room
    bool begun = false;
    absl::Status status;
  };
  // Leases the encoding held by `use`, loading it if it is not resident.
  absl::StatusOr<Held> Hold(EntryUse use, Eviction evict, absl::Time deadline);
  absl::StatusOr<ResidentLease> StartLoad(const EntryUse& use, Eviction evict, absl::Time deadline);
  // Reads the manifest stored before the slabs and checks that it is the encoding's. DATA_LOSS: it is not, or cannot be
  // read; the checker then looks at the encoding (AwaitCheck). UNAVAILABLE: it cannot be read now. NOT_FOUND: removed
  // meanwhile. DEADLINE_EXCEEDED.
  absl::StatusOr<Manifest> ReadManifest(const EntryUse& use, bool background, absl::Time deadline);
  // The manifest's bytes, unchecked; a failed read is retried once. Errors as ReadManifest, but requests no check.
  absl::StatusOr<Pages> ReadManifestArea(const EntryUse& use, bool background, absl::Time deadline);
  // Returns the requests that read an encoding's slabs from the segments, in layer order; each is retried once if it
  // fails. `held` lives until the last one has ended.
  absl::StatusOr<std::vector<IoRequest>> ReadRequests(const std::shared_ptr<Residency>& to, const Location& location,
                                                      bool background, std::shared_ptr<void> held);
  // Returns the requests that write a put's manifest and, after it, its source.
  absl::StatusOr<std::vector<IoRequest>> WriteRequests(const std::shared_ptr<PendingPut>& put);
  // Call after adding a residency to the tier: applies to it what happened to the encoding meanwhile (a replacement, a
  // pin). REQUIRES: the residency is held.
  void FollowTable(const EncodingKey& key, uint64_t sequence, const Residency* only);
  // Makes a read request retry itself once if it fails.
  void ReadTwice(IoRequest* request);
  // The encoding's bytes are wrong (`what`): counts and reports that, and stops serving it.
  void DropDamaged(const EncodingKey& key, uint64_t sequence, absl::string_view what, bool count = true);
  // Returns false if it was dropped already.
  bool DropLocked(const EncodingKey& key, uint64_t sequence, bool count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  std::vector<std::string> DocumentsOf(const EncodingKey& key) const;
  void NoteDamage(const DamagedEncoding& damage);

  // engine_catalog.cc
  int64_t DocumentCount(absl::string_view ns);
  void SetDocumentCount(absl::string_view ns, std::optional<int64_t> count);

  // engine_drops.cc
  absl::Status LoadDropPosition();

  // engine_namespaces.cc
  absl::Status LoadNamespaces();
  absl::Status ForgetNamespace(absl::string_view ns);  // removes its limits

  // engine_verify.cc
  // Returns whether the encoding was recently read back after a suspicion; records it as such from now on.
  bool NoteSuspect(uint64_t sequence);
  void VerifyIndex(std::vector<std::string>* problems);
  void VerifyCatalog(const IndexSnapshot& now, std::vector<std::string>* problems);
  // Whether the table holds what the index has under this key.
  bool Serves(const EncodingKey& key, const Location& location);

  // engine_scrub.cc
  // Reads an encoding back from the segments, a few layers at a time and in the background, and checks it; bytes that
  // are wrong or unreadable are read once more. Calls `next` with each layer's size before reading it; if that returns
  // false, ends with CANCELLED. DATA_LOSS: damaged. UNAVAILABLE: it cannot be read now. NOT_FOUND: removed meanwhile.
  absl::Status VerifyEncoding(const EntryUse& use, const std::function<bool(int64_t)>& next);
  absl::Status ReadBack(const EntryUse& use, const std::function<bool(int64_t)>& next);
  // An encoding that failed while it was read. The checker reads it back, and drops it if it fails again.
  struct Check {
    EncodingKey key;
    uint64_t sequence = 0;
    bool counted = false;  // already counted as an integrity failure
  };
  void AskCheck(const EncodingKey& key, uint64_t sequence, bool counted);
  // Waits until no check of it is queued or running, or until the deadline.
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
  // Checks that the manifest is complete and describes slabs of these lengths without gaps.
  static absl::Status CheckPut(const Manifest& manifest, absl::Span<const int64_t> lengths);
  // Checks the preconditions of every put: the store is writable, and the disk is not full.
  absl::Status CheckRoomToWrite();
  // INVALID_ARGUMENT: the encoding or its manifest is too large to be stored.
  absl::StatusOr<std::shared_ptr<PendingPut>> NewPut(EncodingKey key, const Manifest& manifest, PutMode mode);
  // Writes the put's source and hands it to the committer. `verify` (empty if already verified) runs on this thread
  // while the disk writes.
  absl::Status StartPut(const std::shared_ptr<PendingPut>& put, const std::function<absl::Status()>& verify);
  // Returns the completion for each write of `put`: it records blocks that could not be written, and calls PartDone.
  RequestCutter::Done WriteDone(const std::shared_ptr<PendingPut>& put);
  // Subtracts `part` from put->left. The call that reaches zero hands the put to the committer.
  void PartDone(const std::shared_ptr<PendingPut>& put, int64_t part, const absl::Status& status);
  void EndPush(const std::shared_ptr<PendingPut>& put, int64_t left, const absl::Status& status);
  // Called by the committer (group_commit.h): makes the records of puts durable once their bytes are.
  void CommitGroup(const std::vector<std::shared_ptr<PendingPut>>& group);
  // Moves puts that are no longer admitted to `refused`.
  void AskAdmission(std::vector<std::shared_ptr<PendingPut>>* puts,
                    std::vector<std::pair<std::shared_ptr<PendingPut>, absl::Status>>* refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  // Returns the puts to be stored, at most one per key; the others go to `losers`.
  std::vector<std::shared_ptr<PendingPut>> Winners(const std::vector<std::shared_ptr<PendingPut>>& puts,
                                                   std::vector<std::shared_ptr<PendingPut>>* losers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  void FinishLoser(PendingPut* put, const std::optional<Location>& stored, const absl::Status& committed);
  void FinishWinner(PendingPut* put, const absl::Status& committed);
  // Commits the batch together with the removal of these encodings, and counts them in `reason`.
  absl::Status RemoveKeys(const std::vector<EncodingKey>& keys, IndexBatch* batch, std::atomic<int64_t>* reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);

  // engine_faults.cc
  // Called by the committer: makes the puts' bytes durable, records failures, and removes puts that are being written
  // again from the group.
  void FlushGroup(std::vector<std::shared_ptr<PendingPut>>* group);
  // Bytes [offset, offset + length) of the stored encoding, manifest included, could not be written.
  void NoteBadBlocks(PendingPut* put, int64_t offset, int64_t length, const absl::Status& why);
  // Takes the bad blocks away from the put. REQUIRES: no write to its blocks is in progress.
  void LoseBadBlocks(PendingPut* put);
  // Likewise, and returns the remaining blocks to the table.
  void GiveBackBlocks(PendingPut* put);
  // Returns those of the blocks that cannot be written individually either, in the same ascending order; runs for a
  // bounded time.
  std::vector<Run> ProbeBlocks(const std::vector<Run>& blocks);
  // Writes a put that the device refused once more, elsewhere. Returns false if it remains refused.
  bool WriteAgain(const std::shared_ptr<PendingPut>& put);
  absl::Status LoadBadBlocks();
  void KeepBadBlocks();
  void SealWornSegments();
  void Seal(uint32_t segment);

  // engine_space.cc
  absl::StatusOr<Runs> AllocateBlocks(absl::string_view ns, int64_t blocks);
  // INVALID_ARGUMENT, naming the limit: an encoding of this size, with its manifest, can never be stored here.
  absl::Status CheckSize(int64_t bytes) const;
  absl::Status NoRoom(absl::string_view ns, int64_t blocks, bool quota) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Removes the encodings that the table picked, counting them in `reason`. Returns the number of blocks.
  absl::StatusOr<int64_t> Evict(std::vector<EncodingKey> victims, std::atomic<int64_t>* reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  bool CanGrow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Adds a segment piece. Returns false if the capacity or the disk has no room for one, or if recent attempts failed.
  absl::StatusOr<bool> Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Grow's result if a segment could not be made although there is space.
  absl::StatusOr<bool> GrowFailed(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // The maximum number of blocks in segments, and the number they can hold now: without bad blocks and, if no segment
  // can be added, without new ones.
  int64_t MaxBlocks() const;
  int64_t LimitBlocks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mutex_);
  // Empties and removes segments beyond the capacity, as far as their contents may be evicted.
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
  uint64_t incarnation_ = 0;
  std::atomic<uint64_t> time_{0};  // the last value of Now()
  const absl::Status unwritable_;  // why a store meant to be writable was opened read-only

  Mutex space_mutex_;
  int64_t free_when_full_ ABSL_GUARDED_BY(space_mutex_) = 0;  // free disk space when growing last failed
  absl::Time grow_again_ ABSL_GUARDED_BY(space_mutex_) = absl::InfinitePast();  // when growing is retried at the latest
  // Since a segment was last added: how often growing failed for a reason other than space, and when it first did.
  int grow_failures_ ABSL_GUARDED_BY(space_mutex_) = 0;
  absl::Time grow_fails_since_ ABSL_GUARDED_BY(space_mutex_);
  absl::Status grow_failure_
      ABSL_GUARDED_BY(space_mutex_);  // why the store makes do with its segments until grow_again_
  Mutex commit_mutex_;
  mutable Mutex dropped_mutex_;  // held only briefly; dropped_ is changed under commit_mutex_ as well
  DropPosition dropped_ ABSL_GUARDED_BY(dropped_mutex_);
  Mutex documents_mutex_;  // held only briefly; writers hold commit_mutex_ as well
  std::map<std::string, int64_t> documents_ ABSL_GUARDED_BY(documents_mutex_);  // per namespace, tombstones excluded
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<bool> disk_full_{false};  // growing failed; retried when space was added or something deleted
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
  CondVar check_wake_;  // a check was added or ended, or the engine is closing
  std::deque<Check> checks_ ABSL_GUARDED_BY(check_mutex_);
  absl::flat_hash_set<uint64_t> checking_ ABSL_GUARDED_BY(check_mutex_);  // sequences of queued and running checks
  bool stop_checking_ ABSL_GUARDED_BY(check_mutex_) = false;
  Thread checker_;

  Mutex maintain_mutex_;
  CondVar maintain_wake_;
  bool maintain_asked_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(maintain_mutex_) = false;
  Thread maintainer_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_ENGINE_IMPL_H_
