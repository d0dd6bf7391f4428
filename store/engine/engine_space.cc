// The engine's space: segments that grow by pieces, and eviction at watermarks.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kHighWatermark = 96;  // percent of the blocks at which eviction begins
constexpr int64_t kLowWatermark = 92;   // and at which it ends
// Disk space kept free when a segment is added: a quarter of what is free, within these limits.
constexpr int64_t kMinDiskMargin = int64_t{8} << 20, kMaxDiskMargin = int64_t{64} << 20;
// One allocation evicts no more than this many times its size, or this many blocks if that is more.
constexpr int64_t kMaxEvictedTimes = 4, kMaxEvictedBlocks = 256;

bool FitsDisk(int64_t segment, int64_t free) {
  return free > segment + std::clamp(free / 4, kMinDiskMargin, kMaxDiskMargin);
}

// A full disk may recover without its free space showing it (a quota, or another user's file), so growing is retried.
constexpr absl::Duration kGrowAgain = absl::Seconds(1);
// Growing must have failed this often, and for kGrowAgain, before the store evicts instead of refusing.
constexpr int kMinGrowFailures = 4;

}  // namespace

int64_t EngineImpl::MaxBlocks() const {
  const int64_t piece = segments_->piece_bytes(), segment = segments_->segment_bytes();
  const int64_t bytes = std::max<int64_t>(1, capacity_ / piece) * piece;
  const int64_t headers = (bytes + segment - 1) / segment;
  return std::max(segments_->usable_blocks(), bytes / kSegmentBlockBytes - headers);
}

int64_t EngineImpl::LimitBlocks() const {
  const int64_t most = disk_full_ || !grow_failure_.ok() ? segments_->usable_blocks() : MaxBlocks();
  return std::max<int64_t>(0, most - table_.unusable_blocks());
}

absl::Status EngineImpl::CheckSize(int64_t bytes) const {
  const int64_t of_runs = kMaxRuns * (segments_->segment_bytes() / kSegmentBlockBytes - 1);
  const int64_t of_capacity = MaxBlocks();
  if (BlocksFor(bytes) <= std::min(of_runs, of_capacity)) return absl::OkStatus();
  if (of_runs <= of_capacity) {
    return absl::InvalidArgumentError(absl::StrCat("an encoding of ", bytes, " bytes; this store holds at most ",
                                                   of_runs * kSegmentBlockBytes, " bytes of one encoding (", kMaxRuns,
                                                   " runs in segments of ", segments_->segment_bytes(), " bytes)"));
  }
  return absl::InvalidArgumentError(absl::StrCat("an encoding of ", bytes, " bytes; the capacity of this store holds ",
                                                 of_capacity * kSegmentBlockBytes, " bytes"));
}

// Compares with the low watermark, so that repair does not refill what an eviction has freed with copies of the
// evicted.
bool EngineImpl::HasRoom(absl::string_view ns, int64_t bytes) {
  const int64_t blocks = BlocksFor(ManifestArea(1) + bytes);
  const int64_t usable = segments_->usable_blocks(), unusable = table_.unusable_blocks();
  const int64_t limit = (disk_full_ ? usable : MaxBlocks()) - unusable;
  const int64_t used = usable - unusable - table_.free_blocks();
  return (used + blocks) * 100 <= limit * kLowWatermark && table_.WithinLimit(ns, blocks, kLowWatermark);
}

bool EngineImpl::CanGrow() {
  const int64_t bytes = segments_->piece_bytes();
  if (disk_full_) {
    const auto free = files_.FreeSpace(directory_->segments_path());
    if (!free.ok() || !FitsDisk(bytes, *free)) return false;
    if (*free < free_when_full_ + bytes && SteadyNow() < grow_again_) return false;
    disk_full_ = false;
  }
  if (!grow_failure_.ok()) {
    if (SteadyNow() < grow_again_) return false;
    grow_failure_ = absl::OkStatus();
  }
  return segments_->bytes() + bytes <= std::max(capacity_, bytes);
}

absl::StatusOr<bool> EngineImpl::Grow() {
  if (!CanGrow()) return false;
  const auto free = files_.FreeSpace(directory_->segments_path());
  absl::StatusOr<SegmentFiles::Grown> grown = absl::ResourceExhaustedError("the disk is full");
  if (!free.ok() || FitsDisk(segments_->piece_bytes(), *free)) grown = segments_->Grow();
  if (absl::IsResourceExhausted(grown.status())) {
    disk_full_ = true;
    free_when_full_ = free.ok() ? *free : 0;
    grow_again_ = SteadyNow() + kGrowAgain;
    return false;
  }
  if (!grown.ok()) return GrowFailed(grown.status());
  grow_failures_ = 0;
  table_.AddFree(grown->usable);
  if (!grown->bad.empty()) {
    table_.LoseFree(grown->bad);
    KeepBadBlocks();
  }
  return true;
}

// A failure or two may be bad luck and must not evict healthy encodings. Repeated failure is treated like a full disk:
// the store makes do with its segments, and retries later. A shortage in the process (descriptors, memory) cannot be
// cured by evicting.
absl::StatusOr<bool> EngineImpl::GrowFailed(absl::Status why) {
  why = Annotate(why, "no segment can be added");
  if (absl::IsUnavailable(why)) return why;
  const absl::Time now = SteadyNow();
  if (grow_failures_++ == 0) grow_fails_since_ = now;
  if (grow_failures_ < kMinGrowFailures || now < grow_fails_since_ + kGrowAgain) return why;
  grow_failure_ = std::move(why);
  grow_again_ = now + kGrowAgain;
  return false;
}

absl::StatusOr<Runs> EngineImpl::AllocateBlocks(absl::string_view ns, int64_t blocks) {
  if (auto runs = table_.Allocate(ns, blocks)) return *std::move(runs);
  int64_t may_evict = std::max(kMaxEvictedTimes * blocks, kMaxEvictedBlocks);
  MutexLock lock(&space_mutex_);
  for (;;) {
    if (auto runs = table_.Allocate(ns, blocks)) return *std::move(runs);
    const int64_t over = table_.OverLimit(ns, blocks);
    if (over == 0) {
      KVLINK_ASSIGN_OR_RETURN(const bool grown, Grow());
      if (grown) continue;
    }
    int64_t evicted = 0;
    if (may_evict <= 0) {
      // Evicts no more: other puts that take space as fast as it is freed must not empty the store.
    } else if (over > 0) {
      std::vector<EncodingKey> victims;
      if (table_.FitsLimit(ns, blocks)) victims = table_.PickOf(ns, over);  // too large to fit: evicts nothing
      KVLINK_ASSIGN_OR_RETURN(evicted, Evict(std::move(victims), &counters_.evicted_quota));
    } else if (const int64_t limit = LimitBlocks(); blocks <= limit) {
      KVLINK_ASSIGN_OR_RETURN(evicted, Evict(table_.PickFor(ns, blocks, limit), &counters_.evicted_capacity));
    }
    if (evicted > 0) {
      may_evict -= evicted;
      continue;
    }
    // Blocks may have been freed in the meantime.
    if (auto runs = table_.Allocate(ns, blocks)) return *std::move(runs);
    return NoRoom(ns, blocks, over > 0);
  }
}

absl::Status EngineImpl::NoRoom(absl::string_view ns, int64_t blocks, bool quota) const {
  const int64_t bytes = blocks * kSegmentBlockBytes;
  if (quota) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", bytes, " bytes within the capacity of namespace '", ns,
                     "', and nothing of its own to evict; raise its capacity or delete documents"));
  }
  std::string disk;
  if (disk_full_) {
    const auto free = files_.FreeSpace(directory_->segments_path());
    disk = absl::StrCat(" on a full disk (they grow by ", segments_->piece_bytes(), " bytes, ",
                        free.ok() ? absl::StrCat(*free) : "unknown", " are free)");
  } else if (!grow_failure_.ok()) {
    disk = absl::StrCat(" (", grow_failure_.message(), ")");
  }
  return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes, " bytes in segments of ", segments_->bytes(),
                                                   " bytes", disk,
                                                   ", and nothing to evict; add capacity or delete documents"));
}

absl::StatusOr<int64_t> EngineImpl::Evict(std::vector<EncodingKey> victims, std::atomic<int64_t>* reason) {
  MutexLock lock(&commit_mutex_);
  // Skips encodings removed meanwhile, and possibly put again.
  std::erase_if(victims, [this](const EncodingKey& key) { return !table_.Picked(key); });
  int64_t blocks = 0;
  for (const EncodingKey& key : victims) {
    if (const auto location = table_.Find(key)) blocks += location->blocks();
  }
  if (victims.empty()) return 0;
  IndexBatch batch(index_.get());
  const absl::Status status = RemoveKeys(victims, &batch, reason);
  if (!status.ok()) {
    for (const EncodingKey& key : victims) table_.PutBack(key);
    return status;
  }
  return blocks;
}

void EngineImpl::Shrink() {
  const int64_t keep = std::max(capacity_, segments_->piece_bytes());
  int64_t left = segments_->bytes();
  std::vector<Run> runs = segments_->UsableRuns();
  std::reverse(runs.begin(), runs.end());
  size_t count = 0;
  for (; left > keep; ++count) left -= (int64_t{runs[count].count} + 1) * kSegmentBlockBytes;
  runs.resize(count);
  // Seals all of them before evicting anything, so that nothing moves from one into another.
  for (const Run& run : runs) {
    segments_->StopGrowing(segments_->SegmentOf(run.first));
    table_.Seal(segments_->WholeRun(segments_->SegmentOf(run.first)));
  }
  for (const Run& run : runs) {
    Evict(table_.PickWithin(run), &counters_.evicted_capacity).status().IgnoreError();
    // Pinned encodings and those being read stay, and their segment with them, until the next maintenance.
    if (!table_.Forget(run)) continue;
    segments_->Remove(segments_->SegmentOf(run.first)).IgnoreError();
    KeepBadBlocks();  // a later segment with the same number has other blocks
  }
}

void EngineImpl::AskMaintenance() {
  MutexLock lock(&maintain_mutex_);
  maintain_asked_ = true;
  maintain_wake_.Signal();
}

void EngineImpl::Maintain() {
  for (;;) {
    {
      MutexLock lock(&maintain_mutex_);
      while (!maintain_asked_ && !stop_) maintain_wake_.Wait(&maintain_mutex_);
      if (stop_) return;
      maintain_asked_ = false;
    }
    MutexLock lock(&space_mutex_);
    Shrink();
    // Namespaces above their own limits first: what they free need not be evicted overall.
    for (const auto& [ns, blocks] : table_.OverWatermark(kHighWatermark, kLowWatermark)) {
      Evict(table_.PickOf(ns, blocks), &counters_.evicted_quota).status().IgnoreError();
    }
    const int64_t limit = LimitBlocks();
    const int64_t per_piece = segments_->piece_bytes() / kSegmentBlockBytes;
    const int64_t used = segments_->usable_blocks() - table_.unusable_blocks() - table_.free_blocks();
    // Grows ahead of need, so that puts do not wait for zero-filling. A failure is harmless here: a put that needs the
    // room retries and reports it.
    if (segments_->bytes() > 0 && table_.free_blocks() < (per_piece - 1) / 4) Grow().status().IgnoreError();
    if (used * 100 > limit * kHighWatermark) {
      Evict(table_.PickOverall(used - limit * kLowWatermark / 100, limit), &counters_.evicted_capacity)
          .status()
          .IgnoreError();
    }
  }
}

}  // namespace kvlink::engine
