// Reads encodings back from the segments, bypassing the DRAM tier: for Verify, Suspect, failed reads, and the scrubber.
// Anything found wrong is read once more before it counts: a device that fails once is not a damaged encoding. One
// thread does the background work: first requested checks, then rounds over everything.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "base/thread.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr size_t kLayersAhead = 4;   // of one encoding, in memory
constexpr size_t kMaxChecks = 1024;  // queued; a check that finds no place is requested again by the next reader
// The scrubber yields to waiting reads, but only this long.
constexpr absl::Duration kMaxYield = absl::Milliseconds(100);
constexpr int kNice = 15;

// Memory for a few layers at a time: layer l reuses the memory of layer l - kLayersAhead. Shared with the reads in
// progress.
struct LayerBuffers {
  std::vector<Pages> pages;

  static absl::StatusOr<std::shared_ptr<LayerBuffers>> For(const Manifest& manifest) {
    auto buffers = std::make_shared<LayerBuffers>();
    for (size_t slot = 0; slot < std::min(kLayersAhead, manifest.layers.size()); ++slot) {
      int64_t bytes = kSlabAlignment;
      for (size_t layer = slot; layer < manifest.layers.size(); layer += kLayersAhead)
        bytes = std::max(bytes, manifest.layers[layer].length);
      // One page more than needed: if two slabs were contiguous, one request would read parts of both.
      KVLINK_ASSIGN_OR_RETURN(Pages pages, Pages::Heap(bytes + kSlabAlignment));
      buffers->pages.push_back(std::move(pages));
    }
    return buffers;
  }
  std::vector<absl::Span<const std::byte>> Slabs(const Manifest& manifest) const {
    std::vector<absl::Span<const std::byte>> slabs;
    for (size_t layer = 0; layer < manifest.layers.size(); ++layer)
      slabs.emplace_back(pages[layer % kLayersAhead].data(), manifest.layers[layer].length);
    return slabs;
  }
};

}  // namespace

absl::Status EngineImpl::VerifyEncoding(const EntryUse& use, const std::function<bool(int64_t)>& next) {
  const absl::Status first = ReadBack(use, next);
  if (!absl::IsDataLoss(first) && !absl::IsUnavailable(first)) return first;
  return ReadBack(use, next);
}

absl::Status EngineImpl::ReadBack(const EntryUse& use, const std::function<bool(int64_t)>& next) {
  if (next && !next(use.location().manifest_area())) return absl::CancelledError("stopped");
  KVLINK_ASSIGN_OR_RETURN(const Pages area, ReadManifestArea(use, /*background=*/true, absl::InfiniteFuture()));
  KVLINK_ASSIGN_OR_RETURN(Manifest stored, StoredManifest(area, use.key(), use.location()));
  const auto manifest = std::make_shared<const Manifest>(std::move(stored));
  const size_t layers = manifest->layers.size();
  KVLINK_ASSIGN_OR_RETURN(const auto buffers, LayerBuffers::For(*manifest));
  const std::shared_ptr<Residency> residency = Residency::Borrow(manifest, buffers->Slabs(*manifest));
  KVLINK_ASSIGN_OR_RETURN(std::vector<IoRequest> requests,
                          ReadRequests(residency, use.location(), /*background=*/true, buffers));
  auto request = requests.begin();
  size_t submitted = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    for (; submitted < std::min(layers, layer + kLayersAhead); ++submitted) {
      int64_t left = manifest->layers[submitted].length;
      if (next && !next(left)) return absl::CancelledError("stopped");
      std::vector<IoRequest> of_layer;
      while (left > 0 && request != requests.end()) {
        left -= request->length;
        of_layer.push_back(std::move(*request++));
      }
      io_->Submit(std::move(of_layer));
    }
    KVLINK_RETURN_IF_ERROR(residency->WaitLayer(layer, absl::InfiniteFuture()));
  }
  return absl::OkStatus();
}

void EngineImpl::AskCheck(const EncodingKey& key, uint64_t sequence, bool counted) {
  MutexLock lock(&check_mutex_);
  if (checks_.size() >= kMaxChecks || !checking_.insert(sequence).second) return;
  checks_.push_back({key, sequence, counted});
  check_wake_.SignalAll();
}

void EngineImpl::AwaitCheck(uint64_t sequence, absl::Time deadline) {
  MutexLock lock(&check_mutex_);
  while (checking_.contains(sequence) && !stop_checking_) {
    if (!check_wake_.WaitUntil(&check_mutex_, deadline)) return;
  }
}

// Returns the next check; nullopt at `until`, or if the engine is closing.
std::optional<EngineImpl::Check> EngineImpl::NextCheck(absl::Time until) {
  MutexLock lock(&check_mutex_);
  while (checks_.empty() && !stop_checking_) {
    if (!check_wake_.WaitUntil(&check_mutex_, until)) return std::nullopt;
  }
  if (stop_checking_) return std::nullopt;
  Check check = std::move(checks_.front());
  checks_.pop_front();
  return check;
}

void EngineImpl::CheckOne(const Check& check) {
  const EntryUse use = table_.Use(check.key, /*touch=*/false);
  if (use && use.location().sequence == check.sequence) {
    const absl::Status status = VerifyEncoding(use, [this](int64_t) { return !closing(); });
    if (absl::IsDataLoss(status)) DropDamaged(check.key, check.sequence, status.message(), !check.counted);
  }
  MutexLock lock(&check_mutex_);
  checking_.erase(check.sequence);
  check_wake_.SignalAll();
}

bool EngineImpl::closing() const {
  MutexLock lock(&check_mutex_);
  return stop_checking_;
}

// Waits until `bytes` more are within the rate limit and no reader waits for the disk; meanwhile runs requested checks.
// Returns false if the engine is closing.
bool EngineImpl::PaceScrub(int64_t bytes, absl::Time* free_at) {
  const absl::Time start = std::max(*free_at, SteadyNow());
  *free_at = start + absl::Seconds(static_cast<double>(bytes) / static_cast<double>(options_.scrub_bytes_per_second));
  // Also if the disk is slower than the limit: a caller may be waiting for a check.
  while (const auto check = NextCheck(start)) {
    CheckOne(*check);
    if (closing()) return false;
  }
  if (closing()) return false;
  const absl::Time yield_until = start + kMaxYield;
  while (SteadyNow() < yield_until) {
    const BulkIo::Depths depths = io_->depths();
    if (depths.reads_waiting + depths.reads_in_flight == 0) break;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return !closing();
}

bool EngineImpl::ScrubRound() {
  absl::Time free_at = SteadyNow();
  std::optional<EncodingKey> after;
  for (;;) {
    const auto keys = index_->KeysAfter(after, kKeysAtOnce);
    // A listing that fails may succeed in the next round; opening the store reports problems of the index.
    if (!keys.ok() || keys->empty()) return true;
    for (const EncodingKey& key : *keys) {
      const EntryUse use = table_.Use(key, /*touch=*/false);
      if (!use) continue;  // removed meanwhile
      const absl::Status status = VerifyEncoding(use, [&](int64_t bytes) { return PaceScrub(bytes, &free_at); });
      if (absl::IsCancelled(status)) return false;
      if (absl::IsDataLoss(status)) {
        DropDamaged(key, use.location().sequence, status.message());
        ++counters_.scrub_damaged;
      }
      ++counters_.scrubbed_encodings;
      counters_.scrubbed_bytes += use.location().bytes;
    }
    after = keys->back();
  }
}

void EngineImpl::RunChecks() {
  AddNiceness(kNice);  // checksums should not compete with readers for processors
  const bool scrubs = options_.scrub_bytes_per_second > 0 && !options_.read_only;
  absl::Time next_round = scrubs ? SteadyNow() : absl::InfiniteFuture();
  while (!closing()) {
    if (SteadyNow() >= next_round) {
      next_round = SteadyNow() + options_.scrub_round;
      if (!ScrubRound()) return;
      ++counters_.scrub_rounds;
    } else if (const auto check = NextCheck(next_round)) {
      CheckOne(*check);
    }
  }
}

}  // namespace kvlink::engine
