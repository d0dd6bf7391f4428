// A migration is a list of statements that brings the tables from the previous version to its own; the first one makes
// them. docs/formats.md "Database" describes the versions.
#include "store/database/schema.h"

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/node_id.h"
#include "store/database/server_errors.h"

namespace kvlink::store::database {
namespace {

// To version 1. Names are compared by their bytes. Entries do not compress (tokens are numbers of few bytes); long ones
// are stored outside the row.
constexpr const char* kTables[] = {
    "CREATE SCHEMA IF NOT EXISTS kvlink",
    R"sql(CREATE TABLE kvlink.kvlink_schema (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version bigint NOT NULL,
  cluster_id bytea NOT NULL CHECK (octet_length(cluster_id) = 16)))sql",
    R"sql(CREATE TABLE kvlink.documents (
  ns text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  generation bigint NOT NULL,
  written_at bigint NOT NULL,
  tokens bigint NOT NULL,
  tombstone boolean NOT NULL,
  title bytea NOT NULL,
  identities bytea NOT NULL,
  entry bytea NOT NULL,
  PRIMARY KEY (ns, id)))sql",
    "ALTER TABLE kvlink.documents ALTER COLUMN entry SET STORAGE EXTERNAL",
    R"sql(CREATE TABLE kvlink.refs (
  ns text COLLATE "C" NOT NULL,
  identity bytea NOT NULL CHECK (octet_length(identity) = 32),
  id text COLLATE "C" NOT NULL,
  PRIMARY KEY (ns, identity, id)))sql",
    R"sql(CREATE TABLE kvlink.drop_log (
  transaction xid8 NOT NULL,
  sequence bigserial,
  ns text COLLATE "C" NOT NULL,
  identity bytea CHECK (octet_length(identity) = 32),
  PRIMARY KEY (transaction, sequence)))sql",
    R"sql(CREATE TABLE kvlink.drop_log_trimmed (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  transaction xid8 NOT NULL,
  sequence bigint NOT NULL))sql",
    "INSERT INTO kvlink.drop_log_trimmed (transaction, sequence) VALUES ('0', 0)",
    R"sql(CREATE TABLE kvlink.consumers (
  node_id bytea PRIMARY KEY CHECK (octet_length(node_id) = 16),
  transaction xid8 NOT NULL,
  sequence bigint NOT NULL,
  updated timestamptz NOT NULL))sql",
    R"sql(CREATE TABLE kvlink.namespaces (
  ns text COLLATE "C" PRIMARY KEY,
  capacity_bytes bigint NOT NULL,
  pinned_bytes bigint NOT NULL,
  revision bigint NOT NULL))sql",
};

// kMigrations[i] leads to version i + 1.
constexpr absl::Span<const char* const> kMigrations[] = {kTables};
constexpr int64_t kVersion = std::size(kMigrations);

absl::Status Refuse(const Connection& connection, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("database ", connection.host().name, ": ", why));
}

// Returns the version if the tables are those of the cluster.
absl::StatusOr<int64_t> VersionOf(const Connection& connection, const Rows& rows, const ClusterId& cluster) {
  if (rows.size() != 1) {
    return MarkUnrestored(Refuse(connection, "its table kvlink.kvlink_schema has no row; restore it from a backup"));
  }
  const int64_t version = rows.Integer(0, 0);
  if (rows.Bytes(0, 1) != BytesOf(cluster)) {
    return Refuse(connection,
                  absl::StrCat("it belongs to cluster ", absl::BytesToHexString(rows.Bytes(0, 1)), ", not to ",
                               absl::BytesToHexString(BytesOf(cluster)), "; name the database of this cluster"));
  }
  if (version > kVersion) {
    return Refuse(connection, absl::StrCat("its tables have version ", version, ", but this build supports version ",
                                           kVersion, "; use a newer build"));
  }
  return version;
}

}  // namespace

Query GuardOf(const ClusterId& cluster) { return {&kGuard, Parameters().Integer(kVersion).Bytes(BytesOf(cluster))}; }

absl::StatusOr<Rights> CheckSchema(Connection& connection, const ClusterId& cluster, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto rows, connection.Run({Query{&kReadSchema, {}}}, deadline));
  KVLINK_ASSIGN_OR_RETURN(const int64_t version, VersionOf(connection, rows[0], cluster));
  if (version == kVersion) return Rights{rows[0].Integer(0, 2), std::string(rows[0].Bytes(0, 3))};
  return Refuse(connection, absl::StrCat("its tables have version ", version, ", but this build needs version ",
                                         kVersion, "; start a node of this build to migrate them"));
}

absl::Status PrepareSchema(Connection& connection, const ClusterId& cluster, bool make, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(
      const auto has, connection.Run({Query{&kBegin, {}}, Query{&kLockSchema, {}}, Query{&kHasSchema, {}}}, deadline));
  int64_t version = 0;
  if (has[2].Flag(0, 0)) {
    KVLINK_ASSIGN_OR_RETURN(const auto rows, connection.Run({Query{&kReadSchema, {}}}, deadline));
    KVLINK_ASSIGN_OR_RETURN(version, VersionOf(connection, rows[0], cluster));
  } else if (!make) {
    return Refuse(connection,
                  "it has no KVLink tables; restore the catalog of this cluster there first. If it is lost, create "
                  "another cluster");
  }
  std::vector<Statement> statements;
  for (int64_t next = version; next < kVersion; ++next) {
    for (const char* const sql : kMigrations[next]) statements.push_back({"", sql, {}});
  }
  std::vector<Query> queries;
  for (const Statement& statement : statements) queries.push_back({&statement, {}});
  if (version < kVersion) {
    queries.push_back({&kAddSchema, Parameters().Integer(kVersion).Bytes(BytesOf(cluster))});
  }
  queries.push_back({&kCommit, {}});
  return connection.Run(queries, deadline).status();
}

}  // namespace kvlink::store::database
