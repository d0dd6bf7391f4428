// The catalog of a cluster, in a database that speaks PostgreSQL's protocol (PostgreSQL 13 or later): documents, the
// references of documents to identities, namespaces with their limits, and the drop log. Tables: docs/formats.md
// "Database". Transactions, backup and high availability are the database's work.
//
// Reads and writes go to the server that takes writes, so that a deleted document is never read after its deletion
// returned. A group of documents (catalog.h) is one transaction.
//
// The connection string is libpq's, "postgresql://user@host1,host2/name?sslmode=verify-full" or "host=... dbname=...".
// Of several hosts, the one that takes writes is used, and searched for again when it is gone. Passwords do not belong
// in the string: they come from PGPASSFILE (~/.pgpass), PGPASSWORD or a service file (PGSERVICE), and no message holds
// one. The system's resolver resolves host names, under its own time limit: give addresses (hostaddr) if it may hang.
// Session poolers work, transaction poolers do not.
//
// Restoring. A dump may be restored into the database while clients run. Whatever writes waits until it is whole, for
// DatabaseOptions::patience, and then is UNAVAILABLE; so does whatever reads documents from the next second on: until
// then it may find none.
//
// Deadlines. Every transaction, with all attempts at it, ends within DatabaseOptions::operation_timeout, whatever the
// server or the network does. Most methods are one. PutDocuments, DeleteDocuments, GetDocuments, ListDocuments,
// DeleteNamespace and Trim take a transaction for each group of documents, 32 MiB of entries or page of rows, however
// many that are; those before an error stay. Methods that take a deadline end by it.
//
// A commit whose answer was lost is repeated, on whichever server takes writes then. If an entry names its generation,
// this is the same write. The same holds for generation 0, unless another client put the same document in between: then
// that entry is replaced (as catalog.h says of clients), or, if an error is returned in the end, it is unknown whether
// the first attempt was carried out.
//
// Clocks: generations and times that the store assigns come from the database's clock, in microseconds since 1970, and
// are later than the document's previous ones. Documents of one call get different times. After a failover to a server
// whose clock is behind, a document may get an earlier time than another got before.
//
// Thread-safety: all methods. Ownership: the object owns its connections; calls must have returned before it ends.
//
// Errors common to all methods, each one line that names the host and never a password:
//   UNAVAILABLE          no host can be reached, takes writes or has a connection left (each is named with its reason),
//                        or the one that did is gone and none took over within DatabaseOptions::patience; or, once
//                        this object has been connected, a host gives a reason of FAILED_PRECONDITION, as while its TLS
//                        files are replaced, of PERMISSION_DENIED or of UNAUTHENTICATED; or, once the tables were
//                        right, they are not whole, or rights to them are missing that were there, or change, as while
//                        the database is restored from a dump. The last write may have been carried out
//   DEADLINE_EXCEEDED    a server did not answer in time, or no connection became free. The last write may have been
//                        carried out
//   UNAUTHENTICATED      the password is missing or wrong, or the server does not know the user
//   PERMISSION_DENIED    the user may not do that; names what to grant
//   FAILED_PRECONDITION  the connection string is empty: the cluster has no database; the server refuses plain text or
//                        has no TLS; the database does not exist; it has no KVLink tables yet (Prepare) or not all of
//                        them, those of another cluster, or those of a newer build (both versions named)
//   RESOURCE_EXHAUSTED   the server has no disk space or memory left
//   ABORTED              conflicts with other transactions persisted; nothing was changed
//   INTERNAL             any other error of the server
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
  bool make_tables = true;  // whether Prepare makes tables in a database that has none
  int max_connections = 8;
  absl::Duration operation_timeout = absl::Seconds(15);
  // How long an operation searches for a server that takes writes if none does: the length of a failover.
  absl::Duration patience = absl::Seconds(3);
  // How long one host may take to accept a connection before the next is tried.
  absl::Duration host_timeout = absl::Seconds(2);
  // GetDocuments may return entries read up to this long ago, even if the database is unreachable. Caches at most 64
  // MiB of entries; this object's own puts and deletions take effect at once.
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
  // Connects on the first call: an unreachable database is not an error here. INVALID_ARGUMENT: the connection string
  // cannot be parsed, or holds a password.
  static absl::StatusOr<std::unique_ptr<DatabaseCatalog>> Open(const DatabaseOptions& options);

  // Makes the tables, or migrates those of an older build; any number of processes may call it concurrently. Called by
  // the command that makes a cluster, and by every node when it starts. Needs the right to create a schema the first
  // time. FAILED_PRECONDITION: also if there are no tables and DatabaseOptions::make_tables is not set.
  virtual absl::Status Prepare(absl::Time deadline) = 0;

  // Changes the limits of a namespace, and returns those now in force. They apply to the whole cluster, counting every
  // copy; each node reads them here and enforces its share. INVALID_ARGUMENT: a negative limit, an empty name, a
  // revision out of range. FAILED_PRECONDITION, with nothing changed: the revision is not above the current one; the
  // message names both.
  virtual absl::StatusOr<NamespaceLimits> PutNamespace(const NamespaceChange& change, absl::Time deadline) = 0;
  // Returns the limits of all namespaces that have any (few), in order of name. Every node calls it once a second.
  virtual absl::StatusOr<std::vector<NamespaceLimits>> ListNamespaces(absl::Time deadline) = 0;

  // Whether a node has registered (DropLog::Register), or a document was put. Of a cluster that had members, tables
  // that are not used are not its catalog: they were made and left, and hide the documents.
  virtual absl::StatusOr<bool> Used(absl::Time deadline) = 0;

  // Counts documents, which takes about a second per ten million: do not call it in a loop.
  virtual absl::StatusOr<CatalogStats> Stats(absl::Time deadline) = 0;
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_DATABASE_H_
