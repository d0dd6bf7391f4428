// Opening, preparing, namespaces and statistics.
#include "store/database/database.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/database/database_impl.h"
#include "store/database/schema.h"
#include "store/store.h"

namespace kvlink::store::database {
namespace {

NamespaceLimits LimitsOf(const Rows& rows, int row) {
  return {std::string(rows.Bytes(row, 0)), rows.Integer(row, 1), rows.Integer(row, 2),
          static_cast<uint64_t>(rows.Integer(row, 3))};
}

}  // namespace

absl::StatusOr<std::unique_ptr<DatabaseCatalog>> DatabaseCatalog::Open(const DatabaseOptions& options) {
  if (options.max_connections < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("database: max_connections is ", options.max_connections, "; allow at least 1"));
  }
  KVLINK_ASSIGN_OR_RETURN(std::vector<Host> hosts, ParseConnectionString(options.connection));
  return std::unique_ptr<DatabaseCatalog>(std::make_unique<DatabaseImpl>(options, std::move(hosts)));
}

absl::StatusOr<std::vector<Rows>> DatabaseImpl::Ask(absl::Span<const Query> queries, absl::Time deadline,
                                                    Tables tables) {
  std::vector<Rows> rows;
  const auto run = [&](Connection& connection, absl::Time until) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(rows, connection.Run(queries, until));
    return absl::OkStatus();
  };
  KVLINK_RETURN_IF_ERROR(pool_.Run(deadline, run, tables));
  return rows;
}

absl::Status DatabaseImpl::Prepare(absl::Time deadline) {
  const auto prepare = [this](Connection& connection, absl::Time until) {
    return PrepareSchema(connection, options_.cluster_id, options_.make_tables, until);
  };
  return pool_.Run(deadline, prepare, Tables::kAny);
}

absl::StatusOr<NamespaceLimits> DatabaseImpl::PutNamespace(const NamespaceChange& change, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", change.name));
  if (change.capacity_bytes.value_or(0) < 0 || change.pinned_bytes.value_or(0) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace '", change.name, "': a limit is negative; 0 means unlimited"));
  }
  if (change.revision.value_or(1) < 1 || change.revision.value_or(1) > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace '", change.name, "': a revision must be between 1 and 2^63 - 1"));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kPutNamespace, Parameters()
                                                         .Text(change.name)
                                                         .Integer(change.capacity_bytes.value_or(-1))
                                                         .Integer(change.pinned_bytes.value_or(-1))
                                                         .Integer(static_cast<int64_t>(change.revision.value_or(0)))}},
                              deadline));
  if (rows[0].size() == 1) return LimitsOf(rows[0], 0);
  KVLINK_ASSIGN_OR_RETURN(const std::vector<NamespaceLimits> all, ListNamespaces(deadline));
  for (const NamespaceLimits& one : all) {
    if (one.name != change.name) continue;
    // Whether an answer was lost and this is the second try, or two say the same: it is as was asked.
    if (one.revision == change.revision && one.capacity_bytes == change.capacity_bytes.value_or(one.capacity_bytes) &&
        one.pinned_bytes == change.pinned_bytes.value_or(one.pinned_bytes)) {
      return one;
    }
    return absl::FailedPreconditionError(absl::StrCat("namespace '", change.name, "': revision ",
                                                      change.revision.value_or(one.revision),
                                                      " does not replace the current revision ", one.revision));
  }
  return absl::AbortedError(absl::StrCat("namespace '", change.name, "' is being deleted; try again"));
}

absl::StatusOr<std::vector<NamespaceLimits>> DatabaseImpl::ListNamespaces(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kListNamespaces, {}}}, deadline));
  std::vector<NamespaceLimits> all;
  for (int row = 0; row < rows[0].size(); ++row) all.push_back(LimitsOf(rows[0], row));
  return all;
}

absl::StatusOr<uint64_t> DatabaseImpl::Clock() {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kClock, {}}}, absl::InfiniteFuture()));
  return static_cast<uint64_t>(rows[0].Integer(0, 0));
}

absl::StatusOr<bool> DatabaseImpl::Used(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kIsUsed, {}}}, deadline));
  return rows[0].Flag(0, 0);
}

absl::StatusOr<CatalogStats> DatabaseImpl::Stats(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kBeginReading, {}}, Query{&kScanTables, {}}, Query{&kCountDocuments, {}},
                               Query{&kCountDrops, {}}, Query{&kCommit, {}}},
                              deadline));
  CatalogStats stats;
  for (int row = 0; row < rows[2].size(); ++row) {
    stats.namespaces.push_back({std::string(rows[2].Bytes(row, 0)), rows[2].Integer(row, 1)});
  }
  stats.drops = rows[3].Integer(0, 0);
  return stats;
}

}  // namespace kvlink::store::database
