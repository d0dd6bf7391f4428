// The engine's reading side: lookups, leases, loading in layer order. Nobody holds a lock while room is made or bytes
// are read; who wants what is being loaded waits for that one load.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kMaxNamedDocuments = 16;  // of those that refer to one damaged encoding
constexpr size_t kMaxRecentDamage = 64;

}  // namespace

absl::Status EncodingLeaseImpl::WaitLayer(int64_t layer, absl::Time deadline) {
  const absl::Status status = resident_->WaitLayer(layer, deadline);
  // Whoever is told of damage finds the encoding gone, or whole, when they ask again.
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
    // Of those who want it, one loads it; the others wait for no more than its room to be found.
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
      // This read may evict more than the other, so it may find room where that one did not.
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
  // The load goes on without the lease.
  return Hold(std::move(use), Eviction::kBelowShare, deadline).status();
}

absl::StatusOr<Manifest> EngineImpl::ManifestOf(const EncodingKey& key, const Location& location) {
  auto manifest = index_->GetManifest(key);
  // Its use keeps an encoding's blocks, not its records: it may have been removed meanwhile.
  if (absl::IsNotFound(manifest.status())) {
    const auto now = table_.Find(key);
    if (now.has_value() && now->sequence == location.sequence) {
      return absl::DataLossError("the index has a location without a manifest");
    }
    return absl::NotFoundError("a miss: removed meanwhile");
  }
  KVLINK_RETURN_IF_ERROR(manifest.status());
  if (manifest->etag != location.etag) {
    const auto now = table_.Find(key);
    if (!now.has_value() || now->sequence != location.sequence)
      return absl::NotFoundError("a miss: replaced meanwhile");
  }
  if (manifest->identity != key.identity || manifest->codec != key.codec || manifest->etag != location.etag ||
      manifest->bytes() != location.bytes || manifest->tokens != location.tokens) {
    return absl::DataLossError("manifest and location record do not agree");
  }
  // Slabs follow each other without gaps (Put sees to it).
  int64_t end = 0;
  for (const LayerManifest& layer : manifest->layers) {
    if (layer.length > 0 && layer.offset != end) return absl::DataLossError("the manifest's slabs leave a gap");
    end += layer.length;
  }
  return manifest;
}

absl::StatusOr<ResidentLease> EngineImpl::StartLoad(const EntryUse& use, Eviction evict, absl::Time deadline) {
  struct Loading {
    explicit Loading(std::atomic<int64_t>* in_flight) : in_flight(in_flight) { ++*in_flight; }
    ~Loading() { --*in_flight; }
    std::atomic<int64_t>* const in_flight;
    EntryUse use;
    std::shared_ptr<Residency> residency;
  };
  const EncodingKey key = use.key();
  const uint64_t sequence = use.location().sequence;
  auto manifest = ManifestOf(key, use.location());
  if (!manifest.ok()) {
    if (absl::IsDataLoss(manifest.status())) DropDamaged(key, sequence, manifest.status().message());
    return manifest.status();
  }
  // The blocks stay ours until the last read has completed, whatever happens to the lease.
  const auto hold = std::make_shared<Loading>(&counters_.loads_in_flight);
  hold->use = table_.Use(key, /*touch=*/false);
  if (!hold->use || hold->use.location().sequence != sequence) return absl::NotFoundError("a miss: removed meanwhile");
  KVLINK_ASSIGN_OR_RETURN(hold->residency,
                          tier_->MakeRoom(key.ns, std::make_shared<const Manifest>(*std::move(manifest)), evict,
                                          std::min(deadline, SteadyNow() + options_.wait_for_room)));
  KVLINK_ASSIGN_OR_RETURN(std::vector<IoRequest> requests,
                          Requests(*hold->residency, use.location().runs, /*write=*/false,
                                   [hold](int64_t offset, int64_t length, const absl::Status& status) {
                                     hold->residency->ReadCompleted(offset, length, status);
                                   }));
  for (IoRequest& request : requests) ReadTwice(&request);
  hold->residency->OnFailed([this, key, sequence, only = hold->residency.get()](bool wrong, const absl::Status& why) {
    // So that the next reader reads it anew; those who hold this stay keep what has arrived of it.
    tier_->Forget(sequence, only);
    if (absl::IsDataLoss(why)) AskCheck(key, sequence, /*counted=*/wrong);
    if (wrong) ++counters_.integrity_failures;
  });
  bool added = false;
  ResidentLease resident = tier_->Add(sequence, hold->residency, table_.Pinned(key), &added);
  counters_.bytes_read += use.location().bytes;
  io_->Submit(std::move(requests));
  return resident;
}

// A read that fails is asked for once more, at once and into the same place: most that fail, fail once. What fails
// twice for want of something (memory, a request that was cancelled) says nothing about the bytes, and is not called
// damage.
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

absl::StatusOr<std::vector<IoRequest>> EngineImpl::Requests(const Residency& residency, const Runs& runs, bool write,
                                                            RequestCutter::Done done) const {
  RequestCutter cutter(segments_.get(), runs, tier_->chunk_bytes(), write, std::move(done));
  for (size_t layer = 0; layer < residency.manifest().layers.size(); ++layer) {
    KVLINK_RETURN_IF_ERROR(cutter.Add(residency.slab(static_cast<int64_t>(layer))));
  }
  return cutter.Take(/*all=*/true);
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
    // Even if the index cannot be written now, it is not served any more; its blocks then stay taken until the next
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
