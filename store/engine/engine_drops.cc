// Removals dictated by a log of drops, and the removal of single encodings. The position in the log is an index record
// written by the removing commit, so a crash never leaves a position without its removals.
#include <algorithm>
#include <utility>

#include "base/little_endian.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr absl::string_view kDropsName = "drops";

void PutPosition(const DropPosition& position, IndexBatch* batch) {
  std::string value(reinterpret_cast<const char*>(position.log.data()), position.log.size());
  AppendField<uint64_t>(position.transaction, &value);
  AppendField<uint64_t>(static_cast<uint64_t>(position.sequence), &value);
  batch->PutMeta(kDropsName, value);
}

}  // namespace

absl::Status EngineImpl::LoadDropPosition() {
  KVLINK_ASSIGN_OR_RETURN(const auto stored, index_->GetMeta(kDropsName));
  if (!stored.has_value()) return absl::OkStatus();
  DropPosition position;
  if (stored->size() != position.log.size() + 2 * sizeof(uint64_t)) {
    return absl::DataLossError(absl::StrCat("the index holds ", stored->size(), " bytes under '", kDropsName,
                                            "' and not 32: restore the store from a copy, or move it away and let it "
                                            "be filled again"));
  }
  FieldReader reader(*stored);
  reader.ReadBytes(position.log.data(), position.log.size());
  position.transaction = reader.Read<uint64_t>();
  position.sequence = static_cast<int64_t>(reader.Read<uint64_t>());
  MutexLock lock(&dropped_mutex_);
  dropped_ = position;
  return absl::OkStatus();
}

DropPosition EngineImpl::dropped() const {
  MutexLock lock(&dropped_mutex_);
  return dropped_;
}

absl::Status EngineImpl::Drop(absl::Span<const DroppedName> names, const DropPosition& position) {
  KVLINK_RETURN_IF_ERROR(Writable());
  MutexLock lock(&commit_mutex_);
  std::vector<EncodingKey> keys;
  for (const DroppedName& name : names) {
    for (EncodingKey& key : table_.Variants(name.ns, name.identity)) keys.push_back(std::move(key));
  }
  IndexBatch batch(index_.get());
  PutPosition(position, &batch);
  KVLINK_RETURN_IF_ERROR(RemoveKeys(keys, &batch, &counters_.removed));
  MutexLock dropping(&dropped_mutex_);
  dropped_ = position;
  return absl::OkStatus();
}

absl::Status EngineImpl::DropAll(const DropPosition& position) {
  KVLINK_RETURN_IF_ERROR(Writable());
  MutexLock lock(&commit_mutex_);
  IndexBatch batch(index_.get());
  batch.DeleteEncodings();
  PutPosition(position, &batch);
  KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
  // Slot by slot, so that readers wait for at most one slot.
  for (int slot = 0; slot < kSlots; ++slot) {
    for (const SlotEntry& entry : table_.ListSlot(slot, std::nullopt, SIZE_MAX)) {
      const EncodingKey key{entry.ns, entry.identity, entry.codec};
      const auto location = table_.Find(key);
      if (!location.has_value()) continue;
      table_.Remove(key);
      ++counters_.removed;
      tier_->Forget(location->sequence);
    }
  }
  disk_full_ = false;
  MutexLock dropping(&dropped_mutex_);
  dropped_ = position;
  return absl::OkStatus();
}

absl::Status EngineImpl::RemoveEncoding(const EncodingKey& key, const Etag& etag) {
  KVLINK_RETURN_IF_ERROR(Writable());
  MutexLock lock(&commit_mutex_);
  const auto location = table_.Find(key);
  if (!location.has_value() || location->etag != etag) return absl::NotFoundError("a miss: nothing to remove");
  if (table_.Pinned(key)) return absl::FailedPreconditionError("it is pinned");
  IndexBatch batch(index_.get());
  return RemoveKeys({key}, &batch, &counters_.removed);
}

}  // namespace kvlink::engine
