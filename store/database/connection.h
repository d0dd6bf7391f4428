// One connection to one server. Every wait for the server has a deadline of SteadyNow(): libpq is used in non-blocking
// mode, even while it connects.
//
// Thread-safety: one thread at a time. Errors: server_errors.h; DEADLINE_EXCEEDED, the server did not answer in time.
// After both UNAVAILABLE and that, the connection is broken; but not if it was the server that ended the statement by
// its own time limit, which is DEADLINE_EXCEEDED too.
#ifndef KVLINK_STORE_DATABASE_CONNECTION_H_
#define KVLINK_STORE_DATABASE_CONNECTION_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "store/database/statements.h"
#include "store/database/values.h"

struct pg_conn;

namespace kvlink::store::database {

struct Query {
  const Statement* statement;
  Parameters parameters;
};

// One server of a connection string.
struct Host {
  std::string name;                                             // for messages: "db1:5432"
  std::vector<std::pair<std::string, std::string>> parameters;  // libpq's keywords and values
};
// Returns the hosts of a connection string, in its order; each demands a server that takes writes, unless the string
// says otherwise. INVALID_ARGUMENT: it cannot be parsed, or holds a password.
absl::StatusOr<std::vector<Host>> ParseConnectionString(const std::string& text);

class Connection {
 public:
  // `host` must outlive the connection.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const Host& host, absl::Time deadline);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Carries out the queries in order, in one round trip, and returns the rows of each. They form one transaction,
  // unless they begin or end others themselves. The error is that of the first query that failed; later ones are not
  // carried out, and the caller must roll back a transaction that was begun.
  absl::StatusOr<std::vector<Rows>> Run(absl::Span<const Query> queries, absl::Time deadline);
  // From now on Run sends `guard` with the first queries of each transaction, as a part of it and in the same round
  // trip. If it fails, none of them is carried out, and its error is returned; its rows are not. Null: nothing more is
  // sent.
  void SetGuard(const Query* guard) { guard_ = guard; }
  bool in_transaction() const;
  // Whether the connection can no longer be used. Notices without blocking that the server has closed it.
  bool broken();
  const Host& host() const { return host_; }

 private:
  explicit Connection(const Host& host) : host_(host) {}
  // Connects to this address of the host; empty: to the one that its parameters name.
  static absl::StatusOr<std::unique_ptr<Connection>> OpenOne(const Host& host, const std::string& address,
                                                             absl::Time deadline);
  absl::Status Connect(const std::string& address, absl::Time deadline);
  absl::Status CheckServer() const;
  absl::Status Send(const Query& query);
  // Waits until the connection is readable, or, if `write` is set, readable or writable.
  absl::Status Await(bool write, absl::Time deadline);
  absl::Status Flush(absl::Time deadline);
  // Receives the result of a statement. *aborted: the server skipped the statement because an earlier one failed.
  absl::StatusOr<Rows> Receive(const Statement& statement, bool* aborted, absl::Time deadline);
  // The next result; null at the end of a statement's results.
  absl::StatusOr<struct pg_result*> NextResult(absl::Time deadline);
  absl::Status Broken(absl::Status status);
  absl::Status Lost();

  struct Finish {
    void operator()(pg_conn* connection) const;
  };
  const Host& host_;
  std::unique_ptr<pg_conn, Finish> connection_;
  absl::flat_hash_set<std::string> prepared_;
  const Query* guard_ = nullptr;
  bool broken_ = false;
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_CONNECTION_H_
