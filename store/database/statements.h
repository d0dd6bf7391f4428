// Every statement sent to the server, in one place: a test runs EXPLAIN on each over a large table.
// Thread-safety: constants.
#ifndef KVLINK_STORE_DATABASE_STATEMENTS_H_
#define KVLINK_STORE_DATABASE_STATEMENTS_H_

#include "absl/types/span.h"
#include "store/database/values.h"

namespace kvlink::store::database {

struct Statement {
  const char* name;  // under which a connection prepares it; "": parsed each time
  const char* sql;
  absl::Span<const Column> columns;  // of its rows
};

extern const Statement kBegin, kBeginReading, kCommit, kRollback, kScanTables;
extern const Statement kSetSession, kLockSchema, kHasSchema, kReadSchema, kAddSchema, kGuard;
extern const Statement kClock, kLockDocuments, kInsertDocuments, kUpdateDocuments;
extern const Statement kInsertReferences, kDeleteReferences, kLockIdentities, kInsertDrops;
extern const Statement kGetDocuments, kListDocuments, kCountDocuments, kCountDrops, kIsUsed;
extern const Statement kLockPage, kDeleteDocuments, kDeleteNamespace, kDropNamespace, kPutNamespace, kListNamespaces;
extern const Statement kLockConsumers, kRegister, kRegisterAt, kReadMade, kPositionOf, kReadHorizon, kReadDrops,
    kStorePosition, kForget, kForgetAll, kForgetSilent, kTrimAll, kPositionsOf, kSlowest, kTrim, kStoreTrimmed;

// The statements that connections prepare.
absl::Span<const Statement* const> PreparedStatements();

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_STATEMENTS_H_
