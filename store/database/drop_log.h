// The drop log of a cluster's catalog: the encodings that no document refers to any more. The transaction that deletes
// or replaces the last document that refers to an identity writes a row; every node reads all rows in order, removes
// the encodings they name, and stores its position.
//
// Order. Sequence numbers are not in commit order: a transaction may take a lower one and commit later. A position is
// therefore (transaction, sequence), and rows are read only below the oldest open transaction, so that no row ever
// appears before a position that was read. A transaction that stays open, in any database of the same server, holds up
// the log.
//
// The log skips an identity if a document refers to it again at the time of reading: its encoding is needed. It also
// skips a deleted namespace that has documents again: identities that only its former documents referred to have their
// own drops, and its limits are those set since. If a document comes to refer to an identity after the drop was read,
// it misses its encoding and is encoded again.
//
// Protocol for nodes: a node that holds nothing calls Register, then reads. A node that holds encodings calls
// PositionOf when it starts, reads from its position until `caught_up`, and only then serves. OUT_OF_RANGE from any
// method: the log no longer has rows that the node has not read, or does not know the node, which may therefore hold
// dropped encodings. The node then calls Resume; if that returns OUT_OF_RANGE too, it calls Register, removes
// everything it holds, and reads from there.
//
// Positions are stored in the database and valid only there. The log needs a database that loses no commit when it
// fails over (synchronous replication). In a database restored from a backup, positions beyond its last transaction are
// ignored; encodings whose drops were lost stay on the nodes, unless the nodes are emptied (ForgetConsumers).
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

// A consumer has read everything at or before its position. The default lies before everything.
struct DropPosition {
  uint64_t transaction = 0;
  int64_t sequence = 0;
  auto operator<=>(const DropPosition&) const = default;
};

struct Drop {
  std::string ns;
  std::optional<Identity> identity;  // in every codec; nullopt: the whole namespace, pinned encodings and limits too
};

struct DropBatch {
  std::vector<Drop> drops;  // in order
  DropPosition end;         // store it once the drops are carried out; may lie beyond the last drop
  bool caught_up = false;   // no drop committed before the call is left to read
};

class DropLog {
 public:
  virtual ~DropLog() = default;

  // Registers a node that holds nothing as a consumer. It starts at the position of the slowest consumer, since a node
  // that is filled from others may get encodings they have not dropped yet; without other consumers, at the end. Stores
  // the node's position, replacing the previous one. From then on no row that the node has not passed is trimmed.
  virtual absl::StatusOr<DropPosition> Register(const NodeId& node, absl::Time deadline) = 0;
  // Registers a node that holds encodings, has read everything up to `position`, and is not known. Returns the position
  // from which it must read. Tables that were restored from a dump, into a server whose transactions went on, do not
  // know nodes that registered after the dump; but all drops since the restoration have rows, so such a node continues
  // where it was, or at the restoration if that came first. In the second case nothing changes yet: the node stores the
  // returned position, then calls again with it. OUT_OF_RANGE, and nothing changes: rows after that were trimmed, or
  // `position` lies beyond the log's end.
  virtual absl::StatusOr<DropPosition> Resume(const NodeId& node, const DropPosition& position,
                                              absl::Time deadline) = 0;
  // Returns the position that the node stored. OUT_OF_RANGE: it never registered, or was forgotten, or its position
  // lies before the tables were made from a dump: it may have read further since, in the tables from before.
  virtual absl::StatusOr<DropPosition> PositionOf(const NodeId& node, absl::Time deadline) = 0;
  // Returns at most `limit` (1 to 65,536) drops after `after`. OUT_OF_RANGE: the log was trimmed beyond `after`, or the
  // database is older than it (it was restored from a backup).
  virtual absl::StatusOr<DropBatch> ReadDrops(const DropPosition& after, int64_t limit, absl::Time deadline) = 0;
  // Records that the node has carried out everything up to `position`. A position below the stored one changes nothing.
  // Call it after each batch, and every few seconds if there are no drops: WaitForConsumers notices progress only then,
  // and a node that does not call for the retention is forgotten. OUT_OF_RANGE: the node is not known.
  virtual absl::Status StorePosition(const NodeId& node, const DropPosition& position, absl::Time deadline) = 0;
  // Forgets a node that left the cluster: the log no longer waits for it. OK if the node is not known.
  virtual absl::Status Forget(const NodeId& node, absl::Time deadline) = 0;
  // Forgets all consumers, so that each gets OUT_OF_RANGE and registers again, and empties the log.
  virtual absl::Status ForgetConsumers(absl::Time deadline) = 0;

  // Returns a position beyond every drop committed before the call.
  virtual absl::StatusOr<DropPosition> End(absl::Time deadline) = 0;
  // Waits until each of `nodes`, and each other consumer that was heard of within the last minute, has stored
  // `position` or a later one. The others count because a node that joins meanwhile is filled by members that have yet
  // to reach the position. Encodings dropped before End() are then on no node. DEADLINE_EXCEEDED names the nodes that
  // are behind, OUT_OF_RANGE one that is unknown.
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
