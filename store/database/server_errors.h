// Errors of PostgreSQL and libpq as statuses, each one line that names the host, and never a password.
//
// The code decides what follows. UNAVAILABLE: the connection is broken; another server may work. ABORTED: the
// transaction may be repeated. Any other code is final. Thread-safety: pure functions.
#ifndef KVLINK_STORE_DATABASE_SERVER_ERRORS_H_
#define KVLINK_STORE_DATABASE_SERVER_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

struct pg_conn;
struct pg_result;

namespace kvlink::store::database {

// The error of a failed attempt to connect. The connection must report errors with their SQLSTATE (PQERRORS_VERBOSE).
absl::Status ConnectError(const pg_conn* connection, absl::string_view host);
// The error of a failed statement, or of a connection that broke during one (`result` may be null).
absl::Status StatementError(const pg_conn* connection, const pg_result* result, absl::string_view host);
// Of a database without all tables, the row of their version, or rights to them: a mistake, or it is being restored.
absl::Status MarkUnrestored(absl::Status status);
bool IsUnrestored(const absl::Status& status);

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_SERVER_ERRORS_H_
