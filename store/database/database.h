// The catalog of a cluster, in a database that speaks PostgreSQL's protocol (PostgreSQL 13 or later): documents, the
// references of documents to identities, namespaces with their limits, and the drop log. Tables: docs/formats.md
// "Database". Transactions, backup and high availability are the database's work.
//
// Reads and writes go to the server that takes writes, so that a document that was deleted is never read after its
// deletion returned. A group of documents (catalog.h) is one transaction.
//
// The connection string is libpq's, "postgresql://user@host1,host2/name?sslmode=verify-full" or "host=... dbname=...":
// of several hosts the one that takes writes is used, and looked for again when it is gone. Passwords do not belong in
// it: they come from PGPASSFILE (~/.pgpass), PGPASSWORD or a service file (PGSERVICE), and no message holds one. Names
// of hosts are resolved by the system's resolver, whose own time limit holds: give addresses (hostaddr) where it may
// hang. Session poolers work, poolers by transaction do not.
//
// Deadlines. Every operation ends within DatabaseOptions::operation_timeout, whatever the server or the network does;
// methods that take a deadline end at the earlier of both.
//
// A commit whose answer was lost is made again, on whichever server takes writes then. Where an entry names its
// generation that is the same write. Of generation 0 it is, too, unless another client put the same document in
// between: then that is replaced (as catalog.h says of clients), or, where an error is returned in the end, nobody
// knows whether the first was carried out.
//
// Clocks: a generation or a time that the store gives is of the database's clock, in microseconds since 1970, and later
// than what the document had. Documents of one call have times of their own. Failing over to a server whose clock is
// behind may give one document an earlier time than another got before.
//
// Thread-safety: all methods. Ownership: the object owns its connections; calls must have returned before it ends.
//
// Errors common to all methods, each one line that names the host and never a password:
//   UNAVAILABLE          no host can be reached or takes writes (each is named with its reason), or the one that did is
//                        gone and none took over within DatabaseOptions::patience. What was written last may have been
//                        carried out
//   DEADLINE_EXCEEDED    a server did not answer in time; or no connection came free. As UNAVAILABLE
//   UNAUTHENTICATED      the server wants a password and there is none, or it is wrong; a user it does not know
//   PERMISSION_DENIED    the user may not do that; names what to grant
//   FAILED_PRECONDITION  the server refuses plain text or has no TLS; there is no such database; it has no tables of
//                        ours yet (Prepare), those of another cluster, or those of a newer build (both versions named)
//   RESOURCE_EXHAUSTED   the server has no disk space, memory or connections left
//   ABORTED              transactions of others got in the way again and again; nothing was changed
//   INTERNAL             anything else that the server says
#ifndef KVLINK_STORE_DATABASE_DATABASE_H_
#define KVLINK_STORE_DATABASE_DATABASE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "store/catalog.h"
#include "store/database/drop_log.h"
#include "store/namespace_limits.h"

namespace kvlink::store::database {

struct DatabaseOptions {
  std::string connection;  // without a password
  std::array<uint8_t, 16> cluster_id = {};
  int max_connections = 8;
  absl::Duration operation_timeout = absl::Seconds(15);
  // How long an operation looks for a server that takes writes, where none does: a failover takes that long.
  absl::Duration patience = absl::Seconds(3);
  // How long one host may take to accept a connection before the next is asked.
  absl::Duration host_timeout = absl::Seconds(2);
  // GetDocuments may answer with what was so at most this long ago, also where the database is gone. Of at most
  // 64 MiB of entries; what this object puts or deletes it sees at once.
  absl::Duration staleness = absl::ZeroDuration();
};

struct CatalogStats {
  struct Namespace {
    std::string name;
    int64_t documents = 0;
  };
  std::vector<Namespace> namespaces;  // those with documents or limits, in order of name
  int64_t drops = 0;                  // rows of the drop log
};

class DatabaseCatalog : public DocumentCatalog, public DropLog {
 public:
  // Connects with the first call: a database that is gone is no error here. INVALID_ARGUMENT: the connection string
  // cannot be parsed, or holds a password.
  static absl::StatusOr<std::unique_ptr<DatabaseCatalog>> Open(const DatabaseOptions& options);

  // Makes the tables, or brings those of an older build up to date; any number of processes may call it at a time. Who
  // makes a cluster calls it, and every node when it starts. Needs the right to create a schema the first time.
  virtual absl::Status Prepare(absl::Time deadline) = 0;

  // Changes the limits of a namespace, and returns those now in force. They apply to the whole cluster, counting every
  // copy; each node reads them here and enforces its share. INVALID_ARGUMENT: a negative limit, an empty name, a
  // revision out of range. FAILED_PRECONDITION, with nothing changed: the revision is not above the current one; the
  // message names both.
  virtual absl::StatusOr<NamespaceLimits> PutNamespace(const NamespaceChange& change, absl::Time deadline) = 0;
  // Of namespaces that have limits, in order of name. There are few: all of them. Every node calls it once a second.
  virtual absl::StatusOr<std::vector<NamespaceLimits>> ListNamespaces(absl::Time deadline) = 0;

  // Counts documents, which takes about a second for ten million of them: not for a loop.
  virtual absl::StatusOr<CatalogStats> Stats(absl::Time deadline) = 0;
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_DATABASE_H_
