// The index on disk: a RocksDB database (docs/formats.md "Index column families").
//   default    what the store is: "uuid", and counters "documents/<namespace>"
//   location   EncodeKey -> location record
//   catalog    namespace | 0 | document id -> catalog entry (tombstones too)
//   reference  namespace | 0 | identity | document id -> "": which documents refer to an identity
//
// Thread-safety: all methods; an IndexBatch by one thread. Errors: DATA_LOSS (damaged, or a file is missing),
// RESOURCE_EXHAUSTED (disk full), FAILED_PRECONDITION (no permission), UNAVAILABLE (no descriptors or memory, or the
// device failed: what is stored may be whole).
#ifndef KVLINK_STORE_ENGINE_INDEX_INDEX_H_
#define KVLINK_STORE_ENGINE_INDEX_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocksdb/db.h"
#include "store/engine/disk/io_observer.h"
#include "store/engine/disk/location.h"
#include "store/engine/index/rocksdb_file_system.h"

namespace kvlink::engine {

class Index;

// Changes that become durable together or not at all.
class IndexBatch {
 public:
  explicit IndexBatch(const Index* index) : index_(index) {}
  void PutEncoding(const EncodingKey& key, const Location& location);
  void DeleteEncoding(const EncodingKey& key);
  void DeleteEncodings();  // every one that is there before this batch
  void PutEntry(absl::string_view ns, absl::string_view id, const std::string& entry);
  void DeleteEntry(absl::string_view ns, absl::string_view id);
  void AddReference(absl::string_view ns, const Identity& identity, absl::string_view id);
  void DeleteReference(absl::string_view ns, const Identity& identity, absl::string_view id);
  void PutMeta(absl::string_view name, absl::string_view value);
  void DeleteMeta(absl::string_view name);

 private:
  friend class Index;
  const Index* const index_;
  rocksdb::WriteBatch batch_;
};

// The index as it was at one moment, for scans that have to agree with each other while it changes. It keeps what was
// overwritten since on the disk. Lifetime: destroyed before the index is closed.
class IndexSnapshot {
 public:
  explicit IndexSnapshot(const Index* index);
  ~IndexSnapshot();
  IndexSnapshot(const IndexSnapshot&) = delete;
  IndexSnapshot& operator=(const IndexSnapshot&) = delete;

 private:
  friend class Index;
  const Index* const index_;
  const rocksdb::Snapshot* const snapshot_;
};

class Index {
 public:
  struct Options {
    bool create = false;  // make the database; else it must be there
    bool read_only = false;
    IoObserver* observer = nullptr;
    // Called on a thread of RocksDB's when changes up to `sequence` are in tables, before their log is removed; with 0
    // when only the MANIFEST has grown.
    std::function<void(uint64_t sequence, const DurableManifest::State& manifest)> flushed;
  };
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& directory, const Options& options);
  ~Index();

  // Durable (WAL synced) on return.
  absl::Status Commit(IndexBatch* batch);
  // After a failed write: lets writes be tried again. ABORTED: RocksDB is at it itself. Other errors: the database must
  // be opened again.
  absl::Status Resume();
  // Writes what is in memory to tables and closes; nothing may be called after it.
  absl::Status Close();
  // Of the last change; survives Close.
  uint64_t LastSequence() const;
  DurableManifest::State durable_manifest() const { return manifest_.Get(); }

  // Scans and lookups with `at` see the index as it was then.

  // Every location record in order. A record that does not parse is given as the error; a key that does not is an error
  // of the scan.
  absl::Status ScanLocations(const std::function<void(EncodingKey, absl::StatusOr<Location>)>& record,
                             const IndexSnapshot* at = nullptr) const;
  // The same for one of `shards` parts of about the same size, which together are all.
  absl::Status ScanLocations(int shard, int shards,
                             const std::function<void(const KeyView&, absl::StatusOr<Location>)>& record,
                             const IndexSnapshot* at = nullptr) const;
  bool HasLocation(const EncodingKey& key, const IndexSnapshot* at = nullptr) const;
  // Names of a namespace's encodings behind an identity, in order: at least `limit` if there are, all codecs of the
  // last identity.
  absl::StatusOr<std::vector<EncodingKey>> ListKeys(absl::string_view ns, const Identity& after, int64_t limit) const;
  // Names of all namespaces' encodings behind one (none: from the first), in order, at most `limit`.
  absl::StatusOr<std::vector<EncodingKey>> KeysAfter(const std::optional<EncodingKey>& after, int64_t limit) const;

  // Serialised entry, or nothing.
  absl::StatusOr<std::optional<std::string>> GetEntry(absl::string_view ns, absl::string_view id) const;
  // Entries of a namespace with id > after in order of id, until `entry` returns false.
  absl::Status ScanEntries(absl::string_view ns, absl::string_view after,
                           const std::function<bool(absl::string_view id, absl::string_view entry)>& entry) const;
  // Every entry of every namespace.
  absl::Status ScanAllEntries(
      const std::function<void(absl::string_view ns, absl::string_view id, absl::string_view entry)>& entry,
      const IndexSnapshot* at = nullptr) const;
  absl::Status ScanReferences(
      const std::function<void(absl::string_view ns, const Identity& identity, absl::string_view id)>& reference,
      const IndexSnapshot* at = nullptr) const;
  bool HasReference(absl::string_view ns, const Identity& identity, absl::string_view id,
                    const IndexSnapshot* at = nullptr) const;
  // Documents that refer to the identity, in order, at most `limit`.
  absl::StatusOr<std::vector<std::string>> ReferringTo(absl::string_view ns, const Identity& identity,
                                                       int64_t limit) const;
  // Whether a document for which `counts` is true refers to the identity.
  absl::StatusOr<bool> ReferredBy(absl::string_view ns, const Identity& identity,
                                  absl::FunctionRef<bool(absl::string_view id)> counts) const;

  absl::StatusOr<std::optional<std::string>> GetMeta(absl::string_view name) const;
  // Names with a prefix, and their values.
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ListMeta(absl::string_view prefix,
                                                                            const IndexSnapshot* at = nullptr) const;

  // Reads every block of every table and checks it.
  absl::Status VerifyChecksums() const;

 private:
  friend class IndexBatch;
  friend class IndexSnapshot;
  enum Family { kDefault, kLocation, kCatalog, kReference, kFamilies };
  Index() = default;
  static rocksdb::ReadOptions ReadingAt(const IndexSnapshot* at);

  DurableManifest manifest_;
  std::unique_ptr<rocksdb::Env> env_;  // outlives the database
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* families_[kFamilies] = {};  // owned; given back in Close
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_INDEX_H_
