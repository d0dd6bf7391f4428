// The drop log. A consumer reads from one snapshot: the horizon below which no transaction is open, the position up to
// which the log was trimmed, and the rows between them. One lock covers adding and removing consumers and trimming, so
// that no row is trimmed that a node registering at the same time must read.
#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/node_id.h"
#include "store/database/database_impl.h"

namespace kvlink::store::database {
namespace {

constexpr int64_t kMaxDrops = 65536;        // per read
constexpr int64_t kTrimmedAtATime = 10000;  // rows per transaction
constexpr absl::Duration kMinLook = absl::Milliseconds(20), kMaxLook = absl::Milliseconds(500);

DropPosition PositionIn(const Rows& rows, int row, int column = 0) {
  return {rows.Transaction(row, column), rows.Integer(row, column + 1)};
}

absl::Status Unknown(const NodeId& node) {
  return absl::OutOfRangeError(absl::StrCat("the drop log does not know node ", absl::BytesToHexString(BytesOf(node)),
                                            ": it left, was away for too long, or registered after the dump from "
                                            "which the database was restored"));
}

// When the tables were made, migrated or restored; `last` is the last transaction, and `made` the result of kReadMade.
// Tables older than 2^32 transactions seem younger by that.
absl::StatusOr<DropPosition> MadeAt(const Rows& made, uint64_t last) {
  if (made.size() != 1) return absl::DataLossError("kvlink.kvlink_schema has no row; restore it from a backup");
  const auto age = static_cast<uint32_t>(last - made.Transaction(0, 0));
  return DropPosition{last - age, 0};
}

// Whether the log has all rows after `after`; `horizon` is the result of kReadHorizon.
absl::Status CheckReadable(const DropPosition& after, const Rows& horizon) {
  if (horizon.size() != 1) return absl::DataLossError("kvlink.drop_log_trimmed has no row; restore it from a backup");
  const DropPosition trimmed = PositionIn(horizon, 0);
  const uint64_t last = horizon.Transaction(0, 3);
  if (after.transaction > last) {
    return absl::OutOfRangeError("the drop log ends before this position: the database was restored from a backup");
  }
  if (after < trimmed && trimmed.transaction <= last) {
    return absl::OutOfRangeError("the drop log was trimmed beyond this position; the node must start empty");
  }
  return absl::OkStatus();
}

Parameters PositionParameters(const DropPosition& position) {
  return Parameters().Integer(static_cast<int64_t>(position.transaction)).Integer(position.sequence);
}

}  // namespace

absl::StatusOr<DropPosition> DatabaseImpl::Register(const NodeId& node, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kBegin, {}}, Query{&kLockConsumers, {}},
                               Query{&kRegister, Parameters().Bytes(BytesOf(node))}, Query{&kCommit, {}}},
                              deadline));
  return PositionIn(rows[2], 0);
}

absl::StatusOr<DropPosition> DatabaseImpl::Resume(const NodeId& node, const DropPosition& position,
                                                  absl::Time deadline) {
  DropPosition from;
  KVLINK_RETURN_IF_ERROR(pool_.Run(deadline, [&](Connection& connection, absl::Time until) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const auto rows, connection.Run({Query{&kBegin, {}}, Query{&kLockConsumers, {}},
                                                             Query{&kReadHorizon, {}}, Query{&kReadMade, {}}},
                                                            until));
    KVLINK_RETURN_IF_ERROR(CheckReadable(position, rows[2]));
    // If the tables seem younger than they are, and than `position`, what was trimmed decides alone.
    KVLINK_ASSIGN_OR_RETURN(const DropPosition made, MadeAt(rows[3], rows[2].Transaction(0, 3)));
    from = std::min(position, made);
    KVLINK_RETURN_IF_ERROR(CheckReadable(from, rows[2]));
    if (from < position) return absl::OkStatus();
    return connection
        .Run({Query{&kRegisterAt, Parameters()
                                      .Bytes(BytesOf(node))
                                      .Integer(static_cast<int64_t>(from.transaction))
                                      .Integer(from.sequence)},
              Query{&kCommit, {}}},
             until)
        .status();
  }));
  return from;
}

absl::StatusOr<DropPosition> DatabaseImpl::PositionOf(const NodeId& node, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kPositionOf, Parameters().Bytes(BytesOf(node))},
                                                Query{&kReadMade, {}}, Query{&kReadHorizon, {}}},
                                               deadline));
  if (rows[0].size() == 0) return Unknown(node);
  if (rows[2].size() != 1) return absl::DataLossError("kvlink.drop_log_trimmed has no row; restore it from a backup");
  KVLINK_ASSIGN_OR_RETURN(const DropPosition made, MadeAt(rows[1], rows[2].Transaction(0, 3)));
  const DropPosition stored = PositionIn(rows[0], 0);
  if (stored < made) {
    return absl::OutOfRangeError(absl::StrCat("the database was restored from a dump since node ",
                                              absl::BytesToHexString(BytesOf(node)), " last reported to it"));
  }
  return stored;
}

absl::StatusOr<DropBatch> DatabaseImpl::ReadDrops(const DropPosition& after, int64_t limit, absl::Time deadline) {
  if (limit < 1 || limit > kMaxDrops) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", limit, " drops at once; read 1 to ", kMaxDrops));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kBeginReading, {}}, Query{&kReadHorizon, {}},
                               Query{&kReadDrops, PositionParameters(after).Integer(limit)}, Query{&kCommit, {}}},
                              deadline));
  KVLINK_RETURN_IF_ERROR(CheckReadable(after, rows[1]));
  DropBatch batch;
  batch.end = after;
  for (int row = 0; row < rows[2].size(); ++row) {
    batch.end = PositionIn(rows[2], row);
    if (!rows[2].IsNull(row, 4)) continue;  // a document refers to it again, or is in the namespace
    if (rows[2].IsNull(row, 3)) {
      batch.drops.push_back({std::string(rows[2].Bytes(row, 2)), std::nullopt});
      continue;
    }
    Identity identity;
    const absl::string_view bytes = rows[2].Bytes(row, 3);
    if (bytes.size() != identity.bytes.size()) return absl::DataLossError("an identity in the drop log is damaged");
    std::memcpy(identity.bytes.data(), bytes.data(), bytes.size());
    batch.drops.push_back({std::string(rows[2].Bytes(row, 2)), identity});
  }
  batch.caught_up = rows[2].size() < limit;
  if (batch.caught_up) batch.end = std::max(batch.end, DropPosition{rows[1].Transaction(0, 2), 0});
  return batch;
}

absl::Status DatabaseImpl::StorePosition(const NodeId& node, const DropPosition& position, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kStorePosition, Parameters()
                                                          .Bytes(BytesOf(node))
                                                          .Integer(static_cast<int64_t>(position.transaction))
                                                          .Integer(position.sequence)}},
                              deadline));
  return rows[0].changed() == 1 ? absl::OkStatus() : Unknown(node);
}

absl::Status DatabaseImpl::Forget(const NodeId& node, absl::Time deadline) {
  return Ask({Query{&kForget, Parameters().Bytes(BytesOf(node))}}, deadline).status();
}

absl::Status DatabaseImpl::ForgetConsumers(absl::Time deadline) {
  return pool_.Run(deadline, [](Connection& connection, absl::Time until) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const auto rows,
                            connection.Run({Query{&kBegin, {}}, Query{&kLockConsumers, {}}, Query{&kForgetAll, {}},
                                            Query{&kTrimAll, {}}, Query{&kReadHorizon, {}}},
                                           until));
    return connection
        .Run({Query{&kStoreTrimmed, PositionParameters({rows[4].Transaction(0, 2), 0})}, Query{&kCommit, {}}}, until)
        .status();
  });
}

absl::StatusOr<DropPosition> DatabaseImpl::End(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kReadHorizon, {}}}, deadline));
  if (rows[0].size() != 1) return absl::DataLossError("kvlink.drop_log_trimmed has no row; restore it from a backup");
  return DropPosition{rows[0].Transaction(0, 3), 0};
}

absl::Status DatabaseImpl::WaitForConsumers(const DropPosition& position, absl::Span<const NodeId> nodes,
                                            absl::Time deadline) {
  std::vector<absl::string_view> ids;
  for (const NodeId& node : nodes) ids.push_back(BytesOf(node));
  std::vector<std::string> behind;
  const auto late = [&behind] {
    return absl::DeadlineExceededError(
        absl::StrCat("nodes that have not carried out every deletion yet: ", absl::StrJoin(behind, ", ")));
  };
  for (absl::Duration look = kMinLook;; look = std::min(look * 2, kMaxLook)) {
    const auto rows = Ask({Query{&kPositionsOf, PositionParameters(position).BytesOf(ids)}}, deadline);
    if (absl::IsDeadlineExceeded(rows.status()) && !behind.empty()) return late();  // the look before says who
    KVLINK_RETURN_IF_ERROR(rows.status());
    const auto& positions = (*rows)[0];
    std::set<absl::string_view> unknown(ids.begin(), ids.end());
    behind.clear();
    for (int row = 0; row < positions.size(); ++row) {
      unknown.erase(positions.Bytes(row, 0));
      if (!positions.Flag(row, 1)) behind.push_back(absl::BytesToHexString(positions.Bytes(row, 0)));
    }
    if (!unknown.empty())
      return Annotate(Unknown(nodes[std::find(ids.begin(), ids.end(), *unknown.begin()) - ids.begin()]),
                      "waiting for the drop log");
    if (behind.empty()) return absl::OkStatus();
    if (SteadyNow() + look >= deadline) return late();
    absl::SleepFor(look);
  }
}

absl::StatusOr<int64_t> DatabaseImpl::Trim(absl::Duration retention, absl::Time deadline) {
  int64_t trimmed = 0;
  std::vector<std::string> before, now;
  {
    MutexLock lock(&mutex_);
    before.swap(silent_);
  }
  const std::vector<absl::string_view> silent(before.begin(), before.end());
  for (bool more = true; more;) {
    int64_t gone = 0;
    KVLINK_RETURN_IF_ERROR(pool_.Run(deadline, [&](Connection& connection, absl::Time until) -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(
          const auto rows,
          connection.Run(
              {Query{&kBegin, {}}, Query{&kLockConsumers, {}},
               Query{&kForgetSilent, Parameters().Integer(absl::ToInt64Microseconds(retention)).BytesOf(silent)},
               Query{&kSlowest, {}}, Query{&kReadHorizon, {}}},
              until));
      now.clear();
      for (int row = 0; row < rows[2].size(); ++row) now.emplace_back(rows[2].Bytes(row, 0));
      const DropPosition bound =
          rows[3].size() == 1 ? PositionIn(rows[3], 0) : DropPosition{rows[4].Transaction(0, 2), 0};
      KVLINK_ASSIGN_OR_RETURN(
          const auto passed,
          connection.Run({Query{&kTrim, PositionParameters(bound).Integer(kTrimmedAtATime)}}, until));
      gone = passed[0].size();
      std::vector<Query> queries;
      if (gone > 0) {
        queries.push_back({&kStoreTrimmed, PositionParameters(PositionIn(passed[0], 0))});
      } else if (rows[4].size() == 1 && rows[4].Transaction(0, 0) > rows[4].Transaction(0, 3)) {
        // Of another server. It is ignored until this one reaches it, when it would empty every node.
        queries.push_back({&kStoreTrimmed, PositionParameters({})});
      }
      queries.push_back({&kCommit, {}});
      return connection.Run(queries, until).status();
    }));
    trimmed += gone;
    more = gone == kTrimmedAtATime;
  }
  MutexLock lock(&mutex_);
  silent_ = std::move(now);
  return trimmed;
}

}  // namespace kvlink::store::database
