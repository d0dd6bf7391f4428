// The drop log of a cluster's catalog: which encodings nobody refers to any more. A row is written in the transaction
// that deletes or replaces the last document that refers to an identity; every node reads all rows in order, removes
// what they name, and stores how far it is.
//
// Order. Numbers of a sequence are not commit order: a transaction may take a lower one and commit later. A position is
// therefore (transaction, sequence), and rows are read only below the oldest transaction that is still open, so that
// nothing ever appears before a position that was read. A transaction that stays open, in whatever database of the same
// server, holds the log back for as long.
//
// An identity that some document refers to again when the log is read is left out: its encoding is of use. So is a
// namespace that was deleted and has documents again: what its former documents alone referred to has drops of its own,
// and its limits are those that it was given since. A document may also come to refer to an identity after its drop was
// read; it then misses its encoding, and is encoded again.
//
// Life of a node: one that holds nothing calls Register, then reads. One that holds encodings calls PositionOf when it
// starts, reads from there until `caught_up`, and only then serves. OUT_OF_RANGE, of any method: the log no longer has
// what the node has not read, or does not know the node: it may hold encodings that were dropped. It calls Register,
// removes everything that it holds, and reads on from there.
//
// Positions live in the database, and are good there alone. The log needs a database that loses no commit when it fails
// over (synchronous replication). Of one that was restored from a backup, positions beyond its last transaction count
// for nothing; what it forgot to drop stays on the nodes, unless they are emptied (ForgetConsumers).
//
// Thread-safety: all methods. Deadlines are of SteadyNow(). Errors common to all: those of DatabaseCatalog.
#ifndef KVLINK_STORE_DATABASE_DROP_LOG_H_
#define KVLINK_STORE_DATABASE_DROP_LOG_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/digest.h"
#include "proto/node_id.h"

namespace kvlink::store::database {

using ::kvlink::NodeId;

// Everything at or before it was read. The default is before everything.
struct DropPosition {
  uint64_t transaction = 0;
  int64_t sequence = 0;
  auto operator<=>(const DropPosition&) const = default;
};

struct Drop {
  std::string ns;
  std::optional<Identity> identity;  // in every codec; none: all of the namespace, pinned encodings and limits too
};

struct DropBatch {
  std::vector<Drop> drops;  // in order
  DropPosition end;         // store it when the drops were carried out; may lie beyond the last drop
  bool caught_up = false;   // nothing that was committed before the call is left to read
};

class DropLog {
 public:
  virtual ~DropLog() = default;

  // Begins to consume the log, as a node that holds nothing: at the position of the slowest consumer, since a node that
  // is filled from others may get what they have not dropped yet; where there is none, at the end. The node's position
  // is stored, replacing what it was before. From now on nothing that the node has not passed is trimmed.
  virtual absl::StatusOr<DropPosition> Register(const NodeId& node, absl::Time deadline) = 0;
  // Where the node stored that it is. OUT_OF_RANGE: it never registered, or was forgotten.
  virtual absl::StatusOr<DropPosition> PositionOf(const NodeId& node, absl::Time deadline) = 0;
  // At most `limit` (1 to 65,536) drops after `after`. OUT_OF_RANGE: the log was trimmed beyond `after`, or the
  // database is older than it (it was restored from a backup).
  virtual absl::StatusOr<DropBatch> ReadDrops(const DropPosition& after, int64_t limit, absl::Time deadline) = 0;
  // The node has carried out everything up to `position`. A lower one than is stored changes nothing. Call it after
  // each batch, and every few seconds where nothing comes: who waits in WaitForConsumers sees it only then, and who
  // does not call for the retention is forgotten. OUT_OF_RANGE: the node is not known.
  virtual absl::Status StorePosition(const NodeId& node, const DropPosition& position, absl::Time deadline) = 0;
  // The node left the cluster: the log does not wait for it any more. OK if it is not known.
  virtual absl::Status Forget(const NodeId& node, absl::Time deadline) = 0;
  // Forgets all, so that each finds OUT_OF_RANGE and registers anew, and empties the log.
  virtual absl::Status ForgetConsumers(absl::Time deadline) = 0;

  // A position that lies beyond every drop committed before the call.
  virtual absl::StatusOr<DropPosition> End(absl::Time deadline) = 0;
  // Waits until each of `nodes`, and each other consumer that was heard of within the last minute, has stored
  // `position` or a later one. The others count because a node that joins meanwhile is filled by members that have yet
  // to reach the position. What was deleted before End() is then on no node. DEADLINE_EXCEEDED names those that are
  // behind, OUT_OF_RANGE one that is unknown.
  virtual absl::Status WaitForConsumers(const DropPosition& position, absl::Span<const NodeId> nodes,
                                        absl::Time deadline) = 0;
  // Forgets consumers that are behind and have stored no position for `retention`, then deletes what every consumer has
  // passed. A consumer must have been silent at this object's previous call, too: when the server's clock jumps (a
  // failover) all seem silent until they store a position again, so calls should be minutes apart. Works in steps of a
  // bounded number of rows and returns how many were deleted; those before an error stay deleted. Any number of
  // processes may call it.
  virtual absl::StatusOr<int64_t> Trim(absl::Duration retention, absl::Time deadline) = 0;
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_DROP_LOG_H_
