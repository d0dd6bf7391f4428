// Requests in two steps: first asked, then waited for, so that one thread can ask many nodes concurrently and take the
// first answer.
//
// Thread-safety: Arrivals: all methods, from many threads. A pending request: one thread at a time. Lifetime: pending
// requests must be destroyed before their store. Destroying one abandons the request, and does not block unless stated.
#ifndef KVLINK_STORE_CLIENT_PENDING_H_
#define KVLINK_STORE_CLIENT_PENDING_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/encodings.h"

namespace kvlink::store::client {

// Tells a thread that waits for many requests which of them are ready.
class Arrivals {
 public:
  void Add(uint64_t tag);
  // Returns the tag of the next request, in the order in which they became ready. nullopt: none did before `deadline`.
  std::optional<uint64_t> Next(absl::Time deadline);
  // From now on passes notifications, including pending ones, on to `next`; no thread may wait here any longer. Call
  // once; must not form a cycle.
  void ForwardTo(std::shared_ptr<Arrivals> next);

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<uint64_t> ready_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Arrivals> next_ ABSL_GUARDED_BY(mutex_);
};

// Where a request reports that it is ready, and under which tag. Without `arrivals`, nowhere. A request that was waited
// for directly is still reported; a destroyed one only if it had been reported before.
struct Notify {
  std::shared_ptr<Arrivals> arrivals;
  uint64_t tag = 0;
};

class PendingLookup {
 public:
  virtual ~PendingLookup() = default;
  // Returns the result of Store::Lookup. DEADLINE_EXCEEDED: the answer did not arrive before `deadline` or the
  // request's own deadline; before the latter, Wait may be called again. Any other result is final, and before the
  // request's deadline that is never DEADLINE_EXCEEDED. The request reports once that it is ready; Wait then returns
  // the final result, whatever the deadline.
  virtual absl::StatusOr<std::vector<Found>> Wait(absl::Time deadline) = 0;
};

class PendingReads {
 public:
  using Leases = std::vector<absl::StatusOr<std::unique_ptr<Lease>>>;
  virtual ~PendingReads() = default;
  // Returns the result of Store::ReadMany. DEADLINE_EXCEEDED: some have not answered before `deadline`, and the
  // request's own deadline has not passed; may be called again. At the latter, those without an answer get
  // DEADLINE_EXCEEDED and the others their results. An encoding's bytes start to arrive once it has answered and a
  // thread is in Wait. The request reports that it is ready when all sent requests have answered. Wait then returns the
  // final result, unless some are worth retrying or the node allows fewer at a time than wanted; in that case it
  // reports again.
  virtual absl::StatusOr<Leases> Wait(absl::Time deadline) = 0;
};

// The destructor waits until the slabs are no longer read: soon, and at most as long as an attempt to connect takes. A
// put in progress may have been stored.
class PendingPut {
 public:
  virtual ~PendingPut() = default;
  // Returns the result of Store::Put. DEADLINE_EXCEEDED and readiness as PendingLookup.
  virtual absl::StatusOr<PutResult> Wait(absl::Time deadline) = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_PENDING_H_
