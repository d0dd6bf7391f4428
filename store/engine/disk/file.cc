#include "store/engine/disk/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/status.h"

namespace kvlink::engine {

absl::Status ErrnoStatus(int error, absl::string_view action, absl::string_view path) {
  const std::string message = absl::StrCat(action, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:  // this process's file size limit
      return absl::ResourceExhaustedError(message);
    case EMFILE:
      return absl::UnavailableError(absl::StrCat(message, "; raise the limit of open files (ulimit -n)"));
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EAGAIN:
    case ENOLINK:  // of the path to the device, not of its contents
    case EBADE:    // reserved by another host
      return absl::UnavailableError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::FailedPreconditionError(message);
    case EIO:
    // The kernel's translations of errors reported by a disk.
    case ENODATA:
    case EREMOTEIO:
    case EILSEQ:
      return absl::DataLossError(message);
    default:
      return absl::Status(absl::ErrnoToStatusCode(error), message);
  }
}

absl::Status File::Read(int64_t offset, absl::Span<std::byte> bytes) const {
  if (observer_ != nullptr) KVLINK_RETURN_IF_ERROR(observer_->ReadStarted(path_, offset, bytes.size()));
  while (!bytes.empty()) {
    const ssize_t n = pread(fd(), bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read", path_);
    if (n == 0) return EndsBefore("read", offset);
    offset += n;
    bytes.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::Status File::Write(int64_t offset, absl::Span<const std::byte> bytes) {
  uint64_t write = 0;
  if (observer_ != nullptr) {
    KVLINK_ASSIGN_OR_RETURN(write, observer_->WriteStarted(path_, offset, bytes));
  }
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd(), bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write", path_);
    offset += n;
    bytes.remove_prefix(n);
  }
  if (observer_ != nullptr) observer_->WriteEnded(write);
  return absl::OkStatus();
}

absl::Status File::Sync() {
  uint64_t sync = 0;
  if (observer_ != nullptr) {
    KVLINK_ASSIGN_OR_RETURN(sync, observer_->SyncStarted(path_));
  }
  if (fdatasync(fd()) != 0) return ErrnoStatus(errno, "flush", path_);
  if (observer_ != nullptr) observer_->SyncEnded(sync);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> File::Size() const {
  struct stat info;
  if (fstat(fd(), &info) != 0) return ErrnoStatus(errno, "stat", path_);
  return info.st_size;
}

absl::Status File::EndsBefore(absl::string_view action, int64_t offset) const {
  KVLINK_ASSIGN_OR_RETURN(const int64_t size, Size());
  return absl::DataLossError(
      absl::StrCat(action, " ", path_, " at byte ", offset, ": the file has ", size, " bytes, it was cut"));
}

absl::Status File::Resize(int64_t size) {
  if (ftruncate(fd(), size) != 0) return ErrnoStatus(errno, "resize", path_);
  if (observer_ != nullptr) observer_->Resized(path_, size);
  return absl::OkStatus();
}

absl::Status File::Allocate(int64_t size) {
  if (fallocate(fd(), 0, 0, size) != 0 && (errno != EOPNOTSUPP || ftruncate(fd(), size) != 0)) {
    return ErrnoStatus(errno, "allocate space for", path_);
  }
  if (observer_ != nullptr) observer_->Resized(path_, size);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<File>> FileSystem::Open(const std::string& path, const OpenOptions& options) const {
  if (observer_ != nullptr) KVLINK_RETURN_IF_ERROR(observer_->OpenStarted(path, options.write));
  int flags = O_CLOEXEC | (options.write ? O_RDWR : O_RDONLY);
  if (options.create) flags |= O_CREAT | O_EXCL;
  bool direct = options.direct;
  int fd = open(path.c_str(), flags | (direct ? O_DIRECT : 0), 0600);
  if (fd < 0 && errno == EINVAL && direct) {
    // The file may have been created before O_DIRECT was refused.
    direct = false;
    if (options.create) unlink(path.c_str());
    fd = open(path.c_str(), flags, 0600);
  }
  if (fd < 0) return ErrnoStatus(errno, options.create ? "create" : "open", path);
  Descriptor descriptor(fd);
  if (options.create && observer_ != nullptr) observer_->Created(path);
  return std::unique_ptr<File>(new File(std::move(descriptor), path, direct, observer_));
}

absl::Status FileSystem::MakeDirectory(const std::string& path) const {
  if (mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) return absl::OkStatus();
    return ErrnoStatus(errno, "make directory", path);
  }
  if (observer_ != nullptr) observer_->DirectoryCreated(path);
  return absl::OkStatus();
}

absl::Status FileSystem::Rename(const std::string& from, const std::string& to) const {
  if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, "rename", from);
  if (observer_ != nullptr) observer_->Renamed(from, to);
  return absl::OkStatus();
}

absl::Status FileSystem::Remove(const std::string& path) const {
  if (unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, "remove", path);
  }
  if (observer_ != nullptr) observer_->Removed(path);
  return absl::OkStatus();
}

absl::Status FileSystem::SyncDirectory(const std::string& path) const {
  Descriptor descriptor(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.get() < 0) return ErrnoStatus(errno, "open directory", path);
  uint64_t sync = 0;
  if (observer_ != nullptr) {
    KVLINK_ASSIGN_OR_RETURN(sync, observer_->SyncStarted(path));
  }
  if (fsync(descriptor.get()) != 0) return ErrnoStatus(errno, "flush directory", path);
  if (observer_ != nullptr) observer_->SyncEnded(sync);
  return absl::OkStatus();
}

bool FileSystem::Exists(const std::string& path) const { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<std::vector<std::string>> FileSystem::List(const std::string& path) const {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return ErrnoStatus(errno, "open directory", path);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> FileSystem::ReadWhole(const std::string& path, int64_t limit) const {
  KVLINK_ASSIGN_OR_RETURN(auto file, Open(path, {}));
  KVLINK_ASSIGN_OR_RETURN(const int64_t size, file->Size());
  if (size > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", size, " bytes, more than the ", limit, " expected"));
  }
  std::string bytes(size, '\0');
  KVLINK_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size())));
  return bytes;
}

absl::Status FileSystem::WriteWhole(const std::string& directory, const std::string& name,
                                    absl::string_view bytes) const {
  const std::string path = directory + "/" + name;
  const std::string temporary = path + ".tmp";
  KVLINK_RETURN_IF_ERROR(Remove(temporary));
  KVLINK_ASSIGN_OR_RETURN(auto file, Open(temporary, {.write = true, .create = true}));
  KVLINK_RETURN_IF_ERROR(
      file->Write(0, absl::MakeSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size())));
  KVLINK_RETURN_IF_ERROR(file->Sync());
  KVLINK_RETURN_IF_ERROR(Rename(temporary, path));
  return SyncDirectory(directory);
}

absl::StatusOr<int64_t> FileSystem::FreeSpace(const std::string& path) const {
  struct statvfs info;
  if (statvfs(path.c_str(), &info) != 0) return ErrnoStatus(errno, "statvfs", path);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

}  // namespace kvlink::engine
