#include "store/engine/index/index.h"

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>

#include "absl/strings/match.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "rocksdb/convenience.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/table.h"
#include "store/engine/disk/file.h"
#include "store/engine/index/rocksdb_file_system.h"

namespace kvlink::engine {
namespace {

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view action) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat(action, " the index: ", status.ToString());
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsBusy()) return absl::AbortedError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  // RocksDB has no status codes of its own for the following.
  for (const int error : {EACCES, EPERM, EROFS}) {
    if (status.IsIOError() && absl::StrContains(message, std::strerror(error))) {
      return absl::FailedPreconditionError(absl::StrCat(message, "; the index must be readable and writable for us"));
    }
  }
  if (status.IsIOError() && absl::StrContains(message, std::strerror(EMFILE))) {
    return absl::UnavailableError(absl::StrCat(message, "; raise the limit of open files (ulimit -n)"));
  }
  if (status.IsIOError() && absl::StrContains(message, std::strerror(EFBIG))) {
    return absl::ResourceExhaustedError(
        absl::StrCat(message, "; this process may not write files that large: raise its limit (ulimit -f)"));
  }
  return absl::UnavailableError(message);
}

rocksdb::Slice ToSlice(absl::string_view bytes) { return rocksdb::Slice(bytes.data(), bytes.size()); }
absl::string_view ToView(const rocksdb::Slice& slice) { return absl::string_view(slice.data(), slice.size()); }

std::string EntryKey(absl::string_view ns, absl::string_view id) {
  return absl::StrCat(ns, absl::string_view("\0", 1), id);
}

std::string ReferencePrefix(absl::string_view ns, const Identity& identity) {
  return absl::StrCat(ns, absl::string_view("\0", 1),
                      absl::string_view(reinterpret_cast<const char*>(identity.bytes.data()), identity.bytes.size()));
}

std::string ReferenceKey(absl::string_view ns, const Identity& identity, absl::string_view id) {
  return absl::StrCat(ReferencePrefix(ns, identity), id);
}

rocksdb::ColumnFamilyOptions FamilyOptions(bool compress) {
  rocksdb::ColumnFamilyOptions options;
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 16 << 20;
  options.compression = rocksdb::kNoCompression;
  if (compress) {
    for (rocksdb::CompressionType type : rocksdb::GetSupportedCompressions()) {
      if (type == rocksdb::kLZ4Compression) options.compression = type;
    }
  }
  return options;
}

// Discards RocksDB's info log: errors are returned as statuses, and the library aborts if the info log cannot grow.
class NoLog : public rocksdb::Logger {
 public:
  NoLog() : rocksdb::Logger(rocksdb::NUM_INFO_LOG_LEVELS) {}
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::DBOptions DatabaseOptions(bool create, rocksdb::Env* env) {
  rocksdb::DBOptions options;
  options.env = env;
  options.create_if_missing = create;
  options.create_missing_column_families = create;
  options.paranoid_checks = true;
  options.max_background_jobs = 2;
  options.max_open_files = static_cast<int>(std::clamp<int64_t>(DescriptorLimit() / 4, 20, 256));
  options.info_log = std::make_shared<NoLog>();
  // After a crash, the log is replayed on the next open, before the store serves; so it is kept short.
  options.max_total_wal_size = 8 << 20;
  options.skip_stats_update_on_db_open = true;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  // Every write is synced, so a power loss can tear only the last group of the log; everything before it is kept.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  return options;
}

class FlushListener : public rocksdb::EventListener {
 public:
  explicit FlushListener(std::function<void(uint64_t)> flushed) : flushed_(std::move(flushed)) {}
  void OnFlushCompleted(rocksdb::DB*, const rocksdb::FlushJobInfo& info) override { flushed_(info.largest_seqno); }
  // A compaction's changes to the MANIFEST are durable too; cutting it before them would name deleted files.
  void OnCompactionCompleted(rocksdb::DB*, const rocksdb::CompactionJobInfo&) override { flushed_(0); }

 private:
  const std::function<void(uint64_t)> flushed_;
};

rocksdb::ReadOptions Checked() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  return options;
}

}  // namespace

void IndexBatch::PutEncoding(const EncodingKey& key, const Location& location) {
  batch_.Put(index_->families_[Index::kLocation], EncodeKey(key), SerializeLocation(location));
}

void IndexBatch::DeleteEncoding(const EncodingKey& key) {
  batch_.Delete(index_->families_[Index::kLocation], EncodeKey(key));
}

void IndexBatch::DeleteEncodings() {
  // Names are UTF-8, so no key begins with this byte.
  batch_.DeleteRange(index_->families_[Index::kLocation], rocksdb::Slice(), "\xff");
}

void IndexBatch::PutEntry(absl::string_view ns, absl::string_view id, const std::string& entry) {
  batch_.Put(index_->families_[Index::kCatalog], EntryKey(ns, id), entry);
}

void IndexBatch::DeleteEntry(absl::string_view ns, absl::string_view id) {
  batch_.Delete(index_->families_[Index::kCatalog], EntryKey(ns, id));
}

void IndexBatch::AddReference(absl::string_view ns, const Identity& identity, absl::string_view id) {
  batch_.Put(index_->families_[Index::kReference], ReferenceKey(ns, identity, id), "");
}

void IndexBatch::DeleteReference(absl::string_view ns, const Identity& identity, absl::string_view id) {
  batch_.Delete(index_->families_[Index::kReference], ReferenceKey(ns, identity, id));
}

void IndexBatch::PutMeta(absl::string_view name, absl::string_view value) {
  batch_.Put(index_->families_[Index::kDefault], ToSlice(name), ToSlice(value));
}

void IndexBatch::DeleteMeta(absl::string_view name) {
  batch_.Delete(index_->families_[Index::kDefault], ToSlice(name));
}

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& directory, const Options& options) {
  std::unique_ptr<Index> index(new Index());
  index->env_ = rocksdb::NewCompositeEnv(ObservedRocksDbFileSystem(options.observer, &index->manifest_));
  // Compactions are not urgent: opening and serving go first.
  index->env_->LowerThreadPoolCPUPriority(rocksdb::Env::LOW);
  rocksdb::DBOptions database = DatabaseOptions(options.create, index->env_.get());
  if (options.flushed) {
    database.listeners.push_back(
        std::make_shared<FlushListener>([flushed = options.flushed, raw = index.get()](uint64_t sequence) {
          flushed(sequence, raw->durable_manifest());
        }));
  }
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, FamilyOptions(false)},
      {"location", FamilyOptions(false)},
      {"catalog", FamilyOptions(true)},
      {"reference", FamilyOptions(false)},
  };
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = options.read_only
                                     ? rocksdb::DB::OpenForReadOnly(database, directory, families, &handles, &db)
                                     : rocksdb::DB::Open(database, directory, families, &handles, &db);
  if (!status.ok()) {
    const absl::Status why = FromRocks(status, "open");
    // A missing or misnamed file appears as one of these. Other I/O errors say nothing about the stored data.
    const bool damaged = status.IsInvalidArgument() || status.IsPathNotFound() || status.IsNotFound();
    return damaged ? absl::DataLossError(why.message()) : why;
  }
  index->db_.reset(db);
  std::copy(handles.begin(), handles.end(), index->families_);
  return index;
}

Index::~Index() {
  if (db_ != nullptr) Close().IgnoreError();
}

absl::Status Index::Close() {
  if (db_ == nullptr) return absl::OkStatus();
  absl::Status status;
  for (rocksdb::ColumnFamilyHandle*& family : families_) {
    // A read-only database refuses, and has nothing to write.
    const rocksdb::Status flushed = db_->Flush(rocksdb::FlushOptions(), family);
    if (!flushed.ok() && !flushed.IsNotSupported() && status.ok()) status = FromRocks(flushed, "flush");
    db_->DestroyColumnFamilyHandle(family).PermitUncheckedError();
    family = nullptr;
  }
  const rocksdb::Status closed = db_->Close();
  if (!closed.ok() && !closed.IsNotSupported() && status.ok()) status = FromRocks(closed, "close");
  db_.reset();
  return status;
}

absl::Status Index::Commit(IndexBatch* batch) {
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(db_->Write(options, &batch->batch_), "write to");
}

absl::Status Index::Resume() { return FromRocks(db_->Resume(), "resume"); }

uint64_t Index::LastSequence() const { return db_->GetLatestSequenceNumber(); }

IndexSnapshot::IndexSnapshot(const Index* index) : index_(index), snapshot_(index->db_->GetSnapshot()) {}

IndexSnapshot::~IndexSnapshot() { index_->db_->ReleaseSnapshot(snapshot_); }

rocksdb::ReadOptions Index::ReadingAt(const IndexSnapshot* at) {
  rocksdb::ReadOptions options = Checked();
  if (at != nullptr) options.snapshot = at->snapshot_;
  return options;
}

absl::Status Index::ScanLocations(const std::function<void(EncodingKey, absl::StatusOr<Location>)>& record,
                                  const IndexSnapshot* at) const {
  return ScanLocations(
      0, 1,
      [&record](const KeyView& key, absl::StatusOr<Location> location) { record(key.ToKey(), std::move(location)); },
      at);
}

bool Index::HasLocation(const EncodingKey& key, const IndexSnapshot* at) const {
  std::string value;
  return db_->Get(ReadingAt(at), families_[kLocation], EncodeKey(key), &value).ok();
}

absl::Status Index::ScanLocations(int shard, int shards,
                                  const std::function<void(const KeyView&, absl::StatusOr<Location>)>& record,
                                  const IndexSnapshot* at) const {
  rocksdb::ReadOptions options = ReadingAt(at);
  options.readahead_size = 2 << 20;
  options.fill_cache = false;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, families_[kLocation]));
  // Identities are hashes, so a shard is a range of their first byte, in each namespace.
  const int first = 256 * shard / shards, last = 256 * (shard + 1) / shards;
  it->SeekToFirst();
  while (it->Valid()) {
    const absl::string_view any = ToView(it->key());
    const std::string ns(any.substr(0, any.find('\0')));
    const std::string prefix = EntryKey(ns, "");
    if (first > 0) it->Seek(absl::StrCat(prefix, std::string(1, static_cast<char>(first))));
    for (; it->Valid() && it->key().starts_with(prefix); it->Next()) {
      const absl::string_view bytes = ToView(it->key());
      if (bytes.size() > prefix.size() && static_cast<uint8_t>(bytes[prefix.size()]) >= last) break;
      const auto key = DecodeKeyView(bytes);
      if (!key.ok()) {
        return absl::DataLossError(absl::StrCat("the index holds a record that is ", key.status().message()));
      }
      record(*key, ParseLocation(ToView(it->value())));
    }
    // A key without a zero byte does not start with any prefix.
    if (ns.size() == any.size())
      return absl::DataLossError("the index holds a record that is not the key of an encoding");
    if (it->Valid() && it->key().starts_with(prefix)) it->Seek(absl::StrCat(ns, "\1"));
  }
  return FromRocks(it->status(), "scan");
}

absl::StatusOr<std::vector<EncodingKey>> Index::ListKeys(absl::string_view ns, const Identity& after,
                                                         int64_t limit) const {
  std::vector<EncodingKey> keys;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Checked(), families_[kLocation]));
  const std::string prefix = EntryKey(ns, "");
  for (it->Seek(ReferencePrefix(ns, after)); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    auto key = DecodeKey(ToView(it->key()));
    if (!key.ok()) return absl::DataLossError(key.status().message());
    // The zero identity means the start; no encoding has it.
    if (key->identity == after) continue;
    if (static_cast<int64_t>(keys.size()) >= limit && (keys.empty() || key->identity != keys.back().identity)) break;
    keys.push_back(*std::move(key));
  }
  KVLINK_RETURN_IF_ERROR(FromRocks(it->status(), "list"));
  return keys;
}

absl::StatusOr<std::vector<EncodingKey>> Index::KeysAfter(const std::optional<EncodingKey>& after,
                                                          int64_t limit) const {
  std::vector<EncodingKey> keys;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Checked(), families_[kLocation]));
  const std::string start = after.has_value() ? EncodeKey(*after) : "";
  for (it->Seek(start); it->Valid() && static_cast<int64_t>(keys.size()) < limit; it->Next()) {
    if (after.has_value() && it->key() == start) continue;
    auto key = DecodeKey(ToView(it->key()));
    if (!key.ok()) return absl::DataLossError(key.status().message());
    keys.push_back(*std::move(key));
  }
  KVLINK_RETURN_IF_ERROR(FromRocks(it->status(), "list"));
  return keys;
}

absl::StatusOr<std::optional<std::string>> Index::GetEntry(absl::string_view ns, absl::string_view id) const {
  std::string bytes;
  const rocksdb::Status status = db_->Get(Checked(), families_[kCatalog], EntryKey(ns, id), &bytes);
  if (status.IsNotFound()) return std::optional<std::string>();
  KVLINK_RETURN_IF_ERROR(FromRocks(status, "read a catalog entry from"));
  return std::optional<std::string>(std::move(bytes));
}

absl::Status Index::ScanEntries(absl::string_view ns, absl::string_view after,
                                const std::function<bool(absl::string_view id, absl::string_view entry)>& entry) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Checked(), families_[kCatalog]));
  const std::string prefix = EntryKey(ns, "");
  const std::string start = EntryKey(ns, after);
  for (it->Seek(start); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    absl::string_view id = ToView(it->key());
    id.remove_prefix(prefix.size());
    if (id == after) continue;
    if (!entry(id, ToView(it->value()))) return absl::OkStatus();
  }
  return FromRocks(it->status(), "scan the catalog of");
}

absl::Status Index::ScanAllEntries(
    const std::function<void(absl::string_view ns, absl::string_view id, absl::string_view entry)>& entry,
    const IndexSnapshot* at) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(ReadingAt(at), families_[kCatalog]));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const absl::string_view key = ToView(it->key());
    const size_t end = key.find('\0');
    if (end == absl::string_view::npos) return absl::DataLossError("the catalog holds a key without a namespace");
    entry(key.substr(0, end), key.substr(end + 1), ToView(it->value()));
  }
  return FromRocks(it->status(), "scan the catalog of");
}

absl::Status Index::ScanReferences(
    const std::function<void(absl::string_view ns, const Identity& identity, absl::string_view id)>& reference,
    const IndexSnapshot* at) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(ReadingAt(at), families_[kReference]));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const absl::string_view key = ToView(it->key());
    const size_t end = key.find('\0');
    Identity identity;
    if (end == absl::string_view::npos || key.size() < end + 1 + identity.bytes.size()) {
      return absl::DataLossError("a reference record is too short");
    }
    std::memcpy(identity.bytes.data(), key.data() + end + 1, identity.bytes.size());
    reference(key.substr(0, end), identity, key.substr(end + 1 + identity.bytes.size()));
  }
  return FromRocks(it->status(), "scan the references of");
}

bool Index::HasReference(absl::string_view ns, const Identity& identity, absl::string_view id,
                         const IndexSnapshot* at) const {
  std::string value;
  return db_->Get(ReadingAt(at), families_[kReference], ReferenceKey(ns, identity, id), &value).ok();
}

absl::StatusOr<std::vector<std::string>> Index::ReferringTo(absl::string_view ns, const Identity& identity,
                                                            int64_t limit) const {
  std::vector<std::string> ids;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Checked(), families_[kReference]));
  const std::string prefix = ReferencePrefix(ns, identity);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    if (static_cast<int64_t>(ids.size()) >= limit) break;
    ids.emplace_back(ToView(it->key()).substr(prefix.size()));
  }
  KVLINK_RETURN_IF_ERROR(FromRocks(it->status(), "read references from"));
  return ids;
}

absl::StatusOr<bool> Index::ReferredBy(absl::string_view ns, const Identity& identity,
                                       absl::FunctionRef<bool(absl::string_view id)> counts) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Checked(), families_[kReference]));
  const std::string prefix = ReferencePrefix(ns, identity);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    absl::string_view id = ToView(it->key());
    id.remove_prefix(prefix.size());
    if (counts(id)) return true;
  }
  KVLINK_RETURN_IF_ERROR(FromRocks(it->status(), "read references from"));
  return false;
}

absl::StatusOr<std::optional<std::string>> Index::GetMeta(absl::string_view name) const {
  std::string bytes;
  const rocksdb::Status status = db_->Get(Checked(), families_[kDefault], ToSlice(name), &bytes);
  if (status.IsNotFound()) return std::optional<std::string>();
  KVLINK_RETURN_IF_ERROR(FromRocks(status, "read from"));
  return std::optional<std::string>(std::move(bytes));
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Index::ListMeta(absl::string_view prefix,
                                                                                 const IndexSnapshot* at) const {
  std::vector<std::pair<std::string, std::string>> list;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(ReadingAt(at), families_[kDefault]));
  for (it->Seek(ToSlice(prefix)); it->Valid() && it->key().starts_with(ToSlice(prefix)); it->Next()) {
    list.emplace_back(it->key().ToString(), it->value().ToString());
  }
  KVLINK_RETURN_IF_ERROR(FromRocks(it->status(), "read from"));
  return list;
}

absl::Status Index::VerifyChecksums() const { return FromRocks(db_->VerifyChecksum(Checked()), "verify"); }

}  // namespace kvlink::engine
