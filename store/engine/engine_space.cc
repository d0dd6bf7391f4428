// The engine's space: segments that grow, eviction at the watermarks.
#include <algorithm>
#include <utility>

#include "base/status.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kHighWatermark = 96;              // percent of the blocks: eviction begins
constexpr int64_t kLowWatermark = 92;               // and ends
constexpr int64_t kDiskMargin = int64_t{64} << 20;  // left on the disk when a segment is added

}  // namespace

int64_t Engine::LimitBlocks() const {
  const int64_t per_segment = segments_->segment_bytes() / kSegmentBlockBytes;
  const int64_t segments = segments_->bytes() / segments_->segment_bytes();
  const int64_t most = std::max(segments, std::max<int64_t>(1, options_.capacity_bytes / segments_->segment_bytes()));
  return (disk_full_ ? segments : most) * (per_segment - 1);
}

bool Engine::CanGrow() const {
  return !disk_full_ && segments_->bytes() + segments_->segment_bytes() <=
                            std::max(options_.capacity_bytes, segments_->segment_bytes());
}

absl::StatusOr<bool> Engine::Grow() {
  if (!CanGrow()) return false;
  const auto free = files_.FreeSpace(directory_->segments_path());
  absl::StatusOr<Run> run = absl::ResourceExhaustedError("the disk is full");
  if (!free.ok() || *free > segments_->segment_bytes() + kDiskMargin) run = segments_->Grow();
  if (absl::IsResourceExhausted(run.status())) {
    disk_full_ = true;
    return false;
  }
  KVLINK_RETURN_IF_ERROR(run.status());
  table_.AddFree(*run);
  return true;
}

absl::StatusOr<Runs> Engine::AllocateBlocks(absl::string_view ns, int64_t blocks) {
  if (auto runs = table_.Allocate(ns, blocks)) return *std::move(runs);
  MutexLock lock(&space_mutex_);
  for (;;) {
    if (auto runs = table_.Allocate(ns, blocks)) return *std::move(runs);
    if (const int64_t over = table_.OverLimit(ns, blocks); over > 0) {
      std::vector<EncodingKey> victims;
      if (table_.FitsLimit(ns, blocks)) victims = table_.PickOf(ns, over);  // what cannot fit at all evicts nothing
      KVLINK_ASSIGN_OR_RETURN(const bool evicted, Evict(std::move(victims), &counters_.evicted_quota));
      if (evicted) continue;
      return absl::ResourceExhaustedError(
          absl::StrCat("no room for ", blocks * kSegmentBlockBytes, " bytes within the capacity of namespace '", ns,
                       "', and nothing of its own to evict; raise its capacity or delete documents"));
    }
    KVLINK_ASSIGN_OR_RETURN(const bool grown, Grow());
    if (grown) continue;
    const int64_t limit = LimitBlocks();
    std::vector<EncodingKey> victims;
    if (blocks <= limit) victims = table_.PickFor(ns, blocks, limit);
    KVLINK_ASSIGN_OR_RETURN(const bool evicted, Evict(std::move(victims), &counters_.evicted_capacity));
    if (!evicted) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room for ", blocks * kSegmentBlockBytes, " bytes in segments of ", segments_->bytes(), " bytes",
          disk_full_ ? " on a full disk" : "", ", and nothing to evict; add capacity or delete documents"));
    }
  }
}

absl::StatusOr<bool> Engine::Evict(std::vector<EncodingKey> victims, std::atomic<int64_t>* reason) {
  MutexLock lock(&commit_mutex_);
  // Without what was removed meanwhile, and perhaps put again.
  std::erase_if(victims, [this](const EncodingKey& key) { return !table_.Picked(key); });
  if (victims.empty()) return false;
  IndexBatch batch(index_.get());
  const absl::Status status = RemoveKeys(victims, &batch, reason);
  if (!status.ok()) {
    for (const EncodingKey& key : victims) table_.PutBack(key);
    return status;
  }
  return true;
}

void Engine::AskMaintenance() {
  MutexLock lock(&maintain_mutex_);
  maintain_asked_ = true;
  maintain_wake_.Signal();
}

void Engine::Maintain() {
  for (;;) {
    {
      MutexLock lock(&maintain_mutex_);
      while (!maintain_asked_ && !stop_) maintain_wake_.Wait(&maintain_mutex_);
      if (stop_) return;
      maintain_asked_ = false;
    }
    MutexLock lock(&space_mutex_);
    // Namespaces over their own limits first: what they give up the whole need not.
    for (const auto& [ns, blocks] : table_.OverWatermark(kHighWatermark, kLowWatermark)) {
      Evict(table_.PickOf(ns, blocks), &counters_.evicted_quota).status().IgnoreError();
    }
    const int64_t limit = LimitBlocks();
    const int64_t per_segment = segments_->segment_bytes() / kSegmentBlockBytes - 1;
    const int64_t existing = segments_->bytes() / segments_->segment_bytes() * per_segment;
    const int64_t used = existing - table_.free_blocks();
    // Ahead of need, so that puts do not wait while a segment is filled with zeros. Failing is no harm here: a put that
    // needs the room tries again and says so.
    if (segments_->bytes() > 0 && table_.free_blocks() < per_segment / 4) Grow().status().IgnoreError();
    if (used * 100 > limit * kHighWatermark) {
      Evict(table_.PickOverall(used - limit * kLowWatermark / 100, limit), &counters_.evicted_capacity)
          .status()
          .IgnoreError();
    }
  }
}

}  // namespace kvlink::engine
