// Server errors are identified by their SQLSTATE, since their texts are in the server's language. libpq does not expose
// the SQLSTATE of a failed attempt to connect, but prints it in verbose errors: "FATAL:  28P01: ...".
#include "store/database/server_errors.h"

#include <libpq-fe.h>

#include <cctype>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kvlink::store::database {
namespace {

struct Meaning {
  absl::string_view state;  // an SQLSTATE, or the two characters of its class
  absl::StatusCode code;
  absl::string_view advice;
};

constexpr absl::string_view kNoTables =
    "it has no KVLink tables, or not all of them: restore the cluster's catalog there; of a new cluster, start a "
    "node, which makes them";

constexpr absl::string_view kNotWhole =
    "its tables were not whole a moment ago, or not those of this cluster and build";

// The first match applies.
constexpr Meaning kMeanings[] = {
    {"28P01", absl::StatusCode::kUnauthenticated,
     "the password is wrong or missing: give it in PGPASSFILE (~/.pgpass), PGPASSWORD or a service file"},
    {"28", absl::StatusCode::kUnauthenticated,
     "the server refuses this user from this host: check that the role may log in, pg_hba.conf, and the service that "
     "the server asks, if there is one (LDAP, RADIUS)"},
    {"3D000", absl::StatusCode::kFailedPrecondition, "create the database with createdb"},
    {"55000", absl::StatusCode::kUnavailable, "it is closed to connections (ALTER DATABASE ... ALLOW_CONNECTIONS)"},
    {"22012", absl::StatusCode::kFailedPrecondition, ""},  // kGuard
    {"3F000", absl::StatusCode::kFailedPrecondition, kNoTables},
    {"42P01", absl::StatusCode::kFailedPrecondition, kNoTables},
    {"42501", absl::StatusCode::kPermissionDenied,
     "grant the user CONNECT on the database, and CREATE to create the tables; to use them, USAGE on schema kvlink, "
     "SELECT, INSERT, UPDATE, DELETE on its tables and USAGE on its sequences"},
    {"53100", absl::StatusCode::kResourceExhausted, "the server has no disk space left"},
    {"53300", absl::StatusCode::kUnavailable,
     "the server has no connections left: raise its max_connections, or connect through a session pooler"},
    {"53", absl::StatusCode::kResourceExhausted, "the server is short of resources"},
    {"40", absl::StatusCode::kAborted, ""},
    {"23505", absl::StatusCode::kAborted, ""},  // another transaction has just made the document
    {"57014", absl::StatusCode::kDeadlineExceeded, ""},
    {"25006", absl::StatusCode::kUnavailable, "the server takes no writes"},
    {"57P", absl::StatusCode::kUnavailable, ""},  // shutting down, starting
    {"58", absl::StatusCode::kUnavailable, ""},   // system errors of the server
    {"08", absl::StatusCode::kUnavailable, ""},
    {"25P0", absl::StatusCode::kUnavailable, ""},  // the server ended an idle session
};

constexpr char kUnrestored[] = "kvlink/unrestored";  // a status's payload

// The first line of the text.
std::string FirstLine(absl::string_view text) {
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  return lines.empty() ? "no reason given" : std::string(absl::StripAsciiWhitespace(lines[0]));
}

absl::Status Make(absl::string_view state, absl::string_view text, absl::string_view host) {
  for (const Meaning& meaning : kMeanings) {
    if (!absl::StartsWith(state, meaning.state)) continue;
    return absl::Status(
        meaning.code, absl::StrCat("database ", host, ": ", text, meaning.advice.empty() ? "" : "; ", meaning.advice));
  }
  return absl::InternalError(absl::StrCat("database ", host, ": ", text, " (SQLSTATE ", state, ")"));
}

// Finds the SQLSTATE in a line like "FATAL:  28P01: password ..." and returns its offset, or npos.
size_t FindState(absl::string_view line) {
  for (size_t at = line.find(": "); at != absl::string_view::npos; at = line.find(": ", at + 1)) {
    if (at < 5) continue;
    const absl::string_view state = line.substr(at - 5, 5);
    if (absl::c_all_of(state, [](char c) { return absl::ascii_isdigit(c) || absl::ascii_isupper(c); }) &&
        absl::c_any_of(state, [](char c) { return absl::ascii_isdigit(c); })) {
      return at - 5;
    }
  }
  return absl::string_view::npos;
}

}  // namespace

absl::Status MarkUnrestored(absl::Status status) {
  status.SetPayload(kUnrestored, absl::Cord());
  return status;
}

bool IsUnrestored(const absl::Status& status) { return status.GetPayload(kUnrestored).has_value(); }

absl::Status ConnectError(const pg_conn* connection, absl::string_view host) {
  const absl::string_view text = PQerrorMessage(connection);
  if (PQconnectionNeedsPassword(connection) != 0) {
    return Make("28P01", absl::StrCat("the server requires a password for user ", PQuser(connection)), host);
  }
  // There may be several attempts (addresses of one name, with and without TLS): the last line with a state decides.
  std::string said;
  absl::string_view state;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    const size_t at = FindState(line);
    if (at == absl::string_view::npos) continue;
    state = line.substr(at, 5);
    said = std::string(line.substr(at + 7));
  }
  if (absl::StrContains(text, "no pg_hba.conf entry") && absl::StrContains(text, "no encryption") &&
      !absl::StrContains(text, "SSL encryption")) {
    return absl::FailedPreconditionError(
        absl::StrCat("database ", host, ": the server does not accept user ", PQuser(connection),
                     " without TLS; add sslmode=verify-full to the connection string, or a line to pg_hba.conf"));
  }
  if (absl::StrContains(text, "does not support SSL")) {
    return absl::FailedPreconditionError(
        absl::StrCat("database ", host,
                     ": the server does not support TLS, but the connection string requires it "
                     "(sslmode)"));
  }
  if (absl::StrContains(text, "certificate")) {
    return absl::FailedPreconditionError(absl::StrCat("database ", host, ": ", FirstLine(text)));
  }
  if (!state.empty()) return Make(state, said, host);
  if (absl::StrContains(text, "session is read-only")) {
    return Make("25006", "it is a standby or read-only", host);
  }
  return absl::UnavailableError(absl::StrCat("database ", host, ": ", FirstLine(text)));
}

absl::Status StatementError(const pg_conn* connection, const pg_result* result, absl::string_view host) {
  const char* const state = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* const text = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  if (state != nullptr && text != nullptr) {
    const absl::string_view code(state);
    const bool unrestored = code == "3F000" || code == "42P01" || code == "42501" || code == "22012";
    // Only kGuard divides.
    absl::Status status = Make(code, code == "22012" ? std::string(kNotWhole) : FirstLine(text), host);
    return unrestored ? MarkUnrestored(std::move(status)) : status;
  }
  return absl::UnavailableError(
      absl::StrCat("database ", host, ": the connection broke: ", FirstLine(PQerrorMessage(connection))));
}

}  // namespace kvlink::store::database
