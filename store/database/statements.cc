// Statements take and return many rows at a time, as arrays. Each finds every row by its whole key, whatever the server
// believes about its tables: if it has no statistics since a table was empty, a join would scan all of it for each row.
// So there are no joins: a row is looked up in a LATERAL subquery with a LIMIT, which no planner takes apart, and
// changed by its ctid, which no other transaction changes while this one holds the lock of the document. kSetSession
// disables the remaining choices.
#include "store/database/statements.h"

namespace kvlink::store::database {
namespace {

// True once a dump is restored, of which the primary keys are the last part, each after the contents of its table (but
// for the rights to them). An error before. The names are looked up when the statement is parsed, and anew once one of
// them is gone.
#define KVLINK_TABLES_ARE_WHOLE                                                      \
  "num_nulls('kvlink.consumers_pkey'::regclass, 'kvlink.documents_pkey'::regclass, " \
  "'kvlink.drop_log_pkey'::regclass, 'kvlink.drop_log_trimmed_pkey'::regclass, "     \
  "'kvlink.kvlink_schema_pkey'::regclass, 'kvlink.namespaces_pkey'::regclass, 'kvlink.refs_pkey'::regclass) = 0"

constexpr Column kInteger = Column::kInteger, kText = Column::kText, kBytes = Column::kBytes, kFlag = Column::kFlag,
                 kTransaction = Column::kTransaction, kNothing = Column::kNothing;

constexpr Column kOneText[] = {kText}, kOneInteger[] = {kInteger}, kOneFlag[] = {kFlag}, kOneNothing[] = {kNothing};
constexpr Column kPositionColumns[] = {kTransaction, kInteger};

}  // namespace

const Statement kBegin = {"", "BEGIN", {}};
// One snapshot for all statements.
const Statement kBeginReading = {"", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", {}};
const Statement kCommit = {"", "COMMIT", {}};
const Statement kRollback = {"", "ROLLBACK", {}};
const Statement kScanTables = {"", "SET LOCAL enable_seqscan = on", {}};

// The server's timeouts bound how long a session lost in the middle of a transaction holds up others. Plans are made
// once.
const Statement kSetSession = {"", R"sql(
SELECT set_config(s.name, s.value, false)
FROM (VALUES ('statement_timeout', $1::text), ('idle_in_transaction_session_timeout', $1), ('lock_timeout', '0'),
             ('default_transaction_isolation', 'read committed'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'),
             ('enable_mergejoin', 'off'), ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan')) s(name, value))sql",
                               kOneText};

const Statement kLockSchema = {"", "SELECT pg_advisory_xact_lock(1263943755, -1)", kOneNothing};
const Statement kHasSchema = {"", "SELECT to_regclass('kvlink.kvlink_schema') IS NOT NULL", kOneFlag};
// With the rights that the user has to the tables, one bit each, and the transactions that last changed the rows of the
// server's catalog in which rights are kept.
constexpr Column kSchemaColumns[] = {kInteger, kBytes, kInteger, kText};
const Statement kReadSchema = {"", R"sql(
SELECT version, cluster_id,
       (SELECT bit_or(has_table_privilege('kvlink.' || t.name, r.name)::integer::bigint
                      << (4 * t.place + r.place)::integer)
        FROM unnest('{consumers,documents,drop_log,drop_log_trimmed,kvlink_schema,namespaces,refs}'::text[])
               WITH ORDINALITY AS t(name, place),
             unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) WITH ORDINALITY AS r(name, place)) |
       has_sequence_privilege('kvlink.drop_log_sequence_seq', 'USAGE')::integer::bigint,
       (SELECT concat_ws(' ', n.xmin, (SELECT string_agg(c.xmin::text, ' ' ORDER BY c.oid) FROM pg_class c
                                       WHERE c.relnamespace = n.oid))
        FROM pg_namespace n WHERE n.oid = 'kvlink'::regnamespace)
FROM kvlink.kvlink_schema WHERE )sql" KVLINK_TABLES_ARE_WHOLE,
                               kSchemaColumns};
// Fails unless the tables are whole, of version $1 and of cluster $2.
const Statement kGuard = {"guard", R"sql(
SELECT 1 / count(*) FROM kvlink.kvlink_schema
WHERE version = $1::bigint AND cluster_id = $2::bytea AND )sql" KVLINK_TABLES_ARE_WHOLE,
                          kOneInteger};
const Statement kAddSchema = {"",
                              R"sql(
INSERT INTO kvlink.kvlink_schema AS s (version, cluster_id) VALUES ($1::bigint, $2::bytea)
ON CONFLICT (one) DO UPDATE SET version = excluded.version)sql",
                              {}};

const Statement kClock = {"clock", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", kOneInteger};

// Locks the existing documents among $2, in the order of the array, which is that of ids, so that two batches cannot
// deadlock. Entries are large, so one is returned only if it decides: if the generation to be put, $3, is 0 or the
// document's own; or -1, a deletion, which can only equal a tombstone.
constexpr Column kLockColumns[] = {kText, kInteger, kFlag, kInteger, kBytes, kBytes};
const Statement kLockDocuments = {"lock_documents", R"sql(
SELECT d.id, d.generation, d.tombstone, d.written_at, d.identities,
       CASE WHEN w.generation IN (0, d.generation) OR (w.generation = -1 AND d.tombstone) THEN d.entry END
FROM unnest($2::text[], $3::bigint[]) AS w(id, generation)
CROSS JOIN LATERAL (SELECT * FROM kvlink.documents WHERE ns = $1::text AND id = w.id COLLATE "C" LIMIT 1
                    FOR NO KEY UPDATE) AS d)sql",
                                  kLockColumns};
// Each document is written later than the one before, and not before its time in $5.
const Statement kInsertDocuments = {"insert_documents",
                                    R"sql(
INSERT INTO kvlink.documents (ns, id, generation, tombstone, written_at, tokens, title, identities, entry)
SELECT $1::text, w.id, w.generation, w.tombstone,
       greatest(w.written_at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + w.number),
       w.tokens, w.title, w.identities, w.entry
FROM unnest($2::text[], $3::bigint[], $4::boolean[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[])
  WITH ORDINALITY AS w(id, generation, tombstone, written_at, tokens, title, identities, entry, number))sql",
                                    {}};
const Statement kUpdateDocuments = {"update_documents",
                                    R"sql(
UPDATE kvlink.documents d
SET generation = w.generation, tombstone = w.tombstone, written_at = w.written_at, tokens = w.tokens, title = w.title,
    identities = w.identities, entry = w.entry
FROM unnest($2::text[], $3::bigint[], $4::boolean[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[])
  AS w(id, generation, tombstone, written_at, tokens, title, identities, entry)
CROSS JOIN LATERAL (SELECT ctid FROM kvlink.documents WHERE ns = $1::text AND id = w.id COLLATE "C" LIMIT 1) AS place
WHERE d.ctid = place.ctid)sql",
                                    {}};

const Statement kInsertReferences = {"insert_references",
                                     R"sql(
INSERT INTO kvlink.refs (ns, identity, id)
SELECT $1::text, w.identity, w.id FROM unnest($2::bytea[], $3::text[]) AS w(identity, id)
ON CONFLICT DO NOTHING)sql",
                                     {}};
const Statement kDeleteReferences = {"delete_references",
                                     R"sql(
DELETE FROM kvlink.refs WHERE ctid = ANY(ARRAY(
  SELECT place.ctid FROM unnest($2::bytea[], $3::text[]) AS w(identity, id)
  CROSS JOIN LATERAL (SELECT ctid FROM kvlink.refs
                      WHERE ns = $1::text AND identity = w.identity AND id = w.id COLLATE "C" LIMIT 1) AS place)))sql",
                                     {}};
// Two transactions that each remove one of the last two references must not each see the other's reference: a
// transaction that removes references holds the locks of their identities, taken in order, until its commit. All
// identities share 128 locks: a server has room for a few thousand.
const Statement kLockIdentities = {
    "lock_identities", "SELECT pg_advisory_xact_lock(1263943755, k::integer) FROM unnest($1::bigint[]) AS k",
    kOneNothing};
const Statement kInsertDrops = {"insert_drops",
                                R"sql(
INSERT INTO kvlink.drop_log (transaction, ns, identity)
SELECT pg_current_xact_id(), $1::text, w.identity FROM unnest($2::bytea[]) AS w(identity)
WHERE (SELECT true FROM kvlink.refs r WHERE r.ns = $1 AND r.identity = w.identity LIMIT 1) IS NULL)sql",
                                {}};

// Entries take up to 4 MiB each: returns none after the first 32 MiB. Their lengths are known without reading them.
constexpr Column kGetColumns[] = {kText, kFlag, kBytes, kInteger};
const Statement kGetDocuments = {"get_documents", R"sql(
SELECT g.id, g.tombstone, CASE WHEN NOT g.tombstone AND g.before < 33554432 THEN g.entry END, g.written_at
FROM (SELECT d.*, sum(octet_length(d.entry)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(d.entry) AS before
      FROM unnest($2::text[]) AS w(id)
      CROSS JOIN LATERAL (SELECT * FROM kvlink.documents
                          WHERE ns = $1::text AND id = w.id COLLATE "C" LIMIT 1) AS d) AS g)sql",
                                 kGetColumns};
// With tombstones, of which there may be millions in a row, so that no statement passes over more rows than it returns.
constexpr Column kListColumns[] = {kText, kFlag, kInteger, kBytes, kInteger, kInteger};
const Statement kListDocuments = {"list_documents", R"sql(
SELECT id, tombstone, generation, CASE WHEN NOT tombstone THEN title END, tokens, written_at FROM kvlink.documents
WHERE ns = $1::text AND id > $2::text ORDER BY id LIMIT $3::bigint)sql",
                                  kListColumns};
constexpr Column kCountColumns[] = {kText, kInteger};
const Statement kCountDocuments = {"", R"sql(
SELECT coalesce(d.ns, n.ns), coalesce(d.count, 0)
FROM (SELECT ns, count(*) FROM kvlink.documents WHERE NOT tombstone GROUP BY ns) d
FULL JOIN kvlink.namespaces n ON n.ns = d.ns ORDER BY 1)sql",
                                   kCountColumns};
const Statement kCountDrops = {"", "SELECT count(*) FROM kvlink.drop_log", kOneInteger};
const Statement kIsUsed = {"", "SELECT EXISTS (SELECT FROM kvlink.consumers) OR EXISTS (SELECT FROM kvlink.documents)",
                           kOneFlag};

constexpr Column kPageColumns[] = {kText, kFlag, kBytes};
const Statement kLockPage = {"lock_page", R"sql(
SELECT id, tombstone, identities FROM kvlink.documents
WHERE ns = $1::text AND id > $2::text ORDER BY id LIMIT $3::bigint FOR UPDATE)sql",
                             kPageColumns};
const Statement kDeleteDocuments = {"delete_documents",
                                    R"sql(
DELETE FROM kvlink.documents WHERE ctid = ANY(ARRAY(
  SELECT place.ctid FROM unnest($2::text[]) AS w(id)
  CROSS JOIN LATERAL (SELECT ctid FROM kvlink.documents WHERE ns = $1::text AND id = w.id COLLATE "C" LIMIT 1) AS place)))sql",
                                    {}};
const Statement kDeleteNamespace = {"delete_namespace", "DELETE FROM kvlink.namespaces WHERE ns = $1::text", {}};
const Statement kDropNamespace = {
    "drop_namespace", "INSERT INTO kvlink.drop_log (transaction, ns) VALUES (pg_current_xact_id(), $1::text)", {}};
// A parameter below 0 leaves that limit unchanged; revision 0 means the next one.
constexpr Column kNamespaceColumns[] = {kText, kInteger, kInteger, kInteger};
const Statement kPutNamespace = {"put_namespace", R"sql(
INSERT INTO kvlink.namespaces AS n (ns, capacity_bytes, pinned_bytes, revision)
VALUES ($1::text, greatest($2::bigint, 0), greatest($3::bigint, 0), greatest($4::bigint, 1))
ON CONFLICT (ns) DO UPDATE SET capacity_bytes = CASE WHEN $2 < 0 THEN n.capacity_bytes ELSE $2 END,
                               pinned_bytes = CASE WHEN $3 < 0 THEN n.pinned_bytes ELSE $3 END,
                               revision = CASE WHEN $4 = 0 THEN n.revision + 1 ELSE $4 END
WHERE ($4 = 0 AND n.revision < 9223372036854775807) OR $4 > n.revision
RETURNING ns, capacity_bytes, pinned_bytes, revision)sql",
                                 kNamespaceColumns};
const Statement kListNamespaces = {
    "list_namespaces", "SELECT ns, capacity_bytes, pinned_bytes, revision FROM kvlink.namespaces ORDER BY ns",
    kNamespaceColumns};

// Held while consumers are added or removed, and while the log is trimmed.
const Statement kLockConsumers = {"", "SELECT pg_advisory_xact_lock(1263943755, -2)", kOneNothing};
// A position beyond the database's last transaction dates from before it was restored from a backup, and is ignored.
// Registers at the position of the slowest other consumer, or at the end.
const Statement kRegister = {"register", R"sql(
INSERT INTO kvlink.consumers AS c (node_id, transaction, sequence, updated)
SELECT $1::bytea, p.transaction, p.sequence, clock_timestamp()
FROM (SELECT 0 AS rank, * FROM (SELECT transaction, sequence FROM kvlink.consumers
                                WHERE node_id <> $1 AND transaction <= pg_snapshot_xmax(pg_current_snapshot())
                                ORDER BY transaction, sequence LIMIT 1) AS slowest
      UNION ALL SELECT 1, pg_snapshot_xmin(pg_current_snapshot()), 0 ORDER BY rank LIMIT 1) AS p
ON CONFLICT (node_id) DO UPDATE
SET transaction = excluded.transaction, sequence = excluded.sequence, updated = excluded.updated
RETURNING transaction, sequence)sql",
                             kPositionColumns};
const Statement kPositionOf = {
    "position_of", "SELECT transaction, sequence FROM kvlink.consumers WHERE node_id = $1::bytea", kPositionColumns};
// Registers at a given position.
const Statement kRegisterAt = {"",
                               R"sql(
INSERT INTO kvlink.consumers (node_id, transaction, sequence, updated)
VALUES ($1::bytea, $2::xid8, $3::bigint, clock_timestamp())
ON CONFLICT (node_id) DO UPDATE
SET transaction = excluded.transaction, sequence = excluded.sequence, updated = excluded.updated)sql",
                               {}};
// The lower 32 bits of the transaction that wrote the row: the one that made the tables, migrated them, or restored
// them from a dump.
const Statement kReadMade = {"", "SELECT xmin::text::bigint FROM kvlink.kvlink_schema", kOneInteger};
// The position up to which the log was trimmed, the oldest open transaction, and the end of all transactions.
constexpr Column kHorizonColumns[] = {kTransaction, kInteger, kTransaction, kTransaction};
const Statement kReadHorizon = {"read_horizon", R"sql(
SELECT transaction, sequence, pg_snapshot_xmin(pg_current_snapshot()), pg_snapshot_xmax(pg_current_snapshot())
FROM kvlink.drop_log_trimmed)sql",
                                kHorizonColumns};
constexpr Column kDropColumns[] = {kTransaction, kInteger, kText, kBytes, kFlag};
const Statement kReadDrops = {"read_drops", R"sql(
SELECT l.transaction, l.sequence, l.ns, l.identity,
       CASE WHEN l.identity IS NULL THEN (SELECT true FROM kvlink.documents d
                                              WHERE d.ns = l.ns AND d.id > '' AND NOT d.tombstone ORDER BY d.id LIMIT 1)
            ELSE (SELECT true FROM kvlink.refs r WHERE r.ns = l.ns AND r.identity = l.identity LIMIT 1) END
FROM kvlink.drop_log l
WHERE (l.transaction, l.sequence) > ($1::xid8, $2::bigint)
  AND l.transaction < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY l.transaction, l.sequence LIMIT $3::bigint)sql",
                              kDropColumns};
const Statement kStorePosition = {"store_position",
                                  R"sql(
UPDATE kvlink.consumers c SET transaction = later.transaction, sequence = later.sequence, updated = clock_timestamp()
FROM (SELECT $1::bytea AS node_id, $2::xid8 AS transaction, $3::bigint AS sequence
      UNION ALL SELECT node_id, transaction, sequence FROM kvlink.consumers
      WHERE node_id = $1 AND transaction <= pg_snapshot_xmax(pg_current_snapshot())
      ORDER BY transaction DESC, sequence DESC LIMIT 1) AS later
WHERE c.node_id = $1)sql",
                                  {}};
const Statement kForget = {"forget", "DELETE FROM kvlink.consumers WHERE node_id = $1::bytea", {}};
const Statement kForgetAll = {"", "DELETE FROM kvlink.consumers", {}};
// Consumers that are silent and hold up the log; forgetting others frees nothing. Deletes those in $2.
constexpr Column kNodeColumns[] = {kBytes};
const Statement kForgetSilent = {"forget_silent",
                                 R"sql(
WITH silent AS (SELECT c.ctid, c.node_id FROM kvlink.consumers c
                WHERE c.updated < clock_timestamp() - make_interval(secs => $1::bigint / 1e6)
                  AND (SELECT true FROM kvlink.drop_log l WHERE (l.transaction, l.sequence) > (c.transaction, c.sequence)
                       ORDER BY l.transaction, l.sequence LIMIT 1) FOR UPDATE),
     gone AS (DELETE FROM kvlink.consumers
              WHERE ctid = ANY(ARRAY(SELECT ctid FROM silent WHERE node_id = ANY($2::bytea[]))))
SELECT node_id FROM silent)sql",
                                 kNodeColumns};
const Statement kTrimAll = {"", "DELETE FROM kvlink.drop_log", {}};
constexpr Column kPassedColumns[] = {kBytes, kFlag};
const Statement kPositionsOf = {"positions_of", R"sql(
SELECT node_id, (transaction, sequence) >= ($1::xid8, $2::bigint) AND
                transaction <= pg_snapshot_xmax(pg_current_snapshot())
FROM kvlink.consumers
WHERE node_id = ANY($3::bytea[]) OR updated > clock_timestamp() - interval '1 minute')sql",
                                kPassedColumns};
const Statement kSlowest = {"slowest", R"sql(
SELECT transaction, sequence FROM kvlink.consumers WHERE transaction <= pg_snapshot_xmax(pg_current_snapshot())
ORDER BY transaction, sequence LIMIT 1)sql",
                            kPositionColumns};
// Returns the deleted rows, the greatest first.
const Statement kTrim = {"trim", R"sql(
WITH gone AS (DELETE FROM kvlink.drop_log WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM kvlink.drop_log WHERE (transaction, sequence) <= ($1::xid8, $2::bigint)
                ORDER BY transaction, sequence LIMIT $3::bigint)) RETURNING transaction, sequence)
SELECT transaction, sequence FROM gone ORDER BY transaction DESC, sequence DESC)sql",
                         kPositionColumns};
const Statement kStoreTrimmed = {"store_trimmed",
                                 R"sql(
UPDATE kvlink.drop_log_trimmed SET transaction = $1::xid8, sequence = $2::bigint)sql",
                                 {}};

absl::Span<const Statement* const> PreparedStatements() {
  static constexpr const Statement* kAll[] = {
      &kClock,           &kLockDocuments, &kInsertDocuments, &kUpdateDocuments, &kInsertReferences, &kDeleteReferences,
      &kLockIdentities,  &kInsertDrops,   &kGetDocuments,    &kListDocuments,   &kLockPage,         &kDeleteDocuments,
      &kDeleteNamespace, &kDropNamespace, &kPutNamespace,    &kListNamespaces,  &kRegister,         &kPositionOf,
      &kReadHorizon,     &kReadDrops,     &kStorePosition,   &kForget,          &kForgetSilent,     &kPositionsOf,
      &kSlowest,         &kTrim,          &kStoreTrimmed,    &kGuard,
  };
  return kAll;
}

}  // namespace kvlink::store::database
