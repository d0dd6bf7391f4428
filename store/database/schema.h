// The tables and their version. A build reads only the version that it writes: the first process that prepares the
// database migrates an older one; a newer one is refused.
// Thread-safety: pure functions over a connection, which one thread at a time uses.
#ifndef KVLINK_STORE_DATABASE_SCHEMA_H_
#define KVLINK_STORE_DATABASE_SCHEMA_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/database/connection.h"

namespace kvlink::store::database {

using ClusterId = std::array<uint8_t, 16>;

// What the user may do with the tables.
struct Rights {
  int64_t held = 0;     // a bit for each right to each table
  std::string changes;  // another text after every GRANT and REVOKE on a table or the schema, whatever came of it
  bool operator==(const Rights& other) const = default;
};

// Returns the user's rights. FAILED_PRECONDITION: not all tables are there, or not all of their contents; or they are
// of another version (both are named) or of another cluster.
absl::StatusOr<Rights> CheckSchema(Connection& connection, const ClusterId& cluster, absl::Time deadline);

// Fails where CheckSchema does, and keeps the tables from being dropped until its transaction ends
// (Connection::SetGuard).
Query GuardOf(const ClusterId& cluster);

// Makes the tables or migrates them, under a lock, in one transaction. FAILED_PRECONDITION: they are of a newer version
// or of another cluster, or there are none and `make` is not set.
absl::Status PrepareSchema(Connection& connection, const ClusterId& cluster, bool make, absl::Time deadline);

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_SCHEMA_H_
