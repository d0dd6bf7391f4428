// Encodings in the memory that attention reads: one copy of each, shared by all requests of the process at any offset.
//
// A resident lives while somebody refers to it; one that nobody refers to stays until its room is needed, and then the
// least recently used goes first. On the host the budget bounds what nobody refers to. On a device it bounds
// everything: a call that lacks room waits for others to let go, and holds nothing while it waits. Those that wait are
// served in the order in which they came, so that what needs much room is not starved by what needs little; a call that
// needs none waits for nobody.
//
// An encoding that a device evicts may still have a copy in host memory (host_tier.h): wanted again, it comes from
// there without the store.
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
#include "worker/infer/resident.h"
#include "worker/model/model.h"

namespace kvlink::infer {

class ResidentPool {
 public:
  struct Options {
    std::string ns = "default";
    Codec codec = Codec::kRawBf16;
    int64_t budget_bytes = int64_t{256} << 20;
    absl::Duration load_timeout = absl::Seconds(10);  // of an answer of the store
    int64_t host_bytes = 0;                           // HostTier of a device; 0: none
    // Of `store`, in memory of the model's device: where encodings arrive. nullptr: on the host.
    std::shared_ptr<store::DeviceBuffer> device_buffer;
  };
  // `store` may be nullptr: nothing is ever found.
  ResidentPool(store::Store* store, const model::Model* model, const Fingerprint& fingerprint, const Options& options);

  struct Wanted {
    Identity identity;
    int64_t tokens = 0;
    bool ask_store = true;  // else only one that no store can fail any more will do
  };
  struct Acquired {
    std::shared_ptr<Resident> resident;  // nullptr: a miss
    bool loaded = false;                 // this call began the load
    Reservation reservation;             // of a miss: what Insert takes
  };
  // How long a call waits for room.
  struct Patience {
    absl::Time deadline = absl::InfiniteFuture();
    std::function<bool()> cancelled;  // asked now and then; may be empty
    // The caller holds residents, whose room others may be waiting for: it does not wait for its turn.
    bool holds = false;
  };
  // One answer for each of `wanted`, which are different, in order. Loading has begun for those of the store; several
  // calls for one identity share one load. Whatever the store cannot give in time (absent, evicted, unavailable, of
  // another shape) is a miss, never an error. RESOURCE_EXHAUSTED: a device has no room for all of them together, or not
  // by the deadline; CANCELLED.
  absl::StatusOr<std::vector<Acquired>> Acquire(absl::Span<const Wanted> wanted, const Patience& patience);
  // The resident of an encoding computed here; the one already there if no store can fail that any more. `reservation`
  // is that of the miss.
  std::shared_ptr<Resident> Insert(std::shared_ptr<const encode::Encoded> encoded, Reservation reservation);
  // The resident if it is here and intact; never asks the store.
  std::shared_ptr<Resident> Find(const Identity& identity);
  // Forgets a resident that proved to be of no use, so that the next request gets another one.
  void Drop(const Resident* resident);
  // Call after releasing residents. Trim evicts unreferenced residents down to the budget, and unreferenced loads to
  // the device that never completed; Clear evicts all unreferenced ones.
  void Trim();
  void Clear();

  struct Stats {
    int64_t residents = 0;
    int64_t bytes = 0;       // of all residents, also of those forgotten that somebody still refers to
    int64_t hits = 0;        // found in the pool
    int64_t loads_dram = 0;  // leases by the tier they were found in
    int64_t loads_disk = 0;
    int64_t loads_host = 0;           // from copies in host memory
    int64_t loads_direct = 0;         // of those from the store, what arrived in the device's memory
    int64_t device_buffer_bytes = 0;  // of Options::device_buffer, in use now
    int64_t misses = 0;
    int64_t store_errors = 0;  // lookups or reads that failed otherwise than by a miss
    int64_t evictions = 0;
    int64_t dropped = 0;  // proved to be of no use
    int64_t waits = 0;    // calls that waited for room
    HostTier::Stats host;
  };
  Stats stats() const;

 private:
  struct Entry {
    Identity identity;
    std::shared_ptr<Resident> resident;  // nullptr: a call is loading it
    // Only the pool refers to it, and only through the pool could somebody else come to.
    bool idle() const { return resident != nullptr && resident.use_count() == 1; }
  };
  using Lru = std::list<Entry>;  // least recently used first
  // A call's findings, and the work left: indices of answers.
  struct Admission {
    std::vector<Acquired> answers;
    std::vector<size_t> mine;    // this call loads these; they have a place
    std::vector<size_t> others;  // another call is loading these
  };

  int64_t BytesOf(const Wanted& wanted) const;
  SlabShape Shape(int64_t tokens) const;
  // Looks everything up and takes room for what is not there, waiting for it. `join`: loads of other calls count.
  absl::StatusOr<Admission> Admit(absl::Span<const Wanted> wanted, bool join, const Patience& patience);
  // The same without waiting. False: there is no room, or it is not this call's `turn` to take some.
  bool TryAdmit(absl::Span<const Wanted> wanted, bool join, bool turn, Admission* admission)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AllocateRooms(Admission& admission);
  // Ends the loading of one identity: puts what came of it (nullptr: a miss) into its place.
  void Settle(const Wanted& wanted, std::shared_ptr<Resident> loaded, Acquired* answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Loads what this call has to load, where the store has it and there is memory.
  void Load(bool memory, absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline);
  // From the copy in host memory. nullptr: there is none of this shape.
  std::shared_ptr<Resident> LoadFromHost(const Wanted& wanted, Reservation& reservation);
  // From the store, into those of `loaded` that are nullptr: one for each of admission.mine.
  void LoadFromStore(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline,
                     absl::Span<std::shared_ptr<Resident>> loaded);
  // As Store::ReadMany; what finds no room there is read again once this pool has let go of what nobody refers to.
  std::vector<absl::StatusOr<std::unique_ptr<store::Lease>>> ReadMany(absl::Span<const store::ReadRequest> reads,
                                                                      absl::Time deadline);
  // nullptr: a miss, or another encoding's lease.
  std::shared_ptr<Resident> ResidentOver(const Wanted& wanted, absl::StatusOr<std::unique_ptr<store::Lease>> lease,
                                         Reservation& reservation);
  // Waits for the loads of others. False: one of them came to nothing, or not in time.
  bool Join(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline);
  void CountError();
  // The place of an identity; end() where there is none, or only one whose bytes the store has taken back.
  Lru::iterator Place(const Identity& identity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropPlace(Lru::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Evicts for `bytes` more. False, evicting nothing, where that would not do.
  bool MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TrimTo(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The place behind it.
  Lru::iterator Evict(Lru::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Store* const store_;
  const model::Model* const model_;
  const Fingerprint fingerprint_;
  const Options options_;
  const bool hard_;  // the budget
  kernels::SlabDecoder decoder_;
  const std::unique_ptr<HostTier> host_;  // nullptr: none
  const Resident::Deps deps_;

  std::atomic<int64_t> used_{0};  // of the budget; grows under mutex_

  mutable Mutex mutex_;
  CondVar changed_;                                // a load ended, or there is room, or it is another's turn
  std::list<char> turns_ ABSL_GUARDED_BY(mutex_);  // a place for each call that waits, in order
  Lru lru_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Identity, Lru::iterator> index_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_RESIDENT_POOL_H_
