// One encoding in memory: its manifest, its slabs, and how far they have arrived and been verified.
//
// Loading is in layer order: pieces of the encoding are read in that order and each layer becomes usable on its own.
// A layer is verified by the first who waits for it, once per residency.
//
// A residency has a number that no other gets, and a slot in the table of generations, whose value changes before its
// memory can be another's.
//
// Thread-safety: all methods; a layer's bytes are constant once WaitLayer returned OK. Shared by the tier, by leases
// and by reads in flight; the memory goes back when the last of them is done.
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
// Why a residency failed: it could not be read, or (`wrong_bytes`) what was read is not what its checksums say.
using FailedFunction = std::function<void(bool wrong_bytes, const absl::Status& why)>;

class Residency {
 public:
  // `pages`: one run for all layers, or one per layer that has bytes. Layers start out absent. Of memory outside of
  // the tier `generation` is empty and `number` 0.
  Residency(std::shared_ptr<const Manifest> manifest, std::vector<Pages> pages, GenerationSlot generation = {},
            uint64_t number = 0);
  // In memory of `arena` that SetPages brings, a layer at a time.
  static std::shared_ptr<Residency> WithoutPages(std::shared_ptr<const Manifest> manifest, const Arena* arena,
                                                 GenerationSlot generation, uint64_t number);
  // Over slabs that belong to another and are only read; they outlive every use of this object.
  static std::shared_ptr<Residency> Borrow(std::shared_ptr<const Manifest> manifest,
                                           absl::Span<const absl::Span<const std::byte>> slabs);

  const Manifest& manifest() const { return *manifest_; }
  // Of memory that was taken before its manifest was known. REQUIRES: layers of the same lengths, and nobody else holds
  // this object yet.
  void SetManifest(std::shared_ptr<const Manifest> manifest) { manifest_ = std::move(manifest); }
  // Where layer l's slab lies (writable: for whoever fills it).
  absl::Span<std::byte> slab(int64_t layer) const { return slabs_[layer]; }
  int64_t bytes() const { return bytes_; }
  // REQUIRES: made by WithoutPages; of the layer's length; nobody uses this layer yet. One call at a time, and none
  // once the encoding is resident.
  void SetPages(int64_t layer, Pages pages);
  // REQUIRES: its memory is of the tier. Of a layer without bytes: of no memory.
  Place place(int64_t layer) const;
  const std::vector<Pages>& pages() const { return pages_; }
  const Arena* arena() const { return arena_; }
  uint64_t number() const { return number_; }
  const GenerationSlot& generation() const { return generation_; }

  // The filler copied and verified layer l.
  void SetVerified(int64_t layer);
  // Bytes [offset, offset + length) of the encoding have been read, or could not be.
  void ReadCompleted(int64_t offset, int64_t length, const absl::Status& status);
  // Calls `arrived` once when all of layer l has arrived (OK, not verified) or cannot (why): within the call if that is
  // known already, else by the thread that completes the read. It must not wait.
  void OnLayerRead(int64_t layer, LayerReadFunction arrived);
  // Calls `failed` once, when the first layer fails, without locks and before anybody else can know. It must not wait.
  // REQUIRES: nobody else holds this object yet.
  void OnFailed(FailedFunction failed) { on_failed_ = std::move(failed); }
  // Whether every layer has arrived.
  bool complete() const;
  // Whether a layer could not be read, or has wrong bytes: for good. What has arrived besides stays usable.
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
  const Arena* arena_ = nullptr;     // null: memory outside of the tier
  const GenerationSlot generation_;  // after the pages: it is destroyed before them
  const uint64_t number_;
  std::vector<absl::Span<std::byte>> slabs_;
  std::vector<const MemoryPiece*> pieces_;  // that the slabs lie in; null: memory outside of the tier, or none
  int64_t bytes_ = 0;
  FailedFunction on_failed_;
  std::atomic<bool> failed_{false};

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> missing_ ABSL_GUARDED_BY(mutex_);  // bytes of each layer not arrived yet
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);          // why layers are kFailed
  std::vector<std::pair<int64_t, LayerReadFunction>> on_layer_read_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_RESIDENCY_H_
