// The engine's reading side: lookups, leases, loading in layer order. No lock is held while room is made or bytes are
// read; readers that want an encoding being loaded wait for that one load.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kMaxNamedDocuments = 16;  // that refer to one damaged encoding
constexpr size_t kMaxRecentDamage = 64;

}  // namespace

absl::StatusOr<Manifest> StoredManifest(const Pages& area, const EncodingKey& key, const Location& location) {
  auto manifest =
      ParseManifest({reinterpret_cast<const char*>(area.data()), static_cast<size_t>(location.manifest_bytes)});
  if (!manifest.ok()) {
    const std::string why = absl::StrCat("encoding ", key.identity.Hex(), ": ", manifest.status().message());
    return absl::IsUnimplemented(manifest.status()) ? absl::UnimplementedError(why) : absl::DataLossError(why);
  }
  if (manifest->etag != location.etag || manifest->identity != key.identity || manifest->codec != key.codec ||
      manifest->tokens != location.tokens || manifest->bytes() != location.bytes) {
    return absl::DataLossError(
        absl::StrCat("encoding ", key.identity.Hex(), ": manifest and location record do not agree"));
  }
  return manifest;
}

absl::Status EncodingLeaseImpl::WaitLayer(int64_t layer, absl::Time deadline) {
  const absl::Status status = resident_->WaitLayer(layer, deadline);
  // After an error about damage, a retrying caller finds the encoding gone or intact.
  if (absl::IsDataLoss(status)) engine_->AwaitCheck(use_.location().sequence, deadline);
  return status;
}

void EncodingLeaseImpl::OnLayerRead(int64_t layer, std::function<void(const absl::Status&)> arrived) {
  resident_->OnLayerRead(layer, std::move(arrived));
}

std::optional<Engine::Info> EngineImpl::Find(const EncodingKey& key) {
  std::optional<Location> location = table_.Find(key);
  if (!location.has_value()) {
    ++counters_.misses;
    return std::nullopt;
  }
  const bool resident = tier_->Resident(location->sequence);
  return Info{*std::move(location), resident};
}

absl::StatusOr<std::unique_ptr<EncodingLease>> EngineImpl::Read(const EncodingKey& key, const Etag& etag,
                                                                absl::Time deadline) {
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use || use.location().etag != etag) {
    ++counters_.misses;
    return absl::NotFoundError(use ? "a miss: the store holds another etag" : "a miss");
  }
  KVLINK_ASSIGN_OR_RETURN(Held held, Hold(std::move(use), Eviction::kAnything, deadline));
  const Location& location = held.use.location();
  TierCounters& hits = held.from_dram ? counters_.dram : counters_.segments;
  ++hits.hits;
  hits.tokens += location.tokens;
  hits.bytes += location.bytes;
  return std::make_unique<EncodingLeaseImpl>(this, std::move(held.use), std::move(held.resident), held.from_dram);
}

absl::StatusOr<EngineImpl::Held> EngineImpl::Hold(EntryUse use, Eviction evict, absl::Time deadline) {
  const uint64_t sequence = use.location().sequence;
  for (;;) {
    if (ResidentLease resident = tier_->Acquire(sequence)) {
      const bool from_dram = resident->complete();
      return Held{std::move(use), std::move(resident), from_dram};
    }
    // One of the readers loads it; the others wait only until room for it is found.
    std::shared_ptr<Load> load;
    bool mine = false;
    {
      MutexLock lock(&loads_mutex_);
      std::shared_ptr<Load>& entry = loads_[sequence];
      mine = entry == nullptr;
      if (mine) {
        entry = std::make_shared<Load>();
        entry->evict = evict;
      }
      load = entry;
      while (!mine && !load->begun) {
        if (!loads_changed_.WaitUntil(&loads_mutex_, deadline) && !load->begun) {
          return absl::DeadlineExceededError("read: the deadline passed while another read made room");
        }
      }
    }
    if (!mine) {
      if (absl::IsDataLoss(load->status)) AwaitCheck(sequence, deadline);
      // The other load's deadline is not this one's. And this read may be allowed to evict more, so it may find room
      // where the other did not.
      if (absl::IsDeadlineExceeded(load->status) && SteadyNow() < deadline) continue;
      if (!absl::IsResourceExhausted(load->status) || load->evict >= evict) KVLINK_RETURN_IF_ERROR(load->status);
      continue;
    }
    absl::StatusOr<ResidentLease> resident = StartLoad(use, evict, deadline);
    {
      MutexLock lock(&loads_mutex_);
      load->status = resident.status();
      load->begun = true;
      loads_.erase(sequence);
      loads_changed_.SignalAll();
    }
    // As for damage reported by WaitLayer.
    if (absl::IsDataLoss(resident.status())) AwaitCheck(sequence, deadline);
    KVLINK_RETURN_IF_ERROR(resident.status());
    return Held{std::move(use), *std::move(resident), false};
  }
}

absl::Status EngineImpl::Touch(const EncodingKey& key) {
  const EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use) return absl::NotFoundError("a miss: nothing to touch");
  tier_->Touch(use.location().sequence);
  return absl::OkStatus();
}

absl::Status EngineImpl::Prefetch(const EncodingKey& key, absl::Time deadline) {
  EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use) return absl::NotFoundError("a miss: nothing to prefetch");
  // The load continues without the lease.
  return Hold(std::move(use), Eviction::kBelowShare, deadline).status();
}

absl::StatusOr<Pages> EngineImpl::ReadManifestArea(const EntryUse& use, bool background, absl::Time deadline) {
  struct Reading {
    EntryUse use;  // keeps the blocks until the read has completed, even if the caller stops waiting
    Pages area;
    Mutex mutex;
    CondVar changed;
    int64_t left ABSL_GUARDED_BY(mutex) = 0;
    absl::Status status ABSL_GUARDED_BY(mutex);
  };
  const Location& location = use.location();
  const auto reading = std::make_shared<Reading>();
  reading->use = table_.Use(use.key(), /*touch=*/false);
  if (!reading->use || reading->use.location().sequence != location.sequence) {
    return absl::NotFoundError("a miss: removed meanwhile");
  }
  KVLINK_ASSIGN_OR_RETURN(reading->area, Pages::Heap(location.manifest_area()));
  RequestCutter cutter(segments_.get(), location.runs, tier_->chunk_bytes(), /*write=*/false,
                       [reading](int64_t, int64_t length, const absl::Status& status) {
                         MutexLock lock(&reading->mutex);
                         if (!status.ok() && reading->status.ok()) reading->status = status;
                         reading->left -= length;
                         reading->changed.SignalAll();
                       });
  KVLINK_RETURN_IF_ERROR(cutter.Add(absl::MakeSpan(reading->area.data(), reading->area.size())));
  std::vector<IoRequest> requests = cutter.Take(/*all=*/true);
  for (IoRequest& request : requests) {
    request.background = background;
    // The waiting thread has others to serve, and nothing else of the encoding can be requested before this.
    request.first = requests.size() == 1;
    ReadTwice(&request);
  }
  {
    MutexLock lock(&reading->mutex);
    reading->left = location.manifest_area();
  }
  io_->Submit(std::move(requests));
  MutexLock lock(&reading->mutex);
  while (reading->left > 0) {
    if (!reading->changed.WaitUntil(&reading->mutex, deadline) && reading->left > 0) {
      return absl::DeadlineExceededError("the manifest has not arrived before the deadline");
    }
  }
  KVLINK_RETURN_IF_ERROR(reading->status);
  return std::move(reading->area);
}

absl::StatusOr<Manifest> EngineImpl::ReadManifest(const EntryUse& use, bool background, absl::Time deadline) {
  const auto area = ReadManifestArea(use, background, deadline);
  if (absl::IsDataLoss(area.status())) AskCheck(use.key(), use.location().sequence, /*counted=*/false);
  KVLINK_RETURN_IF_ERROR(area.status());
  auto manifest = StoredManifest(*area, use.key(), use.location());
  // Written by another build: intact, but unreadable for this one.
  if (absl::IsUnimplemented(manifest.status())) {
    return absl::NotFoundError(absl::StrCat("a miss: ", manifest.status().message()));
  }
  if (!manifest.ok()) {
    ++counters_.integrity_failures;
    AskCheck(use.key(), use.location().sequence, /*counted=*/true);
  }
  return manifest;
}

// Reads the manifest first, which gives the size of each slab; then the slabs. Resident encodings need neither.
absl::StatusOr<ResidentLease> EngineImpl::StartLoad(const EntryUse& use, Eviction evict, absl::Time deadline) {
  struct Loading {
    explicit Loading(std::atomic<int64_t>* in_flight) : in_flight(in_flight) { ++*in_flight; }
    ~Loading() { --*in_flight; }
    std::atomic<int64_t>* const in_flight;
    EntryUse use;
  };
  const EncodingKey key = use.key();
  const uint64_t sequence = use.location().sequence;
  // Keeps the blocks until the last read has completed, whatever happens to the lease.
  const auto hold = std::make_shared<Loading>(&counters_.loads_in_flight);
  hold->use = table_.Use(key, /*touch=*/false);
  if (!hold->use || hold->use.location().sequence != sequence) return absl::NotFoundError("a miss: removed meanwhile");
  KVLINK_ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(use, /*background=*/false, deadline));
  KVLINK_ASSIGN_OR_RETURN(const std::shared_ptr<Residency> residency,
                          tier_->MakeRoom(key.ns, std::make_shared<const Manifest>(std::move(manifest)), evict,
                                          std::min(deadline, SteadyNow() + options_.wait_for_room)));
  KVLINK_ASSIGN_OR_RETURN(std::vector<IoRequest> requests,
                          ReadRequests(residency, use.location(), /*background=*/false, hold));
  residency->OnFailed([this, key, sequence, only = residency.get()](bool wrong, const absl::Status& why) {
    // Makes the next reader read it again; holders of this residency keep what has arrived.
    tier_->Forget(sequence, only);
    if (absl::IsDataLoss(why)) AskCheck(key, sequence, /*counted=*/wrong);
    if (wrong) ++counters_.integrity_failures;
  });
  bool added = false;
  ResidentLease resident = tier_->Add(sequence, residency, table_.Pinned(key), &added);
  FollowTable(key, sequence, residency.get());
  counters_.bytes_read += use.location().bytes;
  io_->Submit(std::move(requests));
  return resident;
}

void EngineImpl::FollowTable(const EncodingKey& key, uint64_t sequence, const Residency* only) {
  const auto now = table_.Find(key);
  if (!now.has_value() || now->sequence != sequence) return tier_->Forget(sequence, only);
  tier_->SetPinned(sequence, table_.Pinned(key));
}

// A failed read is retried once, at once and into the same place: most failures do not repeat. A second failure for
// lack of resources (memory, a cancelled request) says nothing about the bytes, and is not reported as damage.
void EngineImpl::ReadTwice(IoRequest* request) {
  request->done = [this, io = io_.get(), again = *request](const absl::Status& first) mutable {
    if (first.ok()) return again.done(first);
    ++counters_.reads_repeated;
    again.done = [done = std::move(again.done)](const absl::Status& second) {
      if (second.ok() || absl::IsDataLoss(second)) return done(second);
      done(absl::UnavailableError(absl::StrCat(second.message(), " (twice); try again")));
    };
    std::vector<IoRequest> requests;
    requests.push_back(std::move(again));
    io->Submit(std::move(requests));
  };
}

absl::StatusOr<std::vector<IoRequest>> EngineImpl::ReadRequests(const std::shared_ptr<Residency>& to,
                                                                const Location& location, bool background,
                                                                std::shared_ptr<void> held) {
  const int64_t area = location.manifest_area();
  RequestCutter cutter(segments_.get(), location.runs, tier_->chunk_bytes(), /*write=*/false,
                       [to, held = std::move(held), area](int64_t offset, int64_t length, const absl::Status& status) {
                         to->ReadCompleted(offset - area, length, status);
                       });
  KVLINK_RETURN_IF_ERROR(cutter.Skip(area));
  for (size_t layer = 0; layer < to->manifest().layers.size(); ++layer) {
    KVLINK_RETURN_IF_ERROR(cutter.Add(to->slab(static_cast<int64_t>(layer))));
  }
  std::vector<IoRequest> requests = cutter.Take(/*all=*/true);
  for (IoRequest& request : requests) {
    request.background = background;
    ReadTwice(&request);
  }
  return requests;
}

void EngineImpl::DropDamaged(const EncodingKey& key, uint64_t sequence, absl::string_view what, bool count) {
  const DamagedEncoding damage{key, std::string(what), DocumentsOf(key)};
  {
    MutexLock lock(&commit_mutex_);
    if (!DropLocked(key, sequence, count)) return;
  }
  NoteDamage(damage);
}

bool EngineImpl::DropLocked(const EncodingKey& key, uint64_t sequence, bool count) {
  const auto now = table_.Find(key);
  if (!now.has_value() || now->sequence != sequence) return false;  // dropped already
  if (count) ++counters_.integrity_failures;
  ++counters_.dropped_damaged;
  if (!options_.read_only) {
    IndexBatch batch(index_.get());
    batch.DeleteEncoding(key);
    // If the index cannot be written now, the encoding still is no longer served; its blocks stay taken until the next
    // open.
    if (!CommitBatch(&batch).ok()) {
      EntryUse kept = table_.Use(key, false);
      table_.Remove(key, sequence);
      kept.Abandon();
      tier_->Forget(sequence);
      return true;
    }
  }
  table_.Remove(key, sequence);
  tier_->Forget(sequence);
  return true;
}

std::vector<std::string> EngineImpl::DocumentsOf(const EncodingKey& key) const {
  auto documents = index_->ReferringTo(key.ns, key.identity, kMaxNamedDocuments);
  return documents.ok() ? *std::move(documents) : std::vector<std::string>();
}

void EngineImpl::NoteDamage(const DamagedEncoding& damage) {
  {
    MutexLock lock(&damage_mutex_);
    recent_damage_.push_back(damage);
    if (recent_damage_.size() > kMaxRecentDamage) recent_damage_.pop_front();
  }
  if (options_.damage_found) options_.damage_found(damage);
}

}  // namespace kvlink::engine
