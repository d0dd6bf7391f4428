// Carries the drops of a cluster out on one node: what a transaction of the database dropped (no document refers to the
// identity any more) leaves the node in all codecs, owned or not, and does not come back (drop_memory.h).
//
// The node keeps in its store, in the same commit as the removals, up to where it has carried the log out, and tells
// the database afterwards: a crash repeats removals and misses none. Started again it remembers no drop from before,
// and copies from a peer once that has come as far as it is.
//
// The node empties itself, which is one record of its index, and registers anew, where it cannot know what it missed:
// the log was trimmed beyond its position, the database does not know it, or its position is of another log. A log that
// ends before the node's position was restored from an older state of the database: the node says so, and registers
// anew, so that it reads what was open when the log was restored; what it holds it keeps.
//
// A push that begins after a drop was carried out is admitted: a document refers to it again, or it is cache that
// nobody asks for. One that began before is refused when it commits (node::Ownership::DroppedSince).
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
#include "base/thread.h"
#include "store/cluster/placement.h"
#include "store/cluster/repair/drop_memory.h"
#include "store/database/drop_log.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

struct DropOptions {
  NodeId node = {};
  std::array<uint8_t, 16> log = {};  // which log it is: the cluster's id, not zeros
  absl::Duration poll = absl::Milliseconds(200);
  absl::Duration request_timeout = absl::Seconds(10);  // of one call of the log
  // Where nothing is dropped the node's position moves on so often in its store, and in the database: every commit
  // there, of anybody, makes another one, and so does telling it.
  absl::Duration move_on = absl::Seconds(1), store_position = absl::Seconds(5);
  int64_t remembered = int64_t{1} << 18;  // drops; some 20 MiB
  // Drops that every node has carried out are deleted, after forgetting nodes that were away for `retention`. Every
  // node tries it, at this interval.
  absl::Duration trim = absl::Minutes(10), retention = absl::Hours(24 * 7);
  // Told of what operators want to know, on any thread: "drop_log_emptied", "drop_log_went_back", "drop_log_gone",
  // "drop_log_back". Empty: nobody.
  std::function<void(absl::string_view event, absl::string_view what)> report;
  // Called when the node has emptied itself, on any thread; must not wait. Empty: nobody.
  std::function<void()> emptied;
};

struct DropStatistics {
  DropPosition position;   // carried out
  int64_t drops = 0;       // carried out
  int64_t emptied = 0;     // times that the node emptied itself
  int64_t went_back = 0;   // times that the log ended before the node's position
  int64_t errors = 0;      // of the log
  bool caught_up = false;  // at the latest look nothing was left
  // By SteadyNow(), set once CatchUp has returned OK: when the log was last read, and when nothing of it was left.
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

  // Carries out what was committed when it was called: before the node serves. Tries again, with pauses, while the log
  // is UNAVAILABLE or too slow, until the deadline: the status is then the log's, the node must not serve, and the call
  // may be made again. Other errors of the log (credentials, tables), and the engine's, at once.
  absl::Status CatchUp(absl::Time deadline);
  // Follows the log on a thread until Stop, for as long as the log takes to be there again where it is away. Once,
  // after CatchUp returned OK.
  void Start();
  // Ends within the timeout of a request.
  void Stop();

  // What repair asks; lives as long as whoever holds it.
  std::shared_ptr<const DropMemory> memory() const { return memory_; }
  DropStatistics statistics() const;

 private:
  // One at a time, of CatchUp and then of the thread.
  absl::Status Begin();
  absl::Status Step(bool* caught_up);
  void Looked(const absl::Status& status, bool caught_up) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CarryOut(const database::DropBatch& batch);
  // `dropped`: something was, and somebody may wait to hear of it.
  absl::Status StorePosition(bool dropped);
  absl::Status Lost(absl::string_view why);
  absl::Status Empty(absl::string_view why);
  void Follow();
  // Trims after a while from now, and not before the other nodes, which may have been away as long, were able to tell
  // where they are; not all nodes at once.
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
  absl::Time moved_on_at_ = absl::InfinitePast(), stored_at_ = absl::InfinitePast();
  absl::Time trim_at_ = absl::InfiniteFuture();

  mutable Mutex mutex_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  DropStatistics statistics_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_
