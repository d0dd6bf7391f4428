// One encoding in memory: its manifest, its slabs, and how far they have arrived and been verified.
//
// Loads in layer order: pieces of the encoding are read in that order, and each layer becomes usable independently. The
// first waiter for a layer verifies it, once per residency.
//
// Each residency has a unique number, and a slot in the table of generations whose value changes before its memory can
// be reused.
//
// Thread-safety: all methods; a layer's bytes are constant once WaitLayer returned OK. Shared by the tier, by leases
// and by reads in progress; the last of them releases the memory.
#ifndef KVLINK_STORE_ENGINE_MEMORY_RESIDENCY_H_
#define KVLINK_STORE_ENGINE_MEMORY_RESIDENCY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/manifest.h"
#include "store/engine/memory/arena.h"
#include "store/engine/memory/generations.h"

namespace kvlink::engine {

using LayerReadFunction = std::function<void(const absl::Status&)>;
// Why a residency failed: it could not be read, or (`wrong_bytes`) the bytes do not match their checksums.
using FailedFunction = std::function<void(bool wrong_bytes, const absl::Status& why)>;

class Residency {
 public:
  // `pages`: one run for all layers, or one per layer with bytes. Layers start out absent. For memory outside the tier,
  // `generation` is empty and `number` is 0.
  Residency(std::shared_ptr<const Manifest> manifest, std::vector<Pages> pages, GenerationSlot generation = {},
            uint64_t number = 0);
  // For memory of `arena` that SetPages supplies layer by layer.
  static std::shared_ptr<Residency> WithoutPages(std::shared_ptr<const Manifest> manifest, const Arena* arena,
                                                 GenerationSlot generation, uint64_t number);
  // Wraps slabs owned by the caller, which are only read and must outlive every use of this object.
  static std::shared_ptr<Residency> Borrow(std::shared_ptr<const Manifest> manifest,
                                           absl::Span<const absl::Span<const std::byte>> slabs);

  const Manifest& manifest() const { return *manifest_; }
  // For memory allocated before its manifest was known. REQUIRES: layers of the same lengths, and no other reference to
  // this object yet.
  void SetManifest(std::shared_ptr<const Manifest> manifest) { manifest_ = std::move(manifest); }
  // The slab of a layer (writable, for the thread that fills it).
  absl::Span<std::byte> slab(int64_t layer) const { return slabs_[layer]; }
  int64_t bytes() const { return bytes_; }
  // REQUIRES: made by WithoutPages; `pages` has the layer's length; the layer is not in use yet. One call at a time,
  // and none once the encoding is resident.
  void SetPages(int64_t layer, Pages pages);
  // REQUIRES: the memory belongs to the tier. A layer without bytes has a Place in no memory.
  Place place(int64_t layer) const;
  const std::vector<Pages>& pages() const { return pages_; }
  const Arena* arena() const { return arena_; }
  uint64_t number() const { return number_; }
  const GenerationSlot& generation() const { return generation_; }

  // Marks a layer that the filler has copied and verified.
  void SetVerified(int64_t layer);
  // Reports that bytes [offset, offset + length) of the encoding have been read, or could not be.
  void ReadCompleted(int64_t offset, int64_t length, const absl::Status& status);
  // Calls `arrived` once, when all of the layer has arrived (OK; not verified) or with the reason it cannot: within
  // this call if already known, otherwise on the thread that completes the read. It must not block.
  void OnLayerRead(int64_t layer, LayerReadFunction arrived);
  // Calls `failed` once, when the first layer fails, without locks held and before any other thread can learn of it. It
  // must not block. REQUIRES: no other reference to this object yet.
  void OnFailed(FailedFunction failed) { on_failed_ = std::move(failed); }
  // Whether every layer has arrived.
  bool complete() const;
  // Whether a layer could not be read or has wrong bytes; permanent. Layers that have arrived stay usable.
  bool failed() const { return failed_.load(); }

  // As store::Lease::WaitLayer.
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);

 private:
  enum class State : uint8_t { kAbsent, kRead, kVerifying, kVerified, kFailed };

  void SetSlabs(const std::vector<absl::Span<std::byte>>& slabs);
  absl::Status ReadStatus(int64_t layer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(bool wrong_bytes, const absl::Status& why);

  std::shared_ptr<const Manifest> manifest_;
  std::vector<Pages> pages_;
  const Arena* arena_ = nullptr;     // null: memory outside the tier
  const GenerationSlot generation_;  // declared after the pages, so destroyed before them
  const uint64_t number_;
  std::vector<absl::Span<std::byte>> slabs_;
  std::vector<const MemoryPiece*> pieces_;  // containing the slabs; null: memory outside the tier, or none
  int64_t bytes_ = 0;
  FailedFunction on_failed_;
  std::atomic<bool> failed_{false};

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> missing_ ABSL_GUARDED_BY(mutex_);  // per layer, not arrived yet
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);          // why layers are kFailed
  std::vector<std::pair<int64_t, LayerReadFunction>> on_layer_read_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_RESIDENCY_H_
