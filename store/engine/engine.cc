#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "base/thread.h"
#include "store/engine/engine_impl.h"
#include "store/engine/group_commit.h"
#include "store/engine/index/index.h"
#include "store/engine/index/log_check.h"
#include "store/engine/index/table_loader.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kMinMemory = 64 << 10;
constexpr absl::string_view kUuidName = "uuid";

constexpr absl::string_view kCapacityName = "capacity";
constexpr int64_t kDefaultCapacity = int64_t{64} << 30;

// Chooses segments large enough to keep files few, and small enough to keep a small store, or a store on a small disk,
// small. Segments of more than 256 MiB grow to their size.
int64_t ChooseSegmentBytes(int64_t capacity, int64_t free) {
  int64_t bytes = int64_t{4} << 30;
  const auto parts = [&bytes] { return bytes > (int64_t{256} << 20) ? 16 : 8; };
  while (bytes > (1 << 20) && bytes * parts() > std::min(capacity, free)) bytes /= 2;
  return bytes;
}

// Encodings are read through the DRAM tier: if it is too small, none can ever be read; if it exceeds the host's memory,
// that would fail only on use.
absl::Status CheckMemory(int64_t bytes) {
  const int64_t host = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (bytes < kMinMemory) {
    return absl::InvalidArgumentError(
        absl::StrCat("a DRAM tier of ", bytes, " bytes is too small for an encoding; use at least ", kMinMemory));
  }
  if (bytes > host) {
    return absl::InvalidArgumentError(
        absl::StrCat("a DRAM tier of ", bytes, " bytes on a host with ", host, " bytes of memory; use less"));
  }
  return absl::OkStatus();
}

// Whether a run lies beyond the end of its segment's usable blocks although the segment may have it. No put and no
// crash leaves that behind: the file was truncated.
bool CutOff(const SegmentFiles& segments, absl::Span<const Run> usable, const Run& run) {
  const uint32_t segment = segments.SegmentOf(run.first);
  const Run whole = segments.WholeRun(segment);
  const uint64_t end = uint64_t{run.first} + run.count;
  if (run.first < whole.first || end > uint64_t{whole.first} + whole.count) return false;
  return std::any_of(usable.begin(), usable.end(), [&](const Run& part) {
    return segments.SegmentOf(part.first) == segment && end > uint64_t{part.first} + part.count;
  });
}

// Classifies astray records whose blocks were cut off as missing, like those of a missing file, because the file may be
// restored.
absl::Status FindCutOff(const Index& index, const SegmentFiles& segments, TableLoader::Outcome* loaded) {
  if (loaded->astray.empty()) return absl::OkStatus();
  const std::set<EncodingKey> astray(loaded->astray.begin(), loaded->astray.end());
  const std::vector<Run> usable = segments.UsableRuns();
  loaded->astray.clear();
  return index.ScanLocations([&](const EncodingKey& key, const absl::StatusOr<Location>& location) {
    if (!location.ok() || !astray.contains(key)) return;
    std::vector<EncodingKey>* list = &loaded->astray;
    for (const Run& run : location->runs) {
      if (!CutOff(segments, usable, run)) continue;
      loaded->missing_segments.insert(segments.SegmentOf(run.first));
      list = &loaded->missing;
    }
    list->push_back(key);
  });
}

// Number of threads that read the index at open.
int LoadShards() { return static_cast<int>(std::min(AvailableProcessors(), 8)); }

}  // namespace

EngineImpl::EngineImpl(const EngineOptions& options, absl::Status unwritable)
    : options_(options), files_(options.observer), unwritable_(std::move(unwritable)) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const std::string& directory, const EngineOptions& options) {
  if (directory.empty()) return absl::InvalidArgumentError("the store needs a directory");
  if (options.capacity_bytes != 0 && options.capacity_bytes < 2 * kSegmentBlockBytes) {
    return absl::InvalidArgumentError("the store needs a capacity of at least 128 KiB");
  }
  KVLINK_RETURN_IF_ERROR(CheckMemory(options.dram_bytes));
  if (options.scrub_bytes_per_second < 0) return absl::InvalidArgumentError("the scrub rate must not be negative");
  if (options.pinned_bytes.value_or(0) < 0)
    return absl::InvalidArgumentError("the limit of pinned bytes must not be negative");
  if (options.segment_bytes % kSegmentBlockBytes != 0 || options.segment_bytes < 0) {
    return absl::InvalidArgumentError("the size of segments must be a multiple of 64 KiB");
  }
  if (options.segment_piece_bytes % kSegmentBlockBytes != 0 || options.segment_piece_bytes < 0 ||
      options.segment_piece_bytes == kSegmentBlockBytes) {
    return absl::InvalidArgumentError("the size of segment pieces must be a multiple of 64 KiB and at least 128 KiB");
  }
  std::string path = directory;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  auto engine = std::make_unique<EngineImpl>(options);
  const absl::Status started = engine->Start(path);
  if (started.ok()) return std::unique_ptr<Engine>(std::move(engine));
  // On a completely full disk the index cannot even be opened for writing. Reading needs no space.
  if (options.read_only || !absl::IsResourceExhausted(started) ||
      !absl::StrContains(started.message(), std::strerror(ENOSPC))) {
    return started;
  }
  EngineOptions reading = options;
  reading.read_only = true;
  reading.scrub_bytes_per_second = 0;
  engine = nullptr;  // releases the lock
  engine = std::make_unique<EngineImpl>(reading, started);
  if (!engine->Start(path).ok()) return started;
  return std::unique_ptr<Engine>(std::move(engine));
}

absl::Status EngineImpl::Start(const std::string& directory) {
  RaiseDescriptorLimit();
  KVLINK_ASSIGN_OR_RETURN(directory_, StoreDirectory::Open(files_, directory, options_.create, options_.read_only));
  // There may be many segments, so they are opened concurrently with the index. For a new store, the index must
  // determine the identity first.
  absl::Status segments;
  Thread opening;
  const auto open_segments = [this, &segments] { segments = OpenSegments(); };
  if (directory_->identity().has_value()) opening = Thread("open-segments", open_segments);
  const absl::Status index = OpenIndex();
  if (opening.joinable()) {
    opening.Join();
  } else if (index.ok()) {
    open_segments();
  }
  KVLINK_RETURN_IF_ERROR(index);
  KVLINK_RETURN_IF_ERROR(segments);
  KVLINK_RETURN_IF_ERROR(StartIncarnation());
  if (!options_.read_only) {
    reserve_spent_ = !directory_->RestoreReserve().ok();
    // The log's contents are now in tables, and the log is gone.
    const DurableManifest::State manifest = index_->durable_manifest();
    directory_->RaiseFloor({index_->LastSequence(), manifest.number, manifest.bytes}).IgnoreError();
  }
  KVLINK_RETURN_IF_ERROR(LoadTable());
  KVLINK_RETURN_IF_ERROR(StartMemory());
  if (!options_.read_only) {
    group_commit_ = std::make_unique<GroupCommit>([this](GroupCommit::Group* group) { FlushGroup(group); },
                                                  [this](const GroupCommit::Group& group) { CommitGroup(group); });
    maintainer_ = Thread("engine-maintain", [this] { Maintain(); });
    AskMaintenance();  // the stored data may exceed the capacity
  }
  checker_ = Thread("engine-check", [this] { RunChecks(); });
  return absl::OkStatus();
}

absl::Status EngineImpl::OpenSegments() {
  KVLINK_ASSIGN_OR_RETURN(segments_, SegmentFiles::Open(files_, {.path = directory_->segments_path(),
                                                                 .uuid = directory_->identity()->uuid,
                                                                 .segment_bytes = directory_->identity()->segment_bytes,
                                                                 .piece_bytes = options_.segment_piece_bytes,
                                                                 .allow_direct = options_.allow_direct,
                                                                 .read_only = options_.read_only,
                                                                 .max_open = options_.max_open_segments}));
  return absl::OkStatus();
}

absl::Status EngineImpl::OpenIndex() {
  const bool fresh = !directory_->identity().has_value();
  const auto advice = [&](const absl::Status& status) {
    if (!absl::IsDataLoss(status)) return status;
    return absl::DataLossError(
        absl::StrCat(status.message(), "; the index at ", directory_->index_path(),
                     " is damaged: restore the store from a copy, or move it away and ingest again"));
  };
  StoreDirectory::Floor floor;
  if (!fresh) {
    const absl::Status logs = CheckLogs(files_, directory_->index_path());
    if (!logs.ok()) return advice(logs);
    // A lost floor is no data loss, but verify reports it.
    const auto stored_floor = directory_->GetFloor();
    if (!stored_floor.ok() && !absl::IsDataLoss(stored_floor.status())) return stored_floor.status();
    if (stored_floor.ok()) floor = *stored_floor;
    const absl::Status manifest = CutTornManifest(files_, directory_->index_path(), floor.manifest_number,
                                                  floor.manifest_bytes, options_.read_only);
    if (!manifest.ok()) return advice(manifest);
  }
  const auto flushed = [this](uint64_t sequence, const DurableManifest::State& manifest) {
    // If raising it fails, only a check is lost.
    if (!options_.read_only) directory_->RaiseFloor({sequence, manifest.number, manifest.bytes}).IgnoreError();
  };
  const Index::Options open = {
      .create = fresh, .read_only = options_.read_only, .observer = options_.observer, .flushed = flushed};
  auto index = Index::Open(directory_->index_path(), open);
  if (absl::IsResourceExhausted(index.status()) && !options_.read_only) {
    KVLINK_RETURN_IF_ERROR(directory_->ReleaseReserve());
    index = Index::Open(directory_->index_path(), open);
  }
  if (!index.ok()) return advice(index.status());
  index_ = *std::move(index);

  const auto stored = index_->GetMeta(kUuidName);
  if (!stored.ok()) return advice(stored.status());
  Uuid uuid{};
  if (stored->has_value() && (*stored)->size() == uuid.size())
    std::copy((*stored)->begin(), (*stored)->end(), uuid.begin());
  if (!fresh) {
    if (uuid != directory_->identity()->uuid) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the index at ", directory_->index_path(), " belongs to store ", UuidHex(uuid),
          ", but the directory to store ", UuidHex(directory_->identity()->uuid), "; restore the right index"));
    }
    if (index_->LastSequence() < floor.sequence) {
      return advice(absl::DataLossError(
          absl::StrCat("the index ends at change ", index_->LastSequence(), " but once held change ", floor.sequence)));
    }
    return LoadCapacity();
  }
  KVLINK_RETURN_IF_ERROR(LoadCapacity());
  if (!stored->has_value()) {
    KVLINK_ASSIGN_OR_RETURN(uuid, NewUuid());
    IndexBatch batch(index_.get());
    batch.PutMeta(kUuidName, absl::string_view(reinterpret_cast<const char*>(uuid.data()), uuid.size()));
    KVLINK_RETURN_IF_ERROR(index_->Commit(&batch));
  }
  const auto free = files_.FreeSpace(directory_->segments_path());
  StoreDirectory::Identity identity;
  identity.uuid = uuid;
  identity.segment_bytes = options_.segment_bytes > 0 ? std::max(options_.segment_bytes, 2 * kSegmentBlockBytes)
                                                      : ChooseSegmentBytes(capacity_, free.ok() ? *free : capacity_);
  return directory_->SetIdentity(identity);
}

absl::Status EngineImpl::LoadCapacity() {
  KVLINK_ASSIGN_OR_RETURN(const auto stored, index_->GetMeta(kCapacityName));
  int64_t remembered = 0;
  if (stored.has_value() && stored->size() == 8) {
    remembered = static_cast<int64_t>(FieldReader(*stored).Read<uint64_t>());
  }
  capacity_ = options_.capacity_bytes > 0 ? options_.capacity_bytes : remembered;
  if (capacity_ < 2 * kSegmentBlockBytes) capacity_ = kDefaultCapacity;
  if (options_.read_only || capacity_ == remembered) return absl::OkStatus();
  std::string value;
  AppendField<uint64_t>(static_cast<uint64_t>(capacity_), &value);
  IndexBatch batch(index_.get());
  batch.PutMeta(kCapacityName, value);
  const absl::Status kept = index_->Commit(&batch);
  if (!absl::IsResourceExhausted(kept)) return kept;
  // On a full disk the capacity is kept for this opening only.
  index_->Resume().IgnoreError();
  return absl::OkStatus();
}

absl::Status EngineImpl::MissingSegments(const TableLoader::Outcome& loaded) const {
  const size_t others = loaded.missing_segments.size() - 1;
  size_t cut = 0;  // of these, files that exist
  for (const Run& run : segments_->UsableRuns()) cut += loaded.missing_segments.count(segments_->SegmentOf(run.first));
  const char* const state = cut == 0 ? " missing" : cut > others ? " cut short" : " missing or cut short";
  return absl::FailedPreconditionError(
      absl::StrCat("the index names ", segments_->PathOf(*loaded.missing_segments.begin()),
                   others > 0 ? absl::StrCat(" and ", others, " more segments, which are") : ", which is", state,
                   ", with ", loaded.missing.size(),
                   " encodings; mount the file system or restore the files, or give up the encodings (kvlink verify "
                   "--drop-missing)"));
}

absl::Status EngineImpl::LoadTable() {
  struct Shard {
    absl::Status status;
    std::vector<EncodingKey> damaged;
  };
  std::vector<Shard> shards(LoadShards());
  TableLoader loader(&table_, static_cast<int>(shards.size()));
  const auto load = [&](int number) {
    Shard& shard = shards[number];
    absl::Status refused;
    shard.status = index_->ScanLocations(number, static_cast<int>(shards.size()),
                                         [&](const KeyView& key, const absl::StatusOr<Location>& location) {
                                           if (location.ok()) {
                                             loader.Add(number, key, *location);
                                           } else if (absl::IsUnimplemented(location.status())) {
                                             refused = location.status();
                                           } else {
                                             shard.damaged.push_back(key.ToKey());
                                           }
                                         });
    if (shard.status.ok()) shard.status = refused;
  };
  std::vector<Thread> threads;
  for (size_t i = 1; i < shards.size(); ++i) {
    threads.emplace_back("load-shard", [&load, i] { load(static_cast<int>(i)); });
  }
  load(0);
  for (Thread& thread : threads) thread.Join();
  std::vector<EncodingKey> drop;
  for (Shard& shard : shards) {
    KVLINK_RETURN_IF_ERROR(shard.status);
    std::move(shard.damaged.begin(), shard.damaged.end(), std::back_inserter(drop));
  }
  TableLoader::Outcome loaded = loader.Finish(segments_->UsableRuns(), segments_->blocks_per_segment());
  KVLINK_RETURN_IF_ERROR(FindCutOff(*index_, *segments_, &loaded));
  if (!loaded.missing.empty() && !options_.drop_missing) return MissingSegments(loaded);
  // Astray records point to a header, or beyond the size of a segment.
  std::move(loaded.astray.begin(), loaded.astray.end(), std::back_inserter(drop));
  counters_.integrity_failures += static_cast<int64_t>(drop.size());
  counters_.double_claims += static_cast<int64_t>(loaded.claimed_twice.size());
  std::move(loaded.claimed_twice.begin(), loaded.claimed_twice.end(), std::back_inserter(drop));
  next_sequence_ = loaded.last_sequence + 1;
  KVLINK_RETURN_IF_ERROR(LoadNamespaces());
  KVLINK_RETURN_IF_ERROR(LoadDropPosition());
  KVLINK_RETURN_IF_ERROR(LoadBadBlocks());
  for (const uint32_t segment : segments_->unreadable()) Seal(segment);

  counters_.dropped_damaged = static_cast<int64_t>(drop.size());
  std::move(loaded.missing.begin(), loaded.missing.end(), std::back_inserter(drop));
  MutexLock lock(&commit_mutex_);
  if (!drop.empty() && !options_.read_only) {
    IndexBatch batch(index_.get());
    for (const EncodingKey& key : drop) batch.DeleteEncoding(key);
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto counters, index_->ListMeta(kDocumentsPrefix));
  MutexLock counting(&documents_mutex_);
  for (const auto& [name, value] : counters) {
    documents_[name.substr(kDocumentsPrefix.size())] = static_cast<int64_t>(FieldReader(value).Read<uint64_t>());
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::StartMemory() {
  io_ = NewBulkIo({.allow_uring = options_.allow_uring});
  DramTierOptions options;
  options.memory.limit = options_.dram_bytes;
  options.memory.shared = options_.share_memory;
  options.memory.chunk_ready = [this](const TierChunk& chunk) {
    io_->ChunkReady(chunk.number, chunk.data);
    if (options_.chunk_ready) options_.chunk_ready(chunk);
  };
  options.memory.chunk_leaves = [this](const TierChunk& chunk) {
    if (options_.chunk_leaves) options_.chunk_leaves(chunk);
    io_->ChunkLeaves(chunk.number);
  };
  options.memory.memory_added = options_.memory_added;
  options.memory.memory_gone = options_.memory_gone;
  options.memory.keep_unused = options_.keep_unused_memory;
  KVLINK_ASSIGN_OR_RETURN(tier_, DramTier::Create(std::move(options)));
  io_->DeclareMemory(tier_->chunk_bytes(), tier_->chunks());
  return absl::OkStatus();
}

EngineImpl::~EngineImpl() { Close(); }

void EngineImpl::Close() {
  if (maintainer_.joinable()) {
    {
      MutexLock lock(&maintain_mutex_);
      stop_ = true;
      maintain_wake_.Signal();
    }
    maintainer_.Join();
  }
  {
    MutexLock lock(&check_mutex_);
    stop_checking_ = true;
    check_wake_.SignalAll();
  }
  checker_.Join();
  // Stopped but not reset: writes that end meanwhile still reach it through this pointer.
  if (group_commit_ != nullptr) group_commit_->Stop();
  // The tier's memory is registered with the ring and read into by it, and the tier's arena announces chunks to it.
  if (tier_ != nullptr) tier_->StopGrowing();
  io_.reset();
  tier_.reset();
  if (index_ != nullptr) index_->Close().IgnoreError();  // the next open replays its log
}

absl::Status EngineImpl::Writable() const {
  if (!unwritable_.ok()) {
    return absl::ResourceExhaustedError(absl::StrCat("the store is read-only because its disk is full (",
                                                     unwritable_.message(), "); free space and open it again"));
  }
  if (options_.read_only) return absl::FailedPreconditionError("the store was opened read-only");
  return absl::OkStatus();
}

absl::Status EngineImpl::CommitBatch(IndexBatch* batch) {
  absl::Status status = index_->Commit(batch);
  if (status.ok()) return status;
  if (absl::IsResourceExhausted(status)) {
    reserve_spent_ = true;
    disk_full_ = true;
    KVLINK_RETURN_IF_ERROR(directory_->ReleaseReserve());
  }
  // After a failed write RocksDB refuses all writes until Resume. After a full disk it also retries by itself, every
  // five seconds, and is busy in the meantime.
  const absl::Time until = SteadyNow() + absl::Seconds(15);
  absl::Status resumed = index_->Resume();
  while (absl::IsAborted(resumed) && SteadyNow() < until) {
    absl::SleepFor(absl::Milliseconds(20));
    resumed = index_->Resume();
  }
  if (!resumed.ok()) {
    return absl::Status(
        status.code(), absl::StrCat(status.message(), "; reads continue, but the store must be opened again to write"));
  }
  return absl::IsResourceExhausted(status) ? index_->Commit(batch) : status;
}

absl::StatusOr<uint64_t> EngineImpl::Pin(const EncodingKey& key) {
  const int64_t max_bytes = options_.pinned_bytes.value_or(capacity_ / 2);
  KVLINK_ASSIGN_OR_RETURN(const Table::PinState state, table_.Pin(key, max_bytes));
  tier_->SetPinned(state.sequence, state.pinned);
  return state.sequence;
}

absl::Status EngineImpl::Unpin(const EncodingKey& key, std::optional<uint64_t> sequence) {
  KVLINK_ASSIGN_OR_RETURN(const Table::PinState state, table_.Unpin(key, sequence));
  tier_->SetPinned(state.sequence, state.pinned);
  return absl::OkStatus();
}

Engine::Statistics EngineImpl::Stats() {
  Statistics stats;
  stats.namespaces = table_.Namespaces();
  for (const NamespaceUse& ns : stats.namespaces) {
    stats.pinned_encodings += ns.pinned;
    stats.pinned_bytes += ns.pinned_bytes;
  }
  {
    MutexLock lock(&documents_mutex_);
    stats.documents = documents_;
  }
  stats.capacity_bytes = capacity_;
  stats.segment_bytes = segments_->bytes();
  stats.segment_bytes_used = table_.bytes();
  stats.dram_bytes = tier_->capacity();
  stats.dram_bytes_used = tier_->used();
  stats.dram_bytes_by_namespace = tier_->used_by_namespace();
  stats.hits_dram = counters_.dram.hits;
  stats.hit_tokens_dram = counters_.dram.tokens;
  stats.hit_bytes_dram = counters_.dram.bytes;
  stats.hits_segments = counters_.segments.hits;
  stats.hit_tokens_segments = counters_.segments.tokens;
  stats.hit_bytes_segments = counters_.segments.bytes;
  stats.misses = counters_.misses;
  stats.bytes_read = counters_.bytes_read;
  stats.bytes_written = counters_.bytes_written;
  stats.bytes_written_in_place = counters_.bytes_written_in_place;
  stats.evicted_capacity = counters_.evicted_capacity;
  stats.evicted_quota = counters_.evicted_quota;
  stats.evictions = stats.evicted_capacity + stats.evicted_quota;
  stats.removed = counters_.removed;
  stats.unreferenced = counters_.unreferenced;
  stats.replaced = counters_.replaced;
  stats.dropped_damaged = counters_.dropped_damaged;
  for (const Run& run : table_.bad_blocks()) stats.bad_blocks += run.count;
  stats.sealed_blocks = table_.unusable_blocks() - stats.bad_blocks;
  stats.puts_written_again = counters_.puts_written_again;
  stats.failed_flushes = counters_.failed_flushes;
  stats.open_segments = segments_->open_files();
  stats.scrubbed_encodings = counters_.scrubbed_encodings;
  stats.scrubbed_bytes = counters_.scrubbed_bytes;
  stats.scrub_rounds = counters_.scrub_rounds;
  stats.scrub_damaged = counters_.scrub_damaged;
  stats.reads_repeated = counters_.reads_repeated;
  {
    MutexLock lock(&damage_mutex_);
    stats.recent_damage.assign(recent_damage_.begin(), recent_damage_.end());
  }
  stats.loads_in_flight = counters_.loads_in_flight;
  stats.pushes_open = counters_.pushes_open;
  stats.puts_in_flight = counters_.puts_in_flight;
  stats.integrity_failures = counters_.integrity_failures;
  stats.double_claims = counters_.double_claims;
  stats.leases = tier_->leases();
  const BulkIo::Depths depths = io_->depths();
  stats.reads_waiting = depths.reads_waiting;
  stats.reads_in_flight = depths.reads_in_flight;
  stats.writes_waiting = depths.writes_waiting;
  stats.writes_in_flight = depths.writes_in_flight;
  stats.dram_evictions = tier_->evictions();
  stats.leases_revoked = tier_->revoked();
  stats.io = io_->Describe();
  stats.io += segments_->direct()     ? ", O_DIRECT"
              : options_.allow_direct ? ", buffered (the file system refuses O_DIRECT)"
                                      : ", buffered (O_DIRECT is disabled)";
  return stats;
}

void EngineImpl::DropDramTier() { tier_->Drop(); }

}  // namespace kvlink::engine
