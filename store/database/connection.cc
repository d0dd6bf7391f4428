// Run sends its queries as one pipeline that ends in a synchronisation: the server carries out the first ones while it
// still receives the rest. A statement is prepared in the same pipeline as its first use.
//
// libpq tries the hosts of a connection string one after another, but its time limit per host does not apply in
// non-blocking mode: a frozen host would block all others. So this file makes one connection attempt per host.
#include "store/database/connection.h"

#include <libpq-fe.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/database/server_errors.h"

namespace kvlink::store::database {
namespace {

constexpr int kMinServer = 130000;  // has the type xid8

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

std::vector<std::string> SplitList(const std::string& list) { return absl::StrSplit(list, ','); }

// Calls poll(), and repeats it after a signal. Returns false if the deadline has passed.
bool Poll(int descriptor, short events, absl::Time deadline) {
  for (;;) {
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    pollfd waiting{descriptor, events, 0};
    const int64_t milliseconds = std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, 60000);
    const int ready = poll(&waiting, 1, static_cast<int>(milliseconds));
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
}

// The numeric addresses of a named host, in the system's order. Empty if there is nothing to look up or the lookup
// fails, for which libpq then gives the reason.
std::vector<std::string> AddressesOf(const Host& host) {
  std::string name;
  for (const auto& [keyword, value] : host.parameters) {
    if (keyword == "hostaddr") return {};
    if (keyword == "host") name = value;
  }
  if (name.empty() || name[0] == '/' || name[0] == '@') return {};
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(name.c_str(), nullptr, &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  std::vector<std::string> addresses;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) continue;
    addresses.emplace_back(text);
  }
  return addresses;
}

// Value i of a list with one value for all hosts, or one per host; libpq's own rule.
std::string ValueAt(const std::vector<std::string>& values, size_t i) {
  if (values.size() == 1) return values[0];
  return i < values.size() ? values[i] : "";
}

}  // namespace

absl::StatusOr<std::vector<Host>> ParseConnectionString(const std::string& text) {
  char* error = nullptr;
  const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(PQconninfoParse(text.c_str(), &error));
  if (parsed == nullptr) {
    // libpq's message may quote the string, and with it a misplaced password.
    PQfreemem(error);
    return absl::InvalidArgumentError(
        "the connection string of the database cannot be parsed; write postgresql://USER@HOST:PORT/DATABASE");
  }
  // TCP tells within 3 s that a host has vanished, whose connections otherwise look idle until each call's time is up.
  // A server that is only slow acknowledges what it has room for.
  std::vector<std::pair<std::string, std::string>> shared = {{"target_session_attrs", "read-write"},
                                                             {"fallback_application_name", "kvlink"},
                                                             {"client_encoding", "UTF8"},
                                                             {"tcp_user_timeout", "3000"},
                                                             {"keepalives_idle", "1"},
                                                             {"keepalives_interval", "1"},
                                                             {"keepalives_count", "2"}};
  std::vector<std::string> names(1), addresses(1), ports(1);
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    const std::string keyword = option->keyword, value = option->val;
    if (keyword == "password" || keyword == "sslpassword") {
      return absl::InvalidArgumentError(
          "the connection string of the database contains a password, which others can see; remove it and use "
          "PGPASSFILE (~/.pgpass), PGPASSWORD or a service file");
    }
    if (keyword == "host") {
      names = SplitList(value);
    } else if (keyword == "hostaddr") {
      addresses = SplitList(value);
    } else if (keyword == "port") {
      ports = SplitList(value);
    } else {
      // Of two values for a keyword, the later one applies.
      shared.emplace_back(keyword, value);
    }
  }
  const size_t count = std::max(names.size(), addresses.size());
  if ((names.size() != 1 && names.size() != count) || (addresses.size() != 1 && addresses.size() != count) ||
      (ports.size() != 1 && ports.size() != count)) {
    return absl::InvalidArgumentError(
        "the connection string of the database names different numbers of hosts, addresses and ports");
  }
  std::vector<Host> hosts;
  for (size_t i = 0; i < count; ++i) {
    const std::string name = ValueAt(names, i), address = ValueAt(addresses, i), port = ValueAt(ports, i);
    Host& host = hosts.emplace_back();
    host.name = absl::StrCat(!name.empty()      ? name
                             : !address.empty() ? address
                                                : "(default host)",
                             port.empty() ? "" : ":", port);
    host.parameters = shared;
    if (!name.empty()) host.parameters.emplace_back("host", name);
    if (!address.empty()) host.parameters.emplace_back("hostaddr", address);
    if (!port.empty()) host.parameters.emplace_back("port", port);
  }
  return hosts;
}

void Connection::Finish::operator()(pg_conn* connection) const { PQfinish(connection); }

Connection::~Connection() = default;

// libpq also tries the addresses of a name one after another, again without a time limit that applies here.
absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Host& host, absl::Time deadline) {
  const std::vector<std::string> addresses = AddressesOf(host);
  if (addresses.size() < 2) return OpenOne(host, "", deadline);
  absl::StatusOr<std::unique_ptr<Connection>> opened = absl::UnavailableError("");
  for (size_t i = 0; i < addresses.size() && absl::IsUnavailable(opened.status()); ++i) {
    const auto left = static_cast<double>(addresses.size() - i);
    opened = OpenOne(host, addresses[i], SteadyNow() + (deadline - SteadyNow()) / left);
  }
  return opened;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::OpenOne(const Host& host, const std::string& address,
                                                                absl::Time deadline) {
  std::unique_ptr<Connection> connection(new Connection(host));
  KVLINK_RETURN_IF_ERROR(connection->Connect(address, deadline));
  KVLINK_RETURN_IF_ERROR(connection->CheckServer());
  return connection;
}

absl::Status Connection::Connect(const std::string& address, absl::Time deadline) {
  std::vector<const char*> keywords, values;
  for (const auto& [keyword, value] : host_.parameters) {
    keywords.push_back(keyword.c_str());
    values.push_back(value.c_str());
  }
  if (!address.empty()) {
    keywords.push_back("hostaddr");
    values.push_back(address.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  connection_.reset(PQconnectStartParams(keywords.data(), values.data(), 0));
  if (connection_ == nullptr) return absl::ResourceExhaustedError("no memory for a connection to the database");
  pg_conn* const connection = connection_.get();
  PQsetErrorVerbosity(connection, PQERRORS_VERBOSE);
  PQsetNoticeProcessor(
      connection, [](void*, const char*) {}, nullptr);
  PostgresPollingStatusType wanted = PGRES_POLLING_WRITING;
  while (PQstatus(connection) != CONNECTION_BAD) {
    if (wanted == PGRES_POLLING_OK) {
      PQsetErrorVerbosity(connection, PQERRORS_DEFAULT);
      if (PQsetnonblocking(connection, 1) != 0 || PQenterPipelineMode(connection) != 1) return Lost();
      return absl::OkStatus();
    }
    if (wanted == PGRES_POLLING_FAILED) break;
    if (!Poll(PQsocket(connection), wanted == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline)) {
      return Broken(absl::UnavailableError(absl::StrCat("database ", host_.name, ": the server does not answer")));
    }
    wanted = PQconnectPoll(connection);
  }
  return Broken(ConnectError(connection, host_.name));
}

absl::Status Connection::CheckServer() const {
  if (PQserverVersion(connection_.get()) < kMinServer) {
    return absl::FailedPreconditionError(absl::StrCat("database ", host_.name, ": the server has version ",
                                                      PQserverVersion(connection_.get()) / 10000,
                                                      "; KVLink needs PostgreSQL 13 or later"));
  }
  const char* const encoding = PQparameterStatus(connection_.get(), "server_encoding");
  if (encoding != nullptr && absl::string_view(encoding) != "UTF8") {
    return absl::FailedPreconditionError(
        absl::StrCat("database ", host_.name, ": its encoding is ", encoding,
                     "; create one with createdb --encoding=UTF8 --template=template0"));
  }
  return absl::OkStatus();
}

bool Connection::in_transaction() const { return PQtransactionStatus(connection_.get()) != PQTRANS_IDLE; }

bool Connection::broken() {
  if (broken_ || PQstatus(connection_.get()) != CONNECTION_OK) return true;
  // Between operations a server sends nothing except its termination message.
  pollfd waiting{PQsocket(connection_.get()), POLLIN, 0};
  if (poll(&waiting, 1, 0) > 0) {
    broken_ = PQconsumeInput(connection_.get()) != 1 || PQstatus(connection_.get()) != CONNECTION_OK;
  }
  return broken_;
}

absl::Status Connection::Broken(absl::Status status) {
  broken_ = true;
  return status;
}

absl::Status Connection::Lost() { return Broken(StatementError(connection_.get(), nullptr, host_.name)); }

absl::Status Connection::Await(bool write, absl::Time deadline) {
  if (Poll(PQsocket(connection_.get()), static_cast<short>(write ? POLLIN | POLLOUT : POLLIN), deadline)) {
    return absl::OkStatus();
  }
  return Broken(absl::DeadlineExceededError(
      absl::StrCat("database ", host_.name, ": no answer in time; the last write may or may not have taken effect")));
}

absl::Status Connection::Flush(absl::Time deadline) {
  for (;;) {
    const int left = PQflush(connection_.get());
    if (left < 0) return Lost();
    if (left == 0) return absl::OkStatus();
    KVLINK_RETURN_IF_ERROR(Await(/*write=*/true, deadline));
    // The server may not read more until this client has read its answers.
    if (PQconsumeInput(connection_.get()) != 1) return Lost();
  }
}

absl::Status Connection::Send(const Query& query) {
  const Statement& statement = *query.statement;
  const std::vector<std::string>& parameters = query.parameters.values();
  std::vector<const char*> values;
  std::vector<int> lengths, formats(parameters.size(), 1);
  for (const std::string& parameter : parameters) {
    values.push_back(parameter.data());
    lengths.push_back(static_cast<int>(parameter.size()));
  }
  const int count = static_cast<int>(parameters.size());
  const int sent = *statement.name == 0 ? PQsendQueryParams(connection_.get(), statement.sql, count, nullptr,
                                                            values.data(), lengths.data(), formats.data(), 1)
                                        : PQsendQueryPrepared(connection_.get(), statement.name, count, values.data(),
                                                              lengths.data(), formats.data(), 1);
  return sent == 1 ? absl::OkStatus() : Lost();
}

absl::StatusOr<pg_result*> Connection::NextResult(absl::Time deadline) {
  while (PQisBusy(connection_.get()) != 0) {
    KVLINK_RETURN_IF_ERROR(Await(/*write=*/false, deadline));
    if (PQconsumeInput(connection_.get()) != 1) return Lost();
  }
  return PQgetResult(connection_.get());
}

absl::StatusOr<Rows> Connection::Receive(const Statement& statement, bool* aborted, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(pg_result* const result, NextResult(deadline));
  Rows rows(result);
  if (result == nullptr) return Lost();
  const ExecStatusType state = PQresultStatus(result);
  *aborted = state == PGRES_PIPELINE_ABORTED;
  if (*aborted) return rows;
  if (state != PGRES_TUPLES_OK && state != PGRES_COMMAND_OK) {
    absl::Status error = StatementError(connection_.get(), result, host_.name);
    if (absl::IsUnavailable(error)) return Broken(std::move(error));
    return error;
  }
  // The server answers the commit of a failed transaction with ROLLBACK.
  if (&statement == &kCommit && absl::string_view(PQcmdStatus(result)) != "COMMIT") {
    return absl::AbortedError(absl::StrCat("database ", host_.name, ": the transaction was rolled back"));
  }
  if (state == PGRES_TUPLES_OK && !HasColumns(result, statement.columns)) {
    return absl::InternalError(
        absl::StrCat("database ", host_.name, ": statement ", statement.name, " returned unexpected columns"));
  }
  return rows;
}

absl::StatusOr<std::vector<Rows>> Connection::Run(absl::Span<const Query> queries, absl::Time deadline) {
  // With the guard, which belongs into the transaction that they begin: after a BEGIN.
  std::vector<const Query*> sent;
  const Query* guard = in_transaction() ? nullptr : guard_;
  for (const Query& query : queries) {
    const bool begins = query.statement == &kBegin || query.statement == &kBeginReading;
    if (guard != nullptr && !begins) sent.push_back(std::exchange(guard, nullptr));
    sent.push_back(&query);
  }
  // For each, whether its preparation was sent before it.
  std::vector<bool> prepares;
  for (const Query* const query : sent) {
    const char* const name = query->statement->name;
    prepares.push_back(*name != 0 && prepared_.insert(name).second);
    if (prepares.back() && PQsendPrepare(connection_.get(), name, query->statement->sql, 0, nullptr) != 1)
      return Lost();
    KVLINK_RETURN_IF_ERROR(Send(*query));
  }
  if (PQpipelineSync(connection_.get()) != 1) return Lost();
  KVLINK_RETURN_IF_ERROR(Flush(deadline));

  static constexpr Statement kPreparation = {"", "", {}};
  std::vector<Rows> rows;
  absl::Status first;
  const auto receive = [&](const Statement& statement, bool keep) {
    bool aborted = false;
    auto received = Receive(statement, &aborted, deadline);
    if (!received.ok() && first.ok()) first = received.status();
    const bool ok = received.ok() && !aborted;
    if (keep && ok) rows.push_back(*std::move(received));
    if (broken_) return false;
    // The results of each statement end with a null.
    const auto end = NextResult(deadline);
    if (!end.ok() && first.ok()) first = end.status();
    if (end.ok() && *end != nullptr) Rows discarded(*end);
    return ok;
  };
  for (size_t i = 0; i < sent.size() && !broken_; ++i) {
    const Statement& statement = *sent[i]->statement;
    if (prepares[i] && !receive(kPreparation, /*keep=*/false)) prepared_.erase(statement.name);
    if (!broken_) receive(statement, /*keep=*/sent[i] != guard_);
  }
  if (!broken_) {
    const auto end = NextResult(deadline);
    if (end.ok()) {
      const Rows synchronised(*end);
      if (PQresultStatus(*end) != PGRES_PIPELINE_SYNC) return Lost();
    } else if (first.ok()) {
      first = end.status();
    }
  }
  KVLINK_RETURN_IF_ERROR(first);
  return rows;
}

}  // namespace kvlink::store::database
