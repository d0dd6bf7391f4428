// The index on disk: a RocksDB database (docs/formats.md "Index column families").
//   default    what the store is: "uuid", and counters "documents/<namespace>"
//   location   EncodeKey -> location record
//   catalog    namespace | 0 | document id -> catalog entry (tombstones too)
//   reference  namespace | 0 | identity | document id -> "": which documents refer to an identity
//
// Thread-safety: all methods; an IndexBatch by one thread. Errors: DATA_LOSS (damaged, or a file is missing),
// RESOURCE_EXHAUSTED (disk full), FAILED_PRECONDITION (no permission), UNAVAILABLE (out of descriptors or memory, or
// the device failed; the stored data may be intact).
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
  void DeleteEncodings();  // all that exist before this batch
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

// The index at one moment, for scans that must agree with each other while it changes. Overwritten data stays on disk
// as long as the snapshot lives. Lifetime: must be destroyed before the index is closed.
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
    bool create = false;  // create the database; otherwise it must exist
    bool read_only = false;
    IoObserver* observer = nullptr;
    // Called on a RocksDB thread when changes up to `sequence` have reached tables, before their log is removed; with 0
    // if only the MANIFEST has grown.
    std::function<void(uint64_t sequence, const DurableManifest::State& manifest)> flushed;
  };
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& directory, const Options& options);
  ~Index();

  // Durable (WAL synced) on return.
  absl::Status Commit(IndexBatch* batch);
  // After a failed write: allows writes again. ABORTED: RocksDB is already recovering by itself. Other errors: the
  // database must be reopened.
  absl::Status Resume();
  // Writes the memtables to tables and closes the database; no method may be called afterwards.
  absl::Status Close();
  // The sequence number of the last change; still valid after Close.
  uint64_t LastSequence() const;
  DurableManifest::State durable_manifest() const { return manifest_.Get(); }

  // Scans and lookups with `at` see the index as of that snapshot. ScanLocations visits every location record in order.
  // A record that does not parse is passed as its error; a key that does not parse is an error of the scan.
  absl::Status ScanLocations(const std::function<void(EncodingKey, absl::StatusOr<Location>)>& record,
                             const IndexSnapshot* at = nullptr) const;
  // Likewise, for one of `shards` disjoint parts of about equal size that together cover everything.
  absl::Status ScanLocations(int shard, int shards,
                             const std::function<void(const KeyView&, absl::StatusOr<Location>)>& record,
                             const IndexSnapshot* at = nullptr) const;
  bool HasLocation(const EncodingKey& key, const IndexSnapshot* at = nullptr) const;
  // Keys of a namespace's encodings after an identity, in order: at least `limit` if there are that many, including all
  // codecs of the last identity.
  absl::StatusOr<std::vector<EncodingKey>> ListKeys(absl::string_view ns, const Identity& after, int64_t limit) const;
  // Keys of all namespaces' encodings after the given one (none: from the first), in order, at most `limit`.
  absl::StatusOr<std::vector<EncodingKey>> KeysAfter(const std::optional<EncodingKey>& after, int64_t limit) const;

  // The serialised entry, or nullopt.
  absl::StatusOr<std::optional<std::string>> GetEntry(absl::string_view ns, absl::string_view id) const;
  // Visits a namespace's entries with id > after, in order of id, until `entry` returns false.
  absl::Status ScanEntries(absl::string_view ns, absl::string_view after,
                           const std::function<bool(absl::string_view id, absl::string_view entry)>& entry) const;
  // Visits every entry of every namespace.
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
  // Whether the identity is referred to by a document for which `counts` returns true.
  absl::StatusOr<bool> ReferredBy(absl::string_view ns, const Identity& identity,
                                  absl::FunctionRef<bool(absl::string_view id)> counts) const;

  absl::StatusOr<std::optional<std::string>> GetMeta(absl::string_view name) const;
  // The names with a prefix, and their values.
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ListMeta(absl::string_view prefix,
                                                                            const IndexSnapshot* at = nullptr) const;

  // Reads and checks every block of every table.
  absl::Status VerifyChecksums() const;

 private:
  friend class IndexBatch;
  friend class IndexSnapshot;
  enum Family { kDefault, kLocation, kCatalog, kReference, kFamilies };
  Index() = default;
  static rocksdb::ReadOptions ReadingAt(const IndexSnapshot* at);

  DurableManifest manifest_;
  std::unique_ptr<rocksdb::Env> env_;  // must outlive the database
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* families_[kFamilies] = {};  // owned; destroyed in Close
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_INDEX_H_
