// Clients of a store that write and read under faults, and what they may observe.
//
// Invariants: a successful read returns the bytes that were written; an acknowledged encoding is there, whole; any
// other is whole or absent; a call ends by its deadline (plus kHangGuard, for a busy machine); a failed call says that
// the store was unreachable, late or full.
#ifndef KVLINK_TESTS_INTEGRATION_TRAFFIC_H_
#define KVLINK_TESTS_INTEGRATION_TRAFFIC_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/store.h"
#include "tests/integration/journal.h"
#include "tests/store/synthetic.h"

namespace kvlink::testing {

inline constexpr char kTrafficNamespace[] = "faults";
inline constexpr absl::Duration kHangGuard = absl::Seconds(20);
// Deadline of calls without faults.
inline constexpr absl::Duration kPatience = absl::Minutes(1);

// Encoding number `number`, from 20 KiB to 4 MiB, derived entirely from the number. The most recent ones are cached.
// Thread-safe.
std::shared_ptr<const Synthetic> EncodingOf(uint64_t number);
// 4 MiB; every encoding has at least 2 layers.
inline bool IsLarge(uint64_t number) { return number % 4 == 0 || number % 4 == 3; }

struct TrafficOptions {
  uint64_t seed = 1;
  uint64_t first = 0;       // number of its first own encoding; others follow
  double writes = 0.5;      // share of calls
  bool large_only = false;  // for its writes
  // This many encodings of its own, made in advance, are written, removed and written again, so that bytes are nearly
  // always in transit. 0: always new encodings, which stay.
  size_t recycle = 0;
  bool evictions = false;                      // acknowledged encodings may be gone
  bool corruption = false;                     // the network flips bits
  absl::Duration deadline = absl::Seconds(5);  // of each call
};

// Counts clients' calls and their results; may be shared. Thread-safe.
class TrafficCounts {
 public:
  void Add(const std::string& what);
  int64_t of(const std::string& what) const;
  // Calls that ended with an error.
  int64_t failed() const;
  std::string Text() const;

 private:
  mutable Mutex mutex_;
  std::map<std::string, int64_t> counts_ ABSL_GUARDED_BY(mutex_);
};

// One client's calls, in sequence. Thread-safety: one thread at a time.
class Traffic {
 public:
  // All arguments outlive it. `store` has request_timeout == options.deadline, if it has one.
  Traffic(store::Store* store, Journal* journal, TrafficCounts* counts, const TrafficOptions& options);

  // Makes one call, chosen by the seed. An error means a broken promise.
  absl::Status Step();
  absl::Status Write(uint64_t number);
  absl::Status Read(uint64_t number);

 private:
  uint64_t NewNumber();
  // The next recycled number, removed if it was written before.
  absl::StatusOr<uint64_t> Recycled();
  // `removals`: journal->removals() from before the number was seen to be known.
  absl::Status ReadSince(uint64_t number, int64_t removals);
  // Checks whether a call begun at `start` may end with this status.
  absl::Status Judge(const std::string& call, uint64_t number, const absl::Status& status, absl::Time start);

  store::Store* const store_;
  Journal* const journal_;
  TrafficCounts* const counts_;
  const TrafficOptions options_;
  std::mt19937_64 random_;
  uint64_t next_;
  // Recycled numbers, next one first, and whether each was written before.
  std::deque<std::pair<uint64_t, bool>> own_;
};

// A thread that makes calls until it is stopped or a promise is broken. Counts "write ok" and "read ok".
class TrafficThread {
 public:
  TrafficThread(store::Store* store, Journal* journal, const TrafficOptions& options);
  ~TrafficThread() { Stop().IgnoreError(); }
  // Waits for its last call to end.
  absl::Status Stop();
  // False: a promise was broken; Stop returns which.
  bool going() const { return going_.load(); }
  const TrafficCounts& counts() const { return counts_; }
  // Waits until `more` further writes or reads have succeeded. False: not in time.
  bool WaitForSuccesses(int64_t more, absl::Duration within);

 private:
  TrafficCounts counts_;
  Traffic traffic_;
  std::atomic<bool> stop_{false}, going_{true};
  absl::Status outcome_;  // written by the thread until it ends
  Thread thread_;
};

// Writes encodings `first` to `first` + `count` - 1, without faults. Returns what went wrong.
absl::Status WriteAll(store::Store* store, Journal* journal, uint64_t first, uint64_t count);

// Reads back everything in the journal: acknowledged encodings must be present and correct, others whole or absent; the
// store's own verification must agree. `evictions`: acknowledged encodings may be gone.
absl::Status CheckJournal(store::Store* store, const Journal& journal, bool evictions = false);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_TRAFFIC_H_
