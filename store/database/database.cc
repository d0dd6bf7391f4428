// Opening, preparing, namespaces and statistics.
#include "store/database/database.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/database/database_impl.h"
#include "store/database/schema.h"
#include "store/store.h"

namespace kvlink::store::database {

absl::StatusOr<std::unique_ptr<DatabaseCatalog>> DatabaseCatalog::Open(const DatabaseOptions& options) {
  if (options.max_connections < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("at most ", options.max_connections, " connections to the database; allow at least one"));
  }
  KVLINK_ASSIGN_OR_RETURN(std::vector<Host> hosts, ParseConnectionString(options.connection));
  return std::unique_ptr<DatabaseCatalog>(std::make_unique<DatabaseImpl>(options, std::move(hosts)));
}

absl::StatusOr<std::vector<Rows>> DatabaseImpl::Ask(absl::Span<const Query> queries, absl::Time deadline) {
  std::vector<Rows> rows;
  KVLINK_RETURN_IF_ERROR(pool_.Run(deadline, [&](Connection& connection, absl::Time until) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(rows, connection.Run(queries, until));
    return absl::OkStatus();
  }));
  return rows;
}

absl::Status DatabaseImpl::Prepare(absl::Time deadline) {
  return pool_.RunUnchecked(deadline, [this](Connection& connection, absl::Time until) {
    return PrepareSchema(connection, options_.cluster_id, until);
  });
}

absl::StatusOr<NamespaceLimits> DatabaseImpl::PutNamespace(const NamespaceLimits& limits, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", limits.name));
  if (limits.capacity_bytes < 0 || limits.pinned_bytes < 0 || limits.revision > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace ", limits.name, ": a limit is below 0, or the revision above 2^63 - 1"));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto rows,
                          Ask({Query{&kPutNamespace, Parameters()
                                                         .Text(limits.name)
                                                         .Integer(limits.capacity_bytes)
                                                         .Integer(limits.pinned_bytes)
                                                         .Integer(static_cast<int64_t>(limits.revision))}},
                              deadline));
  NamespaceLimits put = limits;
  if (rows[0].size() == 1) {
    put.revision = static_cast<uint64_t>(rows[0].Integer(0, 0));
    return put;
  }
  KVLINK_ASSIGN_OR_RETURN(const std::vector<NamespaceLimits> all, ListNamespaces(deadline));
  for (const NamespaceLimits& one : all) {
    if (one.name != limits.name) continue;
    // Whether an answer was lost and this is the second try, or two say the same: it is as was asked.
    if (one.revision == limits.revision && one.capacity_bytes == limits.capacity_bytes &&
        one.pinned_bytes == limits.pinned_bytes) {
      return one;
    }
    return absl::FailedPreconditionError(absl::StrCat("namespace ", limits.name, ": its limits are of revision ",
                                                      one.revision, ", ", limits.revision, " does not replace them"));
  }
  return absl::AbortedError(absl::StrCat("namespace ", limits.name, ": somebody deletes it; try again"));
}

absl::StatusOr<std::vector<NamespaceLimits>> DatabaseImpl::ListNamespaces(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kListNamespaces, {}}}, deadline));
  std::vector<NamespaceLimits> all;
  for (int row = 0; row < rows[0].size(); ++row) {
    all.push_back({std::string(rows[0].Bytes(row, 0)), rows[0].Integer(row, 1), rows[0].Integer(row, 2),
                   static_cast<uint64_t>(rows[0].Integer(row, 3))});
  }
  return all;
}

absl::StatusOr<uint64_t> DatabaseImpl::Clock() {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, Ask({Query{&kClock, {}}}, absl::InfiniteFuture()));
  return static_cast<uint64_t>(rows[0].Integer(0, 0));
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
