// Encodings in the memory that attention reads: one copy of each, shared by all requests of the process at any offset.
//
// A resident lives while it is referenced. An unreferenced one stays until its room is needed; the least recently used
// is evicted first. On the host the budget bounds unreferenced residents. On a device it bounds all of them: a call
// that lacks room waits for others to release theirs, and holds nothing while it waits. Waiting calls are served in
// order of arrival, so that small ones cannot starve a large one; a call that needs no room does not wait.
//
// An encoding evicted from a device may still have a copy in host memory (host_tier.h), from which it returns without
// the store.
//
// Thread-safety: all methods. Lifetime: the store, the model and the pool outlive every resident.
#ifndef KVLINK_WORKER_INFER_RESIDENT_POOL_H_
#define KVLINK_WORKER_INFER_RESIDENT_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
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
#include "kernels/device/slab_decoder.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/infer/host_tier.h"
#include "worker/infer/phases.h"
#include "worker/infer/resident.h"
#include "worker/model/model.h"

namespace kvlink::infer {

class ResidentPool {
 public:
  struct Options {
    std::string ns = "default";
    Codec codec = Codec::kRawBf16;
    int64_t budget_bytes = int64_t{256} << 20;
    absl::Duration load_timeout = absl::Seconds(10);  // for an answer of the store
    int64_t host_bytes = 0;                           // HostTier of a device; 0: none
    // Belongs to `store`, in memory of the model's device: where encodings arrive. nullptr: they arrive on the host.
    std::shared_ptr<store::DeviceBuffer> device_buffer;
  };
  // `store` may be nullptr: then every encoding is a miss.
  ResidentPool(store::Store* store, const model::Model* model, const Fingerprint& fingerprint, const Options& options);

  struct Wanted {
    Identity identity;
    int64_t tokens = 0;
    bool ask_store = true;  // otherwise accept only one that no store can invalidate
  };
  struct Acquired {
    std::shared_ptr<Resident> resident;  // nullptr: a miss
    bool loaded = false;                 // this call started the load
    Reservation reservation;             // of a miss: to be passed to Insert
    Phase lookup;                        // the store was asked whether it has it
    absl::Time asked;                    // of a load: when its bytes were asked for
  };
  // How long a call waits for room.
  struct Patience {
    absl::Time deadline = absl::InfiniteFuture();
    std::function<bool()> cancelled;  // asked now and then; may be empty
    // The caller holds residents that others may wait for, so it does not queue.
    bool holds = false;
  };
  // Returns one answer for each of `wanted`, which must be distinct, in order. Loading from the store has begun; calls
  // for the same identity share one load. Whatever the store cannot provide in time (absent, evicted, unavailable, of
  // another shape) is a miss, never an error. INVALID_ARGUMENT: all of them together exceed the whole budget.
  // RESOURCE_EXHAUSTED: a device has no room for them, or none by the deadline; CANCELLED.
  absl::StatusOr<std::vector<Acquired>> Acquire(absl::Span<const Wanted> wanted, const Patience& patience);
  // The residents of all of `wanted`, if all are present and complete; otherwise nothing. Does not block.
  std::vector<std::shared_ptr<Resident>> FindAll(absl::Span<const Wanted> wanted);
  // Adds an encoding computed here and returns its resident, or the existing one if no store can invalidate that any
  // more. `reservation` is the one of the miss.
  std::shared_ptr<Resident> Insert(std::shared_ptr<const encode::Encoded> encoded, Reservation reservation);
  // Returns the resident if it is present and intact; never asks the store.
  std::shared_ptr<Resident> Find(const Identity& identity);
  // Forgets a resident that turned out to be unusable, so that the next request gets another.
  void Drop(const Resident* resident);
  // Call after releasing residents. Trim evicts unreferenced residents down to the budget, and unreferenced loads to
  // the device that never completed; Clear evicts all unreferenced ones.
  void Trim();
  void Clear();

  struct Stats {
    int64_t residents = 0;
    int64_t bytes = 0;       // of all residents, including forgotten ones still referenced
    int64_t hits = 0;        // found in the pool
    int64_t loads_dram = 0;  // leases, by the tier they were found in
    int64_t loads_disk = 0;
    int64_t loads_host = 0;           // from copies in host memory
    int64_t loads_direct = 0;         // those from the store that arrived in device memory
    int64_t device_buffer_bytes = 0;  // of Options::device_buffer, in use now
    int64_t misses = 0;
    int64_t store_errors = 0;  // lookups or reads that failed other than by a miss
    int64_t evictions = 0;
    int64_t dropped = 0;  // turned out to be unusable
    int64_t waits = 0;    // calls that waited for room
    HostTier::Stats host;
  };
  Stats stats() const;

 private:
  struct Entry {
    Identity identity;
    std::shared_ptr<Resident> resident;  // nullptr: a call is loading it
    // Referenced only by the pool, so new references can come only through it.
    bool idle() const { return resident != nullptr && resident.use_count() == 1; }
  };
  using Lru = std::list<Entry>;  // least recently used first
  // A call's findings and remaining work, as indices into answers.
  struct Admission {
    std::vector<Acquired> answers;
    std::vector<size_t> mine;    // for this call to load; they have a place
    std::vector<size_t> others;  // being loaded by another call
  };

  int64_t BytesOf(const Wanted& wanted) const;
  SlabShape Shape(int64_t tokens) const;
  // Looks everything up and reserves room for misses, waiting for it. `join`: accept loads in progress of other calls.
  absl::StatusOr<Admission> Admit(absl::Span<const Wanted> wanted, bool join, const Patience& patience);
  // The same without waiting. False: there is no room, or it is not this call's `turn`.
  bool TryAdmit(absl::Span<const Wanted> wanted, bool join, bool turn, Admission* admission)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AllocateRooms(Admission& admission);
  // Ends the loading of one identity: puts the result (nullptr: a miss) into its place.
  void Settle(const Wanted& wanted, std::shared_ptr<Resident> loaded, Acquired* answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Loads this call's encodings where the store has them and there is memory.
  void Load(bool memory, absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline);
  // From the copy in host memory. nullptr: none of this shape.
  std::shared_ptr<Resident> LoadFromHost(const Wanted& wanted, Reservation& reservation);
  // Loads from the store into those of `loaded` that are nullptr; `loaded` has one element for each of admission.mine.
  void LoadFromStore(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline,
                     absl::Span<std::shared_ptr<Resident>> loaded);
  // Like Store::ReadMany; reads that find no room in the store are repeated after releasing unreferenced residents.
  std::vector<absl::StatusOr<std::unique_ptr<store::Lease>>> ReadMany(absl::Span<const store::ReadRequest> reads,
                                                                      absl::Time deadline);
  // nullptr: a miss, or a lease on another encoding.
  std::shared_ptr<Resident> ResidentOver(const Wanted& wanted, absl::StatusOr<std::unique_ptr<store::Lease>> lease,
                                         Reservation& reservation);
  // Waits for loads of other calls. False: one of them failed or was late.
  bool Join(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline);
  void CountError();
  // The place of an identity; end() if there is none, or the store has taken back its bytes.
  Lru::iterator Place(const Identity& identity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropPlace(Lru::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Evicts to make room for `bytes` more. False, evicting nothing, if that would not suffice.
  bool MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TrimTo(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns the next place.
  Lru::iterator Evict(Lru::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Store* const store_;
  const model::Model* const model_;
  const Fingerprint fingerprint_;
  const Options options_;
  const bool hard_;  // the budget bounds all residents, not only unreferenced ones
  kernels::SlabDecoder decoder_;
  const std::unique_ptr<HostTier> host_;  // nullptr: none
  const Resident::Deps deps_;

  std::atomic<int64_t> used_{0};  // of the budget; grows under mutex_

  mutable Mutex mutex_;
  CondVar changed_;                                // a load ended, there is room, or the turn changed
  std::list<char> turns_ ABSL_GUARDED_BY(mutex_);  // one element per waiting call, in order
  Lru lru_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Identity, Lru::iterator> index_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_POOL_H_
