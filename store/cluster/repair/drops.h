// Carries out the drops of a cluster on one node: an identity that a transaction of the database dropped (no document
// refers to it any more) leaves the node in all codecs, owned or not, and does not come back (drop_memory.h).
//
// The node stores its position in the log in the same commit as the removals, and reports it to the database
// afterwards: a crash repeats removals and misses none. After a restart it remembers no earlier drop, and copies from a
// peer only once that peer has reached its position.
//
// If the node cannot know what it missed, it empties itself, which is one record of its index, and registers again: the
// log was trimmed beyond its position, its position belongs to another log, or the database does not know the node,
// which left or was away for too long. Other members may leave because this one has told them that it holds its share,
// so it first takes that back (DropOptions::may_empty).
//
// After the database was restored to an older state, a node reports this, registers again and keeps what it holds. If
// the log ends before the node's position, it reads from the transactions that were open in the restored state. If the
// server's transactions went on, the database does not know the node, or only from the dump; it then continues where it
// was, or at the restoration if that came first (DropLog::Resume).
//
// A push that begins after a drop was carried out is admitted: either a document refers to the identity again, or the
// encoding is a cache entry that no request will ask for. A push that began earlier is refused when it commits
// (node::Ownership::DroppedSince).
//
// Thread-safety: all methods. Ownership: engine and log outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_
#define KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/stopping.h"
#include "base/thread.h"
#include "store/cluster/placement.h"
#include "store/cluster/repair/drop_memory.h"
#include "store/database/drop_log.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

struct DropOptions {
  NodeId node = {};
  std::array<uint8_t, 16> log = {};  // identifies the log: the cluster's id, not zeros
  absl::Duration poll = absl::Milliseconds(200);
  absl::Duration request_timeout = absl::Seconds(10);  // of one call to the log
  // How often the node's position advances in its store and in the database while nothing is dropped. Every commit in
  // the database, of whatever kind, advances the log, and so does reporting a position.
  absl::Duration move_on = absl::Seconds(1), store_position = absl::Seconds(5);
  int64_t remembered = int64_t{1} << 18;  // drops; some 20 MiB
  // Drops that every node has carried out are deleted, after forgetting nodes that were away for `retention`. Every
  // node tries it, at this interval.
  absl::Duration trim = absl::Minutes(10), retention = absl::Hours(24 * 7);
  // Receives events for operators, on any thread: "drop_log_emptied", "drop_log_went_back", "drop_log_gone",
  // "drop_log_back". May be empty.
  std::function<void(absl::string_view event, absl::string_view what)> report;
  // Asked before the node empties itself, until it answers true: whether no other member relies on what the node holds.
  // May be empty: true.
  std::function<bool()> may_empty;
  // Called once the node has emptied itself; and if may_empty was asked and it turns out that it need not. May be
  // empty. Both are called by CatchUp and on the thread, and must not wait.
  std::function<void()> emptied;
};

struct DropStatistics {
  DropPosition position;   // carried out
  int64_t drops = 0;       // carried out
  int64_t emptied = 0;     // times the node emptied itself
  int64_t went_back = 0;   // times the log was found restored to an older state
  int64_t errors = 0;      // of calls to the log
  bool caught_up = false;  // the latest look left no drops
  // Of SteadyNow(), set once CatchUp has returned OK: when the log was last read, and last read to its end.
  absl::Time read_at = absl::InfinitePast(), caught_up_at = absl::InfinitePast();
  absl::Status look;  // the outcome of the latest look
};

class DropConsumer {
 public:
  // Starts nothing.
  DropConsumer(engine::Engine* engine, database::DropLog* log, DropOptions options);
  ~DropConsumer();  // as Stop
  DropConsumer(const DropConsumer&) = delete;
  DropConsumer& operator=(const DropConsumer&) = delete;

  // Carries out all drops committed before the call. Call before the node serves. Retries, with pauses, while the log
  // is UNAVAILABLE or too slow, until the deadline, and then returns its status: the node must not serve, and the call
  // may be repeated. Returns other errors of the log (credentials, tables), and the engine's, at once.
  absl::Status CatchUp(absl::Time deadline);
  // Follows the log on a thread until Stop, however long the log is unreachable. Call once, after CatchUp returned OK.
  void Start();
  // Waits for what is in progress: one call to the log, which may take the timeout of a request, and what the engine
  // commits.
  void Stop();

  // The memory that repair asks; its holders share it.
  std::shared_ptr<const DropMemory> memory() const { return memory_; }
  DropStatistics statistics() const;

 private:
  // The following are called by CatchUp, then only by the thread.
  absl::Status Begin();
  absl::Status Step(bool* caught_up);
  void Looked(const absl::Status& status, bool caught_up);
  absl::Status CarryOut(const database::DropBatch& batch);
  // Reports the position to the database: at once if `dropped`, since WaitForConsumers may be waiting, else now and
  // then.
  absl::Status StorePosition(bool dropped);
  absl::Status Lost(absl::string_view why);
  absl::Status Empty(absl::string_view why);
  absl::Status AwaitConsent();
  void EndEmptying();
  void Follow();
  // Schedules the next trim after a pause, so that other nodes that were disconnected as long can report their
  // positions first. The pause differs between nodes.
  void TrimLater() { trim_at_ = SteadyNow() + options_.trim * (1 + options_.node[0] / 256.0); }

  DropPosition Ours(const database::DropPosition& position) const;
  database::DropPosition Theirs(const DropPosition& position) const;
  absl::Time Deadline() const;
  void Report(absl::string_view event, absl::string_view what) const;

  engine::Engine* const engine_;
  database::DropLog* const log_;
  const DropOptions options_;
  const std::shared_ptr<DropMemory> memory_;
  bool begun_ = false;
  bool emptying_ = false;  // may_empty was asked, and `emptied` not called since
  absl::Time moved_on_at_ = absl::InfinitePast(), stored_at_ = absl::InfinitePast();
  absl::Time trim_at_ = absl::InfiniteFuture();

  Stopping stopping_;
  mutable Mutex mutex_;
  DropStatistics statistics_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_
