// Clients of a store that write and read under faults, and what they may find.
//
// Invariants: a read that succeeds gives the bytes that were written; an acknowledged encoding is there, whole; any
// other is whole or absent; a call ends by its deadline (kHangGuard is how much later it may end on a machine that has
// much to do); a call that fails says that the store was not reachable, too late or full.
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
// Deadline of calls that no fault disturbs.
inline constexpr absl::Duration kPatience = absl::Minutes(1);

// Encoding number `number`, from 20 KiB to 4 MiB: everything follows from the number. The latest ones are kept.
// Thread-safe.
std::shared_ptr<const Synthetic> EncodingOf(uint64_t number);
// 4 MiB; 2 <= layers of every encoding.
inline bool IsLarge(uint64_t number) { return number % 4 == 0 || number % 4 == 3; }

struct TrafficOptions {
  uint64_t seed = 1;
  uint64_t first = 0;       // number of its first own encoding; further ones follow
  double writes = 0.5;      // share of calls
  bool large_only = false;  // of what it writes
  // So many encodings of its own, made beforehand, are written, removed and written again, so that most of the time
  // bytes are under way. 0: ever new ones, which stay.
  size_t recycle = 0;
  bool evictions = false;                      // what was acknowledged may be gone
  bool corruption = false;                     // the network flips bits
  absl::Duration deadline = absl::Seconds(5);  // of each call
};

// Counts of clients' calls and their results; shared by several. Thread-safe.
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

// One client's calls, one after another. Thread-safety: one thread at a time.
class Traffic {
 public:
  // All outlive it. `store` has request_timeout == options.deadline, if it has one.
  Traffic(store::Store* store, Journal* journal, TrafficCounts* counts, const TrafficOptions& options);

  // One call, as the seed chooses. An error: a promise was broken.
  absl::Status Step();
  absl::Status Write(uint64_t number);
  absl::Status Read(uint64_t number);

 private:
  uint64_t NewNumber();
  // The next of those that are written again and again, removed if it was written before.
  absl::StatusOr<uint64_t> Recycled();
  // `removals`: of the journal, when it said that the number is known.
  absl::Status ReadSince(uint64_t number, int64_t removals);
  // Whether a call begun at `start` may have ended so.
  absl::Status Judge(const std::string& call, uint64_t number, const absl::Status& status, absl::Time start);

  store::Store* const store_;
  Journal* const journal_;
  TrafficCounts* const counts_;
  const TrafficOptions options_;
  std::mt19937_64 random_;
  uint64_t next_;
  // That are recycled, the one to take next first; and whether it was written before.
  std::deque<std::pair<uint64_t, bool>> own_;
};

// A thread that makes calls until it is stopped or a promise is broken. Counts "write ok" and "read ok".
class TrafficThread {
 public:
  TrafficThread(store::Store* store, Journal* journal, const TrafficOptions& options);
  ~TrafficThread() { Stop().IgnoreError(); }
  // Waits for its last call to end.
  absl::Status Stop();
  // False: a promise was broken; Stop says which.
  bool going() const { return going_.load(); }
  const TrafficCounts& counts() const { return counts_; }
  // Waits until `more` further calls that write or read have succeeded. False: it did not come to that.
  bool WaitForSuccesses(int64_t more, absl::Duration within);

 private:
  TrafficCounts counts_;
  Traffic traffic_;
  std::atomic<bool> stop_{false}, going_{true};
  absl::Status outcome_;  // the thread's, until it has ended
  Thread thread_;
};

// Writes encodings `first` to `first` + `count` - 1, which no fault disturbs. Returns what went wrong.
absl::Status WriteAll(store::Store* store, Journal* journal, uint64_t first, uint64_t count);

// Everything that the journal names, read back: what was acknowledged is there and right, the rest whole or absent; and
// the store's own verification agrees. `evictions`: what was acknowledged may be gone.
absl::Status CheckJournal(store::Store* store, const Journal& journal, bool evictions = false);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_TRAFFIC_H_
