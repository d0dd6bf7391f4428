// The tables and their version. A build reads the version that it writes and no other: an older one is migrated by
// whoever prepares the database first, a newer one is refused.
// Thread-safety: pure functions over a connection, which one thread at a time uses.
#ifndef KVLINK_STORE_DATABASE_SCHEMA_H_
#define KVLINK_STORE_DATABASE_SCHEMA_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "store/database/connection.h"

namespace kvlink::store::database {

using ClusterId = std::array<uint8_t, 16>;

// FAILED_PRECONDITION: there are no tables, they are of another version (both are named) or of another cluster.
absl::Status CheckSchema(Connection& connection, const ClusterId& cluster, absl::Time deadline);

// Makes the tables or migrates them, under a lock, in one transaction. FAILED_PRECONDITION as CheckSchema.
absl::Status PrepareSchema(Connection& connection, const ClusterId& cluster, absl::Time deadline);

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_SCHEMA_H_
