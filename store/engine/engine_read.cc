// The engine's reading side: lookups, leases, loading in layer order.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {

absl::Status EncodingLease::WaitLayer(int64_t layer, absl::Time deadline) {
  const absl::Status status = resident_->WaitLayer(layer, deadline);
  if (absl::IsDataLoss(status)) engine_->DropDamaged(use_.key(), use_.location().sequence);
  return status;
}

void EncodingLease::OnLanded(int64_t layer, std::function<void(const absl::Status&)> landed) {
  resident_->OnLanded(layer, std::move(landed));
}

std::optional<Engine::Info> Engine::Find(const EncodingKey& key) {
  std::optional<Location> location = table_.Find(key);
  if (!location.has_value()) {
    ++counters_.misses;
    return std::nullopt;
  }
  const bool resident = tier_->Resident(location->sequence);
  return Info{*std::move(location), resident};
}

absl::StatusOr<std::unique_ptr<EncodingLease>> Engine::Read(const EncodingKey& key, const Etag& etag,
                                                            absl::Time deadline) {
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use || use.location().etag != etag) {
    ++counters_.misses;
    return absl::NotFoundError(use ? "a miss: the store holds another etag" : "a miss");
  }
  KVLINK_ASSIGN_OR_RETURN(Held held, Hold(std::move(use), deadline));
  const Location& location = held.use.location();
  TierCounters& hits = held.from_dram ? counters_.dram : counters_.segments;
  ++hits.hits;
  hits.tokens += location.tokens;
  hits.bytes += location.bytes;
  return std::unique_ptr<EncodingLease>(
      new EncodingLease(this, std::move(held.use), std::move(held.resident), held.from_dram));
}

absl::StatusOr<Engine::Held> Engine::Hold(EntryUse use, absl::Time deadline) {
  if (ResidentLease resident = tier_->Acquire(use.location().sequence)) {
    const bool from_dram = resident->complete();
    return Held{std::move(use), std::move(resident), from_dram};
  }
  auto manifest = ManifestOf(use.key(), use.location());
  if (!manifest.ok()) {
    if (absl::IsDataLoss(manifest.status())) DropDamaged(use.key(), use.location().sequence);
    return manifest.status();
  }
  KVLINK_ASSIGN_OR_RETURN(ResidentLease resident,
                          Load(use, std::make_shared<const Manifest>(*std::move(manifest)), deadline));
  return Held{std::move(use), std::move(resident), false};
}

absl::Status Engine::Touch(const EncodingKey& key) {
  const EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use) return absl::NotFoundError("a miss: nothing to touch");
  tier_->Touch(use.location().sequence);
  return absl::OkStatus();
}

absl::Status Engine::Prefetch(const EncodingKey& key, absl::Time deadline) {
  EntryUse use = table_.Use(key, /*touch=*/true);
  if (!use) return absl::NotFoundError("a miss: nothing to prefetch");
  // The load goes on without the lease.
  return Hold(std::move(use), deadline).status();
}

absl::StatusOr<Manifest> Engine::ManifestOf(const EncodingKey& key, const Location& location) {
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

absl::StatusOr<ResidentLease> Engine::Load(const EntryUse& use, std::shared_ptr<const Manifest> manifest,
                                           absl::Time deadline) {
  struct Loading {
    explicit Loading(std::atomic<int64_t>* in_flight) : in_flight(in_flight) { ++*in_flight; }
    ~Loading() { --*in_flight; }
    std::atomic<int64_t>* const in_flight;
    EntryUse use;
    std::shared_ptr<Residency> residency;
  };
  const uint64_t sequence = use.location().sequence;
  MutexLock lock(&load_mutexes_[sequence % load_mutexes_.size()]);
  if (ResidentLease resident = tier_->Acquire(sequence)) return resident;
  // The blocks stay ours until the last read has landed, whatever happens to the lease.
  const auto hold = std::make_shared<Loading>(&counters_.loads_in_flight);
  hold->use = table_.Use(use.key(), /*touch=*/false);
  if (!hold->use || hold->use.location().sequence != sequence) return absl::NotFoundError("a miss: removed meanwhile");
  KVLINK_ASSIGN_OR_RETURN(hold->residency,
                          tier_->MakeRoom(use.key().ns, std::move(manifest), /*may_evict=*/true, deadline));
  KVLINK_ASSIGN_OR_RETURN(std::vector<IoRequest> requests,
                          Requests(*hold->residency, use.location().runs, /*write=*/false,
                                   [hold](int64_t offset, int64_t length, const absl::Status& status) {
                                     hold->residency->Landed(offset, length, status);
                                   }));
  bool added = false;
  ResidentLease resident = tier_->Add(sequence, hold->residency, table_.Pinned(use.key()), &added);
  counters_.bytes_read += use.location().bytes;
  io_->Submit(std::move(requests));
  return resident;
}

absl::StatusOr<std::vector<IoRequest>> Engine::Requests(
    const Residency& residency, const Runs& runs, bool write,
    std::function<void(int64_t, int64_t, const absl::Status&)> done) const {
  std::vector<IoRequest> requests;
  const auto shared_done =
      std::make_shared<std::function<void(int64_t, int64_t, const absl::Status&)>>(std::move(done));
  const int64_t chunk_bytes = tier_->chunk_bytes();
  const int64_t most = write ? kWriteBytes : kReadBytes;
  size_t run = 0;
  int64_t in_run = 0;    // bytes of the run already used
  int64_t position = 0;  // in the encoding
  int64_t request_start = 0;
  const std::vector<LayerManifest>& layers = residency.manifest().layers;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    absl::Span<std::byte> rest = residency.slab(layer);
    while (!rest.empty()) {
      if (run < runs.size() && in_run == int64_t{runs[run].count} * kSegmentBlockBytes) {
        ++run;
        in_run = 0;
      }
      if (run >= runs.size()) return absl::DataLossError("the location record has too few blocks");
      int64_t file_offset = 0;
      auto located = segments_->Locate(runs[run].first, &file_offset);
      if (absl::IsNotFound(located.status())) {
        return absl::DataLossError("the location record names a segment that is not there");
      }
      KVLINK_RETURN_IF_ERROR(located.status());
      const std::shared_ptr<File> file = *std::move(located);
      file_offset += in_run;
      // Not beyond the run, nor beyond the chunk of registered memory.
      const int64_t in_chunk = static_cast<int64_t>(reinterpret_cast<uintptr_t>(rest.data()) % chunk_bytes);
      const int64_t length =
          std::min({static_cast<int64_t>(rest.size()), int64_t{runs[run].count} * kSegmentBlockBytes - in_run, most,
                    chunk_bytes - in_chunk});
      IoRequest* last = requests.empty() ? nullptr : &requests.back();
      const bool joins = last != nullptr && last->file == file && last->offset + last->length == file_offset &&
                         last->data + last->length == rest.data() && last->length + length <= most && in_chunk != 0;
      if (joins) {
        last->length += length;
      } else {
        request_start = position;
        requests.push_back(
            {.file = file, .write = write, .offset = file_offset, .data = rest.data(), .length = length});
      }
      IoRequest& request = requests.back();
      request.done = [shared_done, start = request_start, bytes = request.length](const absl::Status& status) {
        (*shared_done)(start, bytes, status);
      };
      rest.remove_prefix(length);
      in_run += length;
      position += length;
    }
  }
  return requests;
}

void Engine::DropDamaged(const EncodingKey& key, uint64_t sequence, bool count) {
  MutexLock lock(&commit_mutex_);
  const auto now = table_.Find(key);
  if (!now.has_value() || now->sequence != sequence) return;  // dropped already
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
      return;
    }
  }
  table_.Remove(key, sequence);
  tier_->Forget(sequence);
}

}  // namespace kvlink::engine
