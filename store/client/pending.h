// Requests in two steps: asked for, then waited for, so that one thread asks many nodes side by side and takes the
// first answer that comes.
//
// Thread-safety: Arrivals: all methods, by many threads. A pending request: by one thread at a time. Lifetime: pending
// requests are destroyed before their store; destroying one gives up what it asked for, and waits for nobody but where
// it says so.
#ifndef KVLINK_STORE_CLIENT_PENDING_H_
#define KVLINK_STORE_CLIENT_PENDING_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/encodings.h"

namespace kvlink::store::client {

// Tells whoever waits for many requests which of them can be waited for without delay.
class Arrivals {
 public:
  void Add(uint64_t tag);
  // The tag of the next request, in the order in which they became ready; nothing: none did by `deadline`. One thread
  // at a time. Whoever has nothing to do before `wanted` are ready is woken once for all of them. `at`, unless null:
  // when it became ready.
  std::optional<uint64_t> Next(absl::Time deadline, size_t wanted = 1, absl::Time* at = nullptr);
  // From now on `next` is told, of what is ready now as well; nobody waits here any more. Once, and never in a circle.
  void ForwardTo(std::shared_ptr<Arrivals> next);

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::pair<uint64_t, absl::Time>> ready_ ABSL_GUARDED_BY(mutex_);
  size_t wanted_ ABSL_GUARDED_BY(mutex_) = 1;  // by whoever waits
  std::shared_ptr<Arrivals> next_ ABSL_GUARDED_BY(mutex_);
};

// Where a request is to say that it is ready, and as which. Without `arrivals`, nowhere. Whoever waited for it without
// them meanwhile hears of it all the same; of one that was destroyed, only what it had said before.
struct Notify {
  std::shared_ptr<Arrivals> arrivals;
  uint64_t tag = 0;
};

class PendingLookup {
 public:
  virtual ~PendingLookup() = default;
  // What Store::Lookup gives. DEADLINE_EXCEEDED where the answer is not there by `deadline` or by that of the request:
  // before the latter it may be waited for again. Anything else is the end, and before the deadline of the request that
  // is never DEADLINE_EXCEEDED. The request says once that it is ready: Wait then gives its end, whatever the time.
  virtual absl::StatusOr<std::vector<Found>> Wait(absl::Time deadline) = 0;
};

class PendingReads {
 public:
  using Leases = std::vector<absl::StatusOr<std::unique_ptr<Lease>>>;
  virtual ~PendingReads() = default;
  // What Store::ReadMany gives. DEADLINE_EXCEEDED: not all have answered by `deadline`, before that of the request; may
  // be called again. At the latter, those that have not answered are DEADLINE_EXCEEDED and the others what they are.
  // The bytes of an encoding begin to come when it has answered and somebody is in here. The requests say that they are
  // ready when all that were asked for have answered: Wait then gives their end, unless some are worth another attempt
  // or the node allows fewer at a time than were wanted; it is then said again.
  virtual absl::StatusOr<Leases> Wait(absl::Time deadline) = 0;
};

// Destroying it waits until nothing of the slabs is read any more: soon, and at most for an attempt to connect. What
// was on its way may have been stored.
class PendingPut {
 public:
  virtual ~PendingPut() = default;
  // What Store::Put gives. DEADLINE_EXCEEDED and ready as PendingLookup.
  virtual absl::StatusOr<PutResult> Wait(absl::Time deadline) = 0;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_PENDING_H_
