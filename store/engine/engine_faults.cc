// The engine's reaction to failed writes and flushes. The blocks of a failed write are tried one by one, and those that
// cannot be written are never handed out again, even after a restart. A segment whose flush failed takes no more writes
// until the store is reopened, since earlier writes may be lost although a later flush reports nothing. The put is
// written once more elsewhere.
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/group_commit.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr absl::string_view kBadBlocksName = "bad-blocks";
// A segment with more bad blocks than this, or than a quarter of its blocks, takes no more encodings.
constexpr int64_t kMaxBadBlocks = 64;
constexpr int kMaxTries = 2;  // attempts to write a put
// Time to probe a put's blocks one by one, while other puts wait for their flush. Blocks not probed by then count as
// bad: a device that is this slow is failing.
constexpr absl::Duration kProbeTime = absl::Seconds(1);

// The blocks that hold bytes [offset, offset + length) of a stored encoding, manifest included.
std::vector<Run> BlocksOf(const Runs& runs, int64_t offset, int64_t length) {
  const int64_t first = offset / kSegmentBlockBytes, end = BlocksFor(offset + length);
  std::vector<Run> blocks;
  int64_t at = 0;
  for (const Run& run : runs) {
    const int64_t from = std::max(first, at), to = std::min(end, at + run.count);
    if (from < to) blocks.push_back({static_cast<uint32_t>(run.first + (from - at)), static_cast<uint32_t>(to - from)});
    at += run.count;
  }
  return blocks;
}

// Returns `runs` without `bad`, which is ascending and lies within them.
Runs Without(const Runs& runs, const std::vector<Run>& bad) {
  Runs good;
  for (const Run& run : runs) {
    uint32_t next = run.first;
    const uint32_t end = run.first + run.count;
    for (const Run& lost : bad) {
      if (lost.first < run.first || lost.first >= end) continue;
      if (lost.first > next) good.push_back({next, lost.first - next});
      next = lost.first + lost.count;
    }
    if (end > next) good.push_back({next, end - next});
  }
  return good;
}

// Returns the runs in ascending order, with each block once.
std::vector<Run> Merged(std::vector<Run> runs) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  std::vector<Run> merged;
  for (const Run& run : runs) {
    if (!merged.empty() && run.first < merged.back().first + merged.back().count) {
      const uint32_t end = std::max(merged.back().first + merged.back().count, run.first + run.count);
      merged.back().count = end - merged.back().first;
    } else {
      merged.push_back(run);
    }
  }
  return merged;
}

struct alignas(4096) Block {
  std::array<std::byte, kSegmentBlockBytes> bytes{};
};

}  // namespace

void EngineImpl::NoteBadBlocks(PendingPut* put, int64_t offset, int64_t length, const absl::Status& why) {
  const std::vector<Run> blocks = BlocksOf(put->location.runs, offset, length);
  MutexLock lock(&put->mutex);
  if (put->device.ok()) put->device = why;
  put->bad_blocks.insert(put->bad_blocks.end(), blocks.begin(), blocks.end());
}

void EngineImpl::LoseBadBlocks(PendingPut* put) {
  std::vector<Run> bad;
  {
    MutexLock lock(&put->mutex);
    bad = Merged(std::exchange(put->bad_blocks, {}));
  }
  if (!bad.empty()) bad = ProbeBlocks(bad);
  if (bad.empty()) return;
  table_.Lose(put->key.ns, bad);
  put->location.runs = Without(put->location.runs, bad);
  KeepBadBlocks();
}

void EngineImpl::GiveBackBlocks(PendingPut* put) {
  LoseBadBlocks(put);
  table_.Free(put->key.ns, put->location.runs);
  put->location.runs.clear();
}

std::vector<Run> EngineImpl::ProbeBlocks(const std::vector<Run>& blocks) {
  const absl::Time until = SteadyNow() + kProbeTime;
  const auto zeros = std::make_unique<Block>();
  std::vector<Run> bad;
  for (const Run& run : blocks) {
    for (uint32_t block = run.first; block < run.first + run.count; ++block) {
      if (SteadyNow() < until) {
        int64_t offset = 0;
        const auto file = segments_->Locate(block, &offset);
        // Other errors say nothing about the block: its next user will find out.
        if (!file.ok() || !absl::IsDataLoss((*file)->Write(offset, zeros->bytes))) continue;
      }
      const bool adjacent = !bad.empty() && bad.back().first + bad.back().count == block && block != run.first;
      if (adjacent) {
        ++bad.back().count;
      } else {
        bad.push_back({block, 1});
      }
    }
  }
  return bad;
}

void EngineImpl::KeepBadBlocks() {
  SealWornSegments();
  MutexLock lock(&commit_mutex_);
  IndexBatch batch(index_.get());
  batch.PutMeta(kBadBlocksName, SerializeBadBlocks(table_.bad_blocks()));
  // If that fails, the bad blocks are found again after the next open.
  CommitBatch(&batch).IgnoreError();
}

void EngineImpl::SealWornSegments() {
  const int64_t usable = segments_->blocks_per_segment() - 1;
  std::map<uint32_t, int64_t> bad;
  for (const Run& run : table_.bad_blocks()) bad[segments_->SegmentOf(run.first)] += run.count;
  for (const auto& [segment, count] : bad) {
    if (count > std::min(kMaxBadBlocks, usable / 4)) Seal(segment);
  }
}

void EngineImpl::Seal(uint32_t segment) {
  segments_->StopGrowing(segment);
  table_.Seal(segments_->WholeRun(segment));  // including the piece being added to it
  AskMaintenance();
}

absl::Status EngineImpl::LoadBadBlocks() {
  KVLINK_ASSIGN_OR_RETURN(const auto record, index_->GetMeta(kBadBlocksName));
  if (!record.has_value()) return absl::OkStatus();
  const auto runs = ParseBadBlocks(*record);
  if (absl::IsUnimplemented(runs.status())) return runs.status();
  // A damaged record must not prevent serving: writes will find the bad blocks again.
  if (!runs.ok()) return absl::OkStatus();
  table_.LoseFree(*runs);
  SealWornSegments();
  return absl::OkStatus();
}

bool EngineImpl::WriteAgain(const std::shared_ptr<PendingPut>& put) {
  {
    MutexLock lock(&put->mutex);
    if (!put->status.ok() || put->device.ok() || put->tries >= kMaxTries) return false;
  }
  LoseBadBlocks(put.get());
  // Prefer other blocks that are free while the put still holds these; otherwise use what these free, or an eviction.
  std::optional<Runs> elsewhere = table_.Allocate(put->key.ns, put->location.blocks());
  GiveBackBlocks(put.get());
  if (!elsewhere.has_value()) {
    auto runs = AllocateBlocks(put->key.ns, put->location.blocks());
    if (!runs.ok()) return false;
    elsewhere = *std::move(runs);
  }
  put->location.runs = *std::move(elsewhere);
  put->files.clear();
  ++put->tries;
  auto requests = WriteRequests(put);
  if (!requests.ok()) return false;
  {
    MutexLock lock(&put->mutex);
    put->device = absl::OkStatus();
    put->left = put->location.stored_bytes();
    put->Enter(PendingPut::Stage::kWriting);
  }
  ++counters_.puts_written_again;
  group_commit_->Begin();
  io_->Submit(*std::move(requests));
  return true;
}

void EngineImpl::FlushGroup(GroupCommit::Group* group) {
  std::map<uint32_t, absl::Status> flushed;
  for (const auto& put : *group) {
    if (!put->outcome().ok()) continue;
    for (const Run& run : put->location.runs) flushed.try_emplace(segments_->SegmentOf(run.first));
  }
  for (auto& [segment, status] : flushed) {
    status = segments_->Sync(segment);
    if (status.ok()) continue;
    ++counters_.failed_flushes;
    Seal(segment);
  }
  std::erase_if(*group, [&](const std::shared_ptr<PendingPut>& put) {
    if (put->outcome().ok()) {
      for (const Run& run : put->location.runs) {
        const absl::Status& status = flushed[segments_->SegmentOf(run.first)];
        MutexLock lock(&put->mutex);
        if (!status.ok() && put->device.ok()) put->device = status;
      }
    }
    if (WriteAgain(put)) return true;
    put->files.clear();
    MutexLock lock(&put->mutex);
    put->Enter(PendingPut::Stage::kCommitting);
    return false;
  });
}

}  // namespace kvlink::engine
