// The engine's writing side: puts, group commit, space, eviction.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/group_commit.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

using Slabs = absl::Span<const absl::Span<const std::byte>>;

// Copies each slab if `to` has memory of its own, and verifies it while it is still in cache.
absl::Status FillAndVerify(Slabs slabs, Residency* to) {
  for (size_t layer = 0; layer < slabs.size(); ++layer) {
    if (slabs[layer].empty()) continue;
    const absl::Span<std::byte> slab = to->slab(layer);
    if (slab.data() != slabs[layer].data()) {
      const int64_t used = to->manifest().shape(layer).used_bytes();
      std::memcpy(slab.data(), slabs[layer].data(), used);
      std::memset(slab.data() + used, 0, slab.size() - used);
    }
    const absl::Status verified = to->manifest().VerifyLayer(layer, slab);
    if (!verified.ok()) return absl::InvalidArgumentError(verified.message());
    to->SetVerified(layer);
  }
  return absl::OkStatus();
}

// Whether the slabs can be written from where they are: they are page-aligned, and their padding, which is sent to
// readers, is zero.
bool CanBorrow(const Manifest& manifest, Slabs slabs) {
  for (size_t layer = 0; layer < slabs.size(); ++layer) {
    const absl::Span<const std::byte> slab = slabs[layer];
    if (reinterpret_cast<uintptr_t>(slab.data()) % kSlabAlignment != 0) return false;
    if (slab.empty()) continue;
    const absl::Span<const std::byte> padding = slab.subspan(manifest.shape(layer).used_bytes());
    if (std::any_of(padding.begin(), padding.end(), [](std::byte b) { return b != std::byte{0}; })) return false;
  }
  return true;
}

// Whether a put replaces the stored encoding of the same key. Etags are compared byte by byte.
bool Replaces(PutMode mode, const Etag& comes, const Etag& there) {
  return mode == PutMode::kReplaceSmallerEtag && comes.bytes > there.bytes;
}

}  // namespace

absl::StatusOr<Engine::PutOutcome> EngineImpl::Put(absl::string_view ns, const Manifest& manifest, Slabs slabs,
                                                   absl::Time deadline, PutMode mode,
                                                   const std::function<absl::Status()>& admit) {
  KVLINK_RETURN_IF_ERROR(Writable());
  std::vector<int64_t> lengths;
  for (const absl::Span<const std::byte> slab : slabs) lengths.push_back(static_cast<int64_t>(slab.size()));
  KVLINK_RETURN_IF_ERROR(CheckPut(manifest, lengths));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("put: the deadline has passed");
  EncodingKey key{std::string(ns), manifest.identity, manifest.codec};
  if (const auto there = table_.Find(key); there.has_value() && !Replaces(mode, manifest.etag, there->etag)) {
    return PutOutcome{there->etag, false};
  }
  KVLINK_RETURN_IF_ERROR(CheckRoomToWrite());
  KVLINK_ASSIGN_OR_RETURN(const std::shared_ptr<PendingPut> put, NewPut(std::move(key), manifest, mode));
  put->admit = admit;
  KVLINK_RETURN_IF_ERROR(TakeSlabs(std::make_shared<const Manifest>(manifest), slabs, put.get()));
  std::function<absl::Status()> verify;
  if (put->borrowed) {
    verify = [&] { return FillAndVerify(slabs, put->kept != nullptr ? put->kept.get() : put->source.get()); };
  }
  KVLINK_RETURN_IF_ERROR(StartPut(put, verify));
  MutexLock lock(&put->mutex);
  while (put->stage != PendingPut::Stage::kDone) {
    if (!put->finished.WaitUntil(&put->mutex, deadline) && put->stage != PendingPut::Stage::kDone) {
      // Borrowed slabs must not return to the caller before the device has released them.
      while (put->borrowed && put->source_in_use()) put->finished.Wait(&put->mutex);
      return absl::DeadlineExceededError("put: not durable before the deadline; it may become so");
    }
  }
  KVLINK_RETURN_IF_ERROR(put->status);
  return PutOutcome{put->etag, put->written};
}

absl::Status EngineImpl::CheckPut(const Manifest& manifest, absl::Span<const int64_t> lengths) {
  KVLINK_RETURN_IF_ERROR(manifest.Validate());
  if (lengths.size() != manifest.layers.size()) {
    return absl::InvalidArgumentError(absl::StrCat(lengths.size(), " slabs for ", manifest.layers.size(), " layers"));
  }
  for (size_t layer = 0; layer < lengths.size(); ++layer) {
    if (lengths[layer] == manifest.layers[layer].length) continue;
    return absl::InvalidArgumentError(absl::StrCat("slab of layer ", layer, " has ", lengths[layer],
                                                   " bytes, the manifest says ", manifest.layers[layer].length));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::CheckRoomToWrite() {
  if (!reserve_spent_) return absl::OkStatus();
  // The rest of a full disk is reserved for deletions.
  KVLINK_RETURN_IF_ERROR(Annotate(directory_->RestoreReserve(), "the disk is full; delete documents or add space"));
  reserve_spent_ = false;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<PendingPut>> EngineImpl::NewPut(EncodingKey key, const Manifest& manifest,
                                                               PutMode mode) {
  const std::string serialised = SerializeManifest(manifest);
  const int64_t bytes = static_cast<int64_t>(serialised.size());
  if (bytes > kMaxManifestBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a manifest of ", bytes, " bytes; an encoding's has at most ", kMaxManifestBytes));
  }
  auto put = std::make_shared<PendingPut>();
  put->key = std::move(key);
  put->mode = mode;
  put->location.etag = manifest.etag;
  put->location.tokens = static_cast<int32_t>(manifest.tokens);
  put->location.manifest_bytes = static_cast<int32_t>(bytes);
  put->location.bytes = manifest.bytes();
  KVLINK_RETURN_IF_ERROR(CheckSize(put->location.stored_bytes()));
  KVLINK_ASSIGN_OR_RETURN(put->manifest, Pages::Heap(put->location.manifest_area()));
  std::memcpy(put->manifest.data(), serialised.data(), serialised.size());
  std::memset(put->manifest.data() + bytes, 0, put->manifest.size() - bytes);
  put->location.sequence = next_sequence_++;
  return put;
}

// Page-aligned slabs with zero padding are written in place, others from a copy. A copy stays in the DRAM tier if there
// is room, but does not displace what reads have loaded, which is worth more.
absl::Status EngineImpl::TakeSlabs(const std::shared_ptr<const Manifest>& manifest, Slabs slabs, PendingPut* put) {
  put->borrowed = CanBorrow(*manifest, slabs);
  auto room = tier_->MakeRoom(put->key.ns, manifest, Eviction::kNothing, absl::InfinitePast());
  if (!room.ok() && !put->borrowed)
    room = tier_->MakeRoom(put->key.ns, manifest, Eviction::kAnything, absl::InfinitePast());
  if (room.ok()) put->kept = *room;
  if (put->borrowed) {
    put->source = Residency::Borrow(manifest, slabs);
    return absl::OkStatus();
  }
  if (absl::IsResourceExhausted(room.status())) room = DramTier::Outside(manifest);
  KVLINK_RETURN_IF_ERROR(room.status());
  put->source = *room;
  put->copied = true;
  return Annotate(FillAndVerify(slabs, put->source.get()), "put");
}

absl::Status EngineImpl::StartPut(const std::shared_ptr<PendingPut>& put, const std::function<absl::Status()>& verify) {
  KVLINK_ASSIGN_OR_RETURN(put->location.runs, AllocateBlocks(put->key.ns, put->location.blocks()));
  {
    MutexLock lock(&put->mutex);
    put->left = put->location.stored_bytes() + (verify ? 1 : 0);  // the 1 is for the verification below
  }
  group_commit_->Begin();
  auto requests = WriteRequests(put);
  if (!requests.ok()) {
    group_commit_->Abandon();
    table_.Free(put->key.ns, put->location.runs);
    return requests.status();
  }
  ++counters_.puts_in_flight;
  io_->Submit(*std::move(requests));
  // Runs while the disk writes. Bytes that fail are never committed: their blocks are freed with the group.
  if (verify) PartDone(put, 1, verify());
  return absl::OkStatus();
}

RequestCutter::Done EngineImpl::WriteDone(const std::shared_ptr<PendingPut>& put) {
  return [this, put](int64_t offset, int64_t length, const absl::Status& status) {
    if (absl::IsDataLoss(status)) NoteBadBlocks(put.get(), offset, length, status);
    PartDone(put, length, absl::IsDataLoss(status) ? absl::OkStatus() : status);
  };
}

absl::StatusOr<std::vector<IoRequest>> EngineImpl::WriteRequests(const std::shared_ptr<PendingPut>& put) {
  RequestCutter cutter(segments_.get(), put->location.runs, tier_->chunk_bytes(), /*write=*/true, WriteDone(put));
  KVLINK_RETURN_IF_ERROR(cutter.Add(absl::MakeSpan(put->manifest.data(), put->manifest.size())));
  for (size_t layer = 0; layer < put->source->manifest().layers.size(); ++layer) {
    KVLINK_RETURN_IF_ERROR(cutter.Add(put->source->slab(static_cast<int64_t>(layer))));
  }
  std::vector<IoRequest> requests = cutter.Take(/*all=*/true);
  put->Hold(requests);
  return requests;
}

void EngineImpl::PartDone(const std::shared_ptr<PendingPut>& put, int64_t part, const absl::Status& status) {
  {
    MutexLock lock(&put->mutex);
    if (!status.ok() && put->status.ok()) put->status = status;
    put->left -= part;
    if (put->left > 0) return;
    put->Enter(PendingPut::Stage::kFlushing);
  }
  group_commit_->Written(put);
}

void EngineImpl::CommitGroup(const GroupCommit::Group& group) {
  counters_.puts_in_flight -= static_cast<int64_t>(group.size());
  std::vector<std::shared_ptr<PendingPut>> good;
  for (const auto& put : group) {
    const absl::Status outcome = put->outcome();
    if (outcome.ok()) {
      good.push_back(put);
      continue;
    }
    put->source.reset();
    put->kept.reset();
    GiveBackBlocks(put.get());
    put->Finish(Annotate(outcome, "put"), Etag(), false);
  }
  std::vector<std::shared_ptr<PendingPut>> winners, losers;
  std::vector<std::pair<std::shared_ptr<PendingPut>, absl::Status>> refused;
  std::vector<std::optional<Location>> stored;  // what is stored in place of each loser
  absl::Status status;
  {
    MutexLock lock(&commit_mutex_);
    AskAdmission(&good, &refused);
    winners = Winners(good, &losers);
    IndexBatch batch(index_.get());
    for (const auto& put : winners) batch.PutEncoding(put->key, put->location);
    if (!winners.empty()) status = CommitBatch(&batch);
    for (const auto& put : winners) {
      if (!status.ok()) break;
      const std::optional<uint64_t> replaced = table_.Insert(put->key, put->location);
      if (!replaced.has_value()) continue;
      ++counters_.replaced;
      tier_->Forget(*replaced);
    }
    for (const auto& put : losers) stored.push_back(table_.Find(put->key));
  }
  for (const auto& [put, why] : refused) {
    put->source.reset();
    put->kept.reset();
    table_.Free(put->key.ns, put->location.runs);
    put->Finish(why, Etag(), false);
  }
  for (const auto& put : winners) FinishWinner(put.get(), status);
  for (size_t i = 0; i < losers.size(); ++i) FinishLoser(losers[i].get(), stored[i], status);
  AskMaintenance();
}

void EngineImpl::AskAdmission(std::vector<std::shared_ptr<PendingPut>>* puts,
                              std::vector<std::pair<std::shared_ptr<PendingPut>, absl::Status>>* refused) {
  std::erase_if(*puts, [refused](const std::shared_ptr<PendingPut>& put) {
    const absl::Status admitted = put->admit ? put->admit() : absl::OkStatus();
    if (!admitted.ok()) refused->emplace_back(put, admitted);
    return !admitted.ok();
  });
}

std::vector<std::shared_ptr<PendingPut>> EngineImpl::Winners(const std::vector<std::shared_ptr<PendingPut>>& puts,
                                                             std::vector<std::shared_ptr<PendingPut>>* losers) {
  std::vector<std::shared_ptr<PendingPut>> winners;
  absl::flat_hash_map<EncodingKey, size_t> by_name;  // index into winners
  for (const auto& put : puts) {
    const Etag& etag = put->location.etag;
    if (const auto here = by_name.find(put->key); here != by_name.end()) {
      std::shared_ptr<PendingPut>& winner = winners[here->second];
      losers->push_back(Replaces(put->mode, etag, winner->location.etag) ? std::exchange(winner, put) : put);
      continue;
    }
    const auto there = table_.Find(put->key);
    if (there.has_value() && !Replaces(put->mode, etag, there->etag)) {
      losers->push_back(put);
      continue;
    }
    by_name.emplace(put->key, winners.size());
    winners.push_back(put);
  }
  return winners;
}

void EngineImpl::FinishLoser(PendingPut* put, const std::optional<Location>& stored, const absl::Status& committed) {
  put->source.reset();
  put->kept.reset();
  table_.Free(put->key.ns, put->location.runs);
  // If it lost to a put whose batch failed, nothing is stored.
  const bool lost = stored.has_value() && !Replaces(put->mode, put->location.etag, stored->etag);
  if (!stored.has_value() || (!committed.ok() && !lost)) return put->Finish(Annotate(committed, "put"), Etag(), false);
  put->Finish(absl::OkStatus(), stored->etag, false);
}

void EngineImpl::FinishWinner(PendingPut* put, const absl::Status& committed) {
  // The memory is passed to the tier, or freed, before the caller learns of the outcome.
  std::shared_ptr<Residency> kept = std::move(put->kept);
  put->source.reset();
  if (!committed.ok()) {
    kept.reset();
    // Whether the records reached the disk is unknown, so the blocks stay taken until the next open, which finds out.
    return put->Finish(Annotate(committed, "put"), Etag(), false);
  }
  counters_.bytes_written += put->location.bytes;
  if (!put->copied) counters_.bytes_written_in_place += put->location.bytes;
  if (kept != nullptr) {
    bool added = false;
    const Residency* const only = kept.get();
    const ResidentLease held = tier_->Add(put->location.sequence, std::move(kept), false, &added);
    FollowTable(put->key, put->location.sequence, only);
  }
  put->Finish(absl::OkStatus(), put->location.etag, true);
}

absl::Status EngineImpl::RemoveKeys(const std::vector<EncodingKey>& keys, IndexBatch* batch,
                                    std::atomic<int64_t>* reason) {
  for (const EncodingKey& key : keys) batch->DeleteEncoding(key);
  KVLINK_RETURN_IF_ERROR(CommitBatch(batch));
  for (const EncodingKey& key : keys) {
    const auto location = table_.Find(key);
    if (!location.has_value()) continue;
    table_.Remove(key);
    ++*reason;
    tier_->Forget(location->sequence);
  }
  if (!keys.empty()) disk_full_ = false;
  return absl::OkStatus();
}

std::vector<SlotDigest> EngineImpl::SlotDigests(absl::Span<const uint16_t> slots) {
  // An admitted group is in the table once the lock has been free.
  { MutexLock admitted(&commit_mutex_); }
  return table_.SlotDigests(slots);
}

absl::Status EngineImpl::Remove(absl::string_view ns, const Identity& identity) {
  KVLINK_RETURN_IF_ERROR(Writable());
  MutexLock lock(&commit_mutex_);
  const std::vector<EncodingKey> keys = table_.Variants(ns, identity);
  if (keys.empty()) return absl::OkStatus();
  IndexBatch batch(index_.get());
  return RemoveKeys(keys, &batch, &counters_.removed);
}

}  // namespace kvlink::engine
