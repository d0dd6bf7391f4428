// What PostgreSQL and libpq say went wrong, as a status: one line that names the host, and never a password.
//
// Codes decide what is done next: UNAVAILABLE, the connection is of no use any more, and another server may be;
// ABORTED, the transaction may be made again; any other, the error stands. Thread-safety: pure functions.
#ifndef KVLINK_STORE_DATABASE_SERVER_ERRORS_H_
#define KVLINK_STORE_DATABASE_SERVER_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

struct pg_conn;
struct pg_result;

namespace kvlink::store::database {

// Of an attempt to connect that failed. The connection is to say errors with their SQLSTATE (PQERRORS_VERBOSE).
absl::Status ConnectError(const pg_conn* connection, absl::string_view host);
// Of a statement that failed, or of a connection that broke under it.
absl::Status StatementError(const pg_conn* connection, const pg_result* result, absl::string_view host);

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_SERVER_ERRORS_H_
