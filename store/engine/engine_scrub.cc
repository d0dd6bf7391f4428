// Reading encodings back from the segments, past the DRAM tier: for Verify, Suspect, and the scrubber in the
// background.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr size_t kLayersAhead = 4;  // of one encoding in memory
constexpr int64_t kKeysAtOnce = 256;
constexpr absl::Duration kBetweenRounds = absl::Seconds(1);  // at least
// The scrubber waits while somebody waits for reads, but not forever.
constexpr absl::Duration kMaxYield = absl::Milliseconds(100);
constexpr int kNice = 15;

// Memory for a few layers at a time: layer l lies where layer l - kLayersAhead did. Shared with the reads under way.
struct LayerBuffers {
  std::vector<Pages> pages;

  static absl::StatusOr<std::shared_ptr<LayerBuffers>> For(const Manifest& manifest) {
    auto buffers = std::make_shared<LayerBuffers>();
    for (size_t slot = 0; slot < std::min(kLayersAhead, manifest.layers.size()); ++slot) {
      int64_t bytes = kSlabAlignment;
      for (size_t layer = slot; layer < manifest.layers.size(); layer += kLayersAhead)
        bytes = std::max(bytes, manifest.layers[layer].length);
      // A page more than it needs: where two slabs touched, one request would read parts of both.
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

absl::Status Engine::VerifyEncoding(const EntryUse& use, bool background, const std::function<bool(int64_t)>& next) {
  KVLINK_ASSIGN_OR_RETURN(Manifest parsed, ManifestOf(use.key(), use.location()));
  const auto manifest = std::make_shared<const Manifest>(std::move(parsed));
  const size_t layers = manifest->layers.size();
  KVLINK_ASSIGN_OR_RETURN(const auto buffers, LayerBuffers::For(*manifest));
  const std::shared_ptr<Residency> residency = Residency::Borrow(manifest, buffers->Slabs(*manifest));
  KVLINK_ASSIGN_OR_RETURN(std::vector<IoRequest> requests,
                          Requests(*residency, use.location().runs, /*write=*/false,
                                   [residency, buffers](int64_t offset, int64_t length, const absl::Status& status) {
                                     residency->Landed(offset, length, status);
                                   }));
  auto request = requests.begin();
  size_t submitted = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    for (; submitted < std::min(layers, layer + kLayersAhead); ++submitted) {
      int64_t left = manifest->layers[submitted].length;
      if (next && !next(left)) return absl::CancelledError("stopped");
      std::vector<IoRequest> of_layer;
      while (left > 0 && request != requests.end()) {
        request->background = background;
        left -= request->length;
        of_layer.push_back(std::move(*request++));
      }
      io_->Submit(std::move(of_layer));
    }
    KVLINK_RETURN_IF_ERROR(residency->WaitLayer(layer, absl::InfiniteFuture()));
  }
  return absl::OkStatus();
}

// Waits until so many bytes more are within the limit, and nobody waits for reads. False: the engine is closing.
bool Engine::PaceScrub(int64_t bytes, absl::Time* free_at) {
  const absl::Time now = SteadyNow();
  const absl::Time start = std::max(*free_at, now);
  *free_at = start + absl::Seconds(static_cast<double>(bytes) / static_cast<double>(options_.scrub_bytes_per_second));
  const absl::Time yield_until = start + kMaxYield;
  MutexLock lock(&maintain_mutex_);
  while (!stop_ && SteadyNow() < start) scrub_wake_.WaitUntil(&maintain_mutex_, start);
  while (!stop_ && SteadyNow() < yield_until) {
    const BulkIo::Depths depths = io_->depths();
    if (depths.reads_waiting + depths.reads_in_flight == 0) break;
    scrub_wake_.WaitUntil(&maintain_mutex_, SteadyNow() + absl::Milliseconds(1));
  }
  return !stop_;
}

bool Engine::ScrubRound() {
  absl::Time free_at = SteadyNow();
  std::optional<EncodingKey> after;
  for (;;) {
    const auto keys = index_->KeysAfter(after, kKeysAtOnce);
    // What does not list now may do so in the next round; opening the store says what is wrong with the index.
    if (!keys.ok() || keys->empty()) return true;
    for (const EncodingKey& key : *keys) {
      const EntryUse use = table_.Use(key, /*touch=*/false);
      if (!use) continue;  // removed meanwhile
      const absl::Status status =
          VerifyEncoding(use, /*background=*/true, [&](int64_t bytes) { return PaceScrub(bytes, &free_at); });
      if (absl::IsCancelled(status)) return false;
      if (absl::IsDataLoss(status)) {
        DropDamaged(key, use.location().sequence);
        ++counters_.scrub_damaged;
      }
      ++counters_.scrubbed_encodings;
      counters_.scrubbed_bytes += use.location().bytes;
    }
    after = keys->back();
  }
}

void Engine::Scrub() {
  // Its checksums are to take no reader's processor; without permission to step back it just goes on.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  for (;;) {
    const absl::Time next = SteadyNow() + kBetweenRounds;
    if (!ScrubRound()) return;
    ++counters_.scrub_rounds;
    MutexLock lock(&maintain_mutex_);
    while (!stop_ && SteadyNow() < next) scrub_wake_.WaitUntil(&maintain_mutex_, next);
    if (stop_) return;
  }
}

}  // namespace kvlink::engine
