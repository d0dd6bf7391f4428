// Carries the drops of a cluster out on one node: what a transaction of the database dropped (no document refers to the
// identity any more) leaves the node in all codecs, owned or not, and does not come back.
//
// Each drop has a position in the log, ascending in the order in which nodes may consume it. The node keeps, in its
// store and in the same commit as the removals, up to which one it has consumed, and tells the database afterwards: a
// crash repeats some removals and misses none.
//
// It remembers the latest drops (`remembered` of them; on start they are read again from the log, without being carried
// out), so that repair can tell what a peer lists from before a drop. Rule, for a peer that has consumed up to p, asked
// when the copy commits (Allows): p must not be beyond what this node has consumed, nor before the oldest drop that it
// remembers; and no remembered drop of the identity may lie behind p. A drop is remembered before its removal takes the
// engine's commit lock, and a copy commits under that lock: either the removal finds the copy, or the copy the drop.
// What is pushed after a drop (a document refers to it again) is not asked: it is cache.
//
// A log that was trimmed beyond the node's position, or a position of another log, empties the node: it cannot know
// what it missed. A log that ends before the node's position was restored from an older state of the database; the node
// says so, and goes on from its end.
//
// Thread-safety: all methods. Ownership: engine and log outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_
#define KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/placement.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

// The drops of a cluster, in the order of their positions. Thread-safety: all methods. Errors common to all:
// UNAVAILABLE, DEADLINE_EXCEEDED.
class DropLog {
 public:
  struct Drop {
    uint64_t position = 0;
    std::string ns;
    Identity identity;
  };
  virtual ~DropLog() = default;
  // Drops with positions above `after`, in order, at most `limit`; only such before which none can come any more.
  // OUT_OF_RANGE: some of them were trimmed.
  virtual absl::StatusOr<std::vector<Drop>> Read(uint64_t after, int64_t limit) = 0;
  // The position of the last drop that Read gives; 0: there never was one.
  virtual absl::StatusOr<uint64_t> Last() = 0;
  // The position from which on Read gives drops: of the last one that was trimmed; 0: none was.
  virtual absl::StatusOr<uint64_t> Trimmed() = 0;
  // Notes that a node has consumed up to a position.
  virtual absl::Status SetPosition(const NodeId& node, uint64_t position) = 0;
};

struct DropStatistics {
  uint64_t position = 0;      // consumed
  int64_t consumed = 0;       // drops, since the start
  int64_t emptied = 0;        // times that the node emptied itself
  int64_t went_back = 0;      // times that the log ended before the node's position
  int64_t errors = 0;         // of the database
  bool caught_up = false;     // at the latest look there was nothing more
};

struct DropOptions {
  NodeId node = {};
  std::array<uint8_t, 16> log = {};  // which log it is: the cluster's id
  absl::Duration poll = absl::Milliseconds(200);
  int64_t remembered = int64_t{1} << 18;  // some 60 bytes each
  // Told of what operators want to know ("drop_log_trimmed", "drop_log_went_back", "drop_log_gone"), on any thread.
  std::function<void(absl::string_view event, const std::string& what)> report;
};

class DropConsumer {
 public:
  // Starts nothing.
  DropConsumer(engine::Engine* engine, DropLog* log, DropOptions options);
  ~DropConsumer();  // as Stop
  DropConsumer(const DropConsumer&) = delete;
  DropConsumer& operator=(const DropConsumer&) = delete;

  // Consumes what was committed when it was called; for before the node serves. Tries again, with pauses, until the
  // deadline: then the database's UNAVAILABLE or DEADLINE_EXCEEDED, and the node must not serve yet; calling it again
  // goes on. Errors of the engine.
  absl::Status CatchUp(absl::Time deadline);
  // Follows the log on a thread, until Stop. While the database is away it tries again, at least every few seconds.
  // Once, after CatchUp.
  void Start();
  void Stop();

  // Whether a copy of the identity, listed by a peer that had consumed up to `peer`, may be stored now. See above.
  bool Allows(absl::string_view ns, const Identity& identity, const engine::DropPosition& peer) const;
  // Whether copies from such a peer are allowed at all: those of nothing that was dropped.
  bool Meets(const engine::DropPosition& peer) const;
  DropStatistics statistics() const;

 private:
  using Mark = std::array<uint8_t, 16>;  // of a namespace and an identity
  static Mark MarkOf(absl::string_view ns, const Identity& identity);

  absl::Status Begin();
  absl::Status Recall(uint64_t position);
  absl::Status Step(bool* more);
  absl::Status Consume(const std::vector<DropLog::Drop>& drops);
  absl::Status Empty(absl::string_view event, const std::string& why);
  absl::Status CheckEnd();
  void Remember(uint64_t position, const Mark& mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MeetsLocked(const engine::DropPosition& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Follow();
  void Report(absl::string_view event, const std::string& what) const;

  engine::Engine* const engine_;
  DropLog* const log_;
  const DropOptions options_;
  bool begun_ = false;        // CatchUp's, then the thread's
  uint64_t told_ = 0;         // the database: likewise

  mutable Mutex mutex_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t position_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t since_ ABSL_GUARDED_BY(mutex_) = 0;  // every drop behind this one, up to position_, is remembered
  std::deque<std::pair<uint64_t, Mark>> order_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Mark, uint64_t> latest_ ABSL_GUARDED_BY(mutex_);
  DropStatistics statistics_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_DROPS_H_
