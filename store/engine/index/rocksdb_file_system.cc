#include "store/engine/index/rocksdb_file_system.h"

#include <sys/stat.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace kvlink::engine {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus ToIOStatus(const absl::Status& status) {
  if (status.ok()) return IOStatus::OK();
  const std::string message(status.message());
  return absl::IsResourceExhausted(status) ? IOStatus::NoSpace(message) : IOStatus::IOError(message);
}

class NoObserver : public IoObserver {
 public:
  absl::StatusOr<uint64_t> WriteStarted(const std::string&, int64_t, absl::Span<const std::byte>) override { return 0; }
  void WriteEnded(uint64_t) override {}
  absl::StatusOr<uint64_t> SyncStarted(const std::string&) override { return 0; }
  void SyncEnded(uint64_t) override {}
  void Created(const std::string&) override {}
  void Resized(const std::string&, int64_t) override {}
  void Renamed(const std::string&, const std::string&) override {}
  void Removed(const std::string&) override {}
  void DirectoryCreated(const std::string&) override {}
};

// Returns the number of a MANIFEST-NNNNNN, or 0.
uint64_t ManifestNumber(absl::string_view path) {
  const size_t slash = path.find_last_of('/');
  absl::string_view name = slash == absl::string_view::npos ? path : path.substr(slash + 1);
  uint64_t number = 0;
  return absl::ConsumePrefix(&name, "MANIFEST-") && absl::SimpleAtoi(name, &number) ? number : 0;
}

class ObservedWritableFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  ObservedWritableFile(std::unique_ptr<rocksdb::FSWritableFile> file, std::string path, int64_t size,
                       IoObserver* observer, DurableManifest* manifest)
      : FSWritableFileOwnerWrapper(std::move(file)),
        path_(std::move(path)),
        size_(size),
        observer_(observer),
        manifest_(manifest),
        manifest_number_(ManifestNumber(path_)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    return Observed(size_, data, [&] { return target()->Append(data, options, debug); });
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo& info,
                  IODebugContext* debug) override {
    return Observed(size_, data, [&] { return target()->Append(data, options, info, debug); });
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options,
                            IODebugContext* debug) override {
    return Observed(offset, data, [&] { return target()->PositionedAppend(data, offset, options, debug); });
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options,
                            const rocksdb::DataVerificationInfo& info, IODebugContext* debug) override {
    return Observed(offset, data, [&] { return target()->PositionedAppend(data, offset, options, info, debug); });
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = target()->Truncate(size, options, debug);
    if (status.ok()) {
      size_ = static_cast<int64_t>(size);
      observer_->Resized(path_, size_);
    }
    return status;
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    return Synced([&] { return target()->Sync(options, debug); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Synced([&] { return target()->Fsync(options, debug); });
  }

 private:
  template <typename Write>
  IOStatus Observed(int64_t offset, const Slice& data, Write write) {
    const auto id = observer_->WriteStarted(
        path_, offset, absl::MakeSpan(reinterpret_cast<const std::byte*>(data.data()), data.size()));
    if (!id.ok()) return ToIOStatus(id.status());
    const IOStatus status = write();
    if (status.ok()) {
      observer_->WriteEnded(*id);
      size_ = std::max<int64_t>(size_, offset + static_cast<int64_t>(data.size()));
    }
    return status;
  }
  template <typename Sync>
  IOStatus Synced(Sync sync) {
    const int64_t size = size_;
    const auto id = observer_->SyncStarted(path_);
    if (!id.ok()) return ToIOStatus(id.status());
    const IOStatus status = sync();
    if (!status.ok()) return status;
    observer_->SyncEnded(*id);
    if (manifest_number_ != 0) manifest_->Raise({manifest_number_, size});
    return status;
  }

  const std::string path_;
  int64_t size_;
  IoObserver* const observer_;
  DurableManifest* const manifest_;
  const uint64_t manifest_number_;
};

class ObservedDirectory : public rocksdb::FSDirectoryWrapper {
 public:
  ObservedDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, std::string path, IoObserver* observer)
      : FSDirectoryWrapper(std::move(directory)), path_(std::move(path)), observer_(observer) {}
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Synced([&] { return FSDirectoryWrapper::Fsync(options, debug); });
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const rocksdb::DirFsyncOptions& directory) override {
    return Synced([&] { return FSDirectoryWrapper::FsyncWithDirOptions(options, debug, directory); });
  }

 private:
  template <typename Sync>
  IOStatus Synced(Sync sync) {
    const auto id = observer_->SyncStarted(path_);
    if (!id.ok()) return ToIOStatus(id.status());
    const IOStatus status = sync();
    if (status.ok()) observer_->SyncEnded(*id);
    return status;
  }

  const std::string path_;
  IoObserver* const observer_;
};

class ObservedFileSystem : public rocksdb::FileSystemWrapper {
 public:
  ObservedFileSystem(const std::shared_ptr<rocksdb::FileSystem>& target, IoObserver* observer,
                     DurableManifest* manifest)
      : FileSystemWrapper(target), observer_(observer != nullptr ? observer : &no_observer_), manifest_(manifest) {}
  const char* Name() const override { return "KvlinkObservedFileSystem"; }

  IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* debug) override {
    if (const absl::Status may = observer_->OpenStarted(path, /*write=*/true); !may.ok()) return ToIOStatus(may);
    const IOStatus status = FileSystemWrapper::NewWritableFile(path, options, result, debug);
    if (!status.ok()) return status;
    chmod(path.c_str(), 0600);
    observer_->Created(path);
    *result = std::make_unique<ObservedWritableFile>(std::move(*result), path, 0, observer_, manifest_);
    return status;
  }
  IOStatus ReopenWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* debug) override {
    uint64_t size = 0;
    const bool existed = FileSystemWrapper::GetFileSize(path, IOOptions(), &size, debug).ok();
    const IOStatus status = FileSystemWrapper::ReopenWritableFile(path, options, result, debug);
    if (!status.ok()) return status;
    chmod(path.c_str(), 0600);
    if (!existed) observer_->Created(path);
    *result = std::make_unique<ObservedWritableFile>(std::move(*result), path, static_cast<int64_t>(size), observer_,
                                                     manifest_);
    return status;
  }
  IOStatus ReuseWritableFile(const std::string& path, const std::string& old_path, const rocksdb::FileOptions& options,
                             std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::ReuseWritableFile(path, old_path, options, result, debug);
    if (!status.ok()) return status;
    observer_->Renamed(old_path, path);
    *result = std::make_unique<ObservedWritableFile>(std::move(*result), path, 0, observer_, manifest_);
    return status;
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* result, IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::NewDirectory(path, options, result, debug);
    if (status.ok()) *result = std::make_unique<ObservedDirectory>(std::move(*result), path, observer_);
    return status;
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::DeleteFile(path, options, debug);
    if (status.ok()) observer_->Removed(path);
    return status;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::RenameFile(from, to, options, debug);
    if (status.ok()) observer_->Renamed(from, to);
    return status;
  }
  // RocksDB then renames or copies instead, which is observed.
  IOStatus LinkFile(const std::string&, const std::string&, const IOOptions&, IODebugContext*) override {
    return IOStatus::NotSupported("hard links under observation");
  }
  IOStatus Truncate(const std::string& path, size_t size, const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::Truncate(path, size, options, debug);
    if (status.ok()) observer_->Resized(path, static_cast<int64_t>(size));
    return status;
  }
  IOStatus CreateDir(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = FileSystemWrapper::CreateDir(path, options, debug);
    if (status.ok()) observer_->DirectoryCreated(path);
    return status;
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    const bool existed = FileSystemWrapper::FileExists(path, options, debug).ok();
    const IOStatus status = FileSystemWrapper::CreateDirIfMissing(path, options, debug);
    if (status.ok() && !existed) observer_->DirectoryCreated(path);
    return status;
  }

 private:
  NoObserver no_observer_;
  IoObserver* const observer_;
  DurableManifest* const manifest_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> ObservedRocksDbFileSystem(IoObserver* observer, DurableManifest* manifest) {
  return std::make_shared<ObservedFileSystem>(rocksdb::FileSystem::Default(), observer, manifest);
}

}  // namespace kvlink::engine
