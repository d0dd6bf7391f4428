// Encodings in the memory that attention reads: one copy of each, shared by all requests of the process at any offset.
//
// raw-bf16, raw-f32 and q8 are read where the store's lease has them; q4 is expanded once, layer by layer as it lands,
// into memory of the pool. An encoding computed here (a miss) is resident as it was computed. A resident lives while
// somebody refers to it; one that nobody refers to stays until the pool is over its budget, and then the least recently
// used goes first.
//
// Thread-safety: all methods of both classes. Lifetime: the store, the backend and the pool outlive every resident.
#ifndef KVLINK_WORKER_INFER_RESIDENT_POOL_H_
#define KVLINK_WORKER_INFER_RESIDENT_POOL_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "kernels/kernels.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/model/model.h"

namespace kvlink::infer {

class Resident {
 public:
  // Of bytes in a store, and of bytes computed here. `rope` and `backend` serve the expansion of q4 and outlive the
  // object. RESOURCE_EXHAUSTED: no memory to expand into.
  static absl::StatusOr<std::shared_ptr<Resident>> FromLease(std::unique_ptr<store::Lease> lease,
                                                             kernels::Backend* backend, const kernels::Rope* rope);
  static absl::StatusOr<std::shared_ptr<Resident>> FromEncoded(std::shared_ptr<const encode::Encoded> encoded,
                                                               kernels::Backend* backend, const kernels::Rope* rope);

  const Manifest& manifest() const;
  const Identity& identity() const { return identity_; }
  int64_t tokens() const { return tokens_; }
  // Where the bytes came from; kNone: computed here.
  store::Tier source() const { return source_; }
  // Bytes this resident holds in memory.
  int64_t bytes() const { return bytes_; }

  // Waits until the layer's bytes are in memory, verified and, for q4, expanded. To be called in layer order.
  // DATA_LOSS, DEADLINE_EXCEEDED and UNAVAILABLE as Lease::WaitLayer; the resident then is of no use.
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // As Lease::intact, of what attention reads.
  bool intact() const { return lease_ == nullptr || (expanded_.data() != nullptr && ready()) || lease_->intact(); }
  // True once WaitLayer has returned OK for every layer.
  bool ready() const { return landed_.load(std::memory_order_acquire) == static_cast<int64_t>(layer_data_.size()); }
  // What attention reads; layer l only after WaitLayer(l) returned OK. Valid as long as the resident.
  kernels::KvSegment segment() const;

 private:
  Resident() = default;
  absl::Status Prepare(kernels::Backend* backend, const kernels::Rope* rope);
  absl::Status Expand(int64_t layer, absl::Span<const std::byte> slab) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Available(int64_t layer, absl::Time deadline, absl::Span<const std::byte>* slab);

  // Set before the object is shared.
  Identity identity_;
  int64_t tokens_ = 0;
  int64_t bytes_ = 0;
  store::Tier source_ = store::Tier::kNone;
  SlabShape stored_;    // of each layer as stored
  SlabShape resident_;  // as attention reads it
  kernels::Backend* backend_ = nullptr;
  const kernels::Rope* rope_ = nullptr;
  std::unique_ptr<store::Lease> lease_;  // one of the two
  std::shared_ptr<const encode::Encoded> encoded_;
  kernels::Buffer expanded_;                 // q4 only
  std::unique_ptr<kernels::Stream> stream_;  // q4 only

  Mutex mutex_;
  std::atomic<int64_t> landed_{0};  // layers; advanced under mutex_
  // Element l is written once, under mutex_, before landed_ passes l; read only by those who waited for it.
  std::vector<const std::byte*> layer_data_;
};

class ResidentPool {
 public:
  struct Options {
    std::string ns = "default";
    Codec codec = Codec::kRawBf16;
    int64_t budget_bytes = int64_t{256} << 20;  // beyond it, encodings nobody refers to go
  };
  // `store` may be nullptr: nothing is ever found.
  ResidentPool(store::Store* store, const model::Model* model, const Fingerprint& fingerprint, const Options& options);

  struct Acquired {
    std::shared_ptr<Resident> resident;  // nullptr: a miss
    bool loaded = false;                 // this call began the load
  };
  // One answer per identity, in order. Loading has begun for those of the store; several calls for one identity share
  // one load. Whatever the store cannot give by `deadline` (absent, evicted, unavailable, of another shape) is a miss,
  // never an error.
  std::vector<Acquired> Acquire(absl::Span<const Identity> identities, absl::Time deadline);
  // The resident of an encoding computed here; the one already there if that has landed whole and is intact.
  absl::StatusOr<std::shared_ptr<Resident>> Insert(std::shared_ptr<const encode::Encoded> encoded);
  // The resident if it is here and intact; never asks the store.
  std::shared_ptr<Resident> Find(const Identity& identity);
  // Forgets a resident that proved to be of no use, so that the next request gets another one.
  void Drop(const Resident* resident);
  // Evicts what nobody refers to, down to the budget, or all of it.
  void Trim();
  void Clear();

  struct Stats {
    int64_t residents = 0;
    int64_t bytes = 0;
    int64_t hits = 0;        // found in the pool
    int64_t loads_dram = 0;  // leases by the tier they were found in
    int64_t loads_segments = 0;
    int64_t misses = 0;
    int64_t store_errors = 0;  // lookups or reads that failed otherwise than by a miss
    int64_t evictions = 0;
    int64_t dropped = 0;  // proved to be of no use
  };
  Stats stats() const;

 private:
  struct Entry {
    Identity identity;
    std::shared_ptr<Resident> resident;  // nullptr: a call is loading it
  };
  using Lru = std::list<Entry>;  // least recently used first

  // Ends the loading of one identity: puts what came of it (nullptr: a miss) into its place.
  Acquired Settle(const Identity& identity, std::shared_ptr<Resident> loaded) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The store's answer for each identity; nullptr for a miss.
  std::vector<std::shared_ptr<Resident>> Load(absl::Span<const Identity> identities, absl::Time deadline);
  std::shared_ptr<Resident> LoadOne(const Identity& identity, const store::Found& found, absl::Time deadline);
  void CountError();
  // The place of an identity; end() where there is none, or only one whose bytes the store has taken back.
  Lru::iterator Place(const Identity& identity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropPlace(Lru::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TrimTo(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Store* const store_;
  const model::Model* const model_;
  const Fingerprint fingerprint_;
  const Options options_;

  mutable Mutex mutex_;
  CondVar loaded_;
  Lru lru_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Identity, Lru::iterator> index_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_POOL_H_
