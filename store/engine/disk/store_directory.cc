#include "store/engine/disk/store_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "store/engine/disk/location.h"

namespace kvlink::engine {
namespace {

constexpr EnvelopeKind kStoreKind = {0x5453564b /* "KVST" */, 2, 0, "STORE file", /*oldest=*/2};
constexpr EnvelopeKind kFormat1Kind = {0x5453564b /* "KVST" */, 1, 0, "STORE file"};
constexpr EnvelopeKind kFloorKind = {0x4c46564b /* "KVFL" */, 1, 0, "FLOOR file"};

constexpr char kStoreName[] = "STORE";
constexpr char kFloorName[] = "FLOOR";
constexpr char kLockName[] = "LOCK";
constexpr char kReserveName[] = "reserve";

// Returns "by process 123", if the lock file names one.
std::string Holder(int fd) {
  char text[32] = {};
  const ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
  std::string pid;
  for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; ++i) pid.push_back(text[i]);
  return pid.empty() ? "by another process" : absl::StrCat("by process ", pid);
}

// Restricts a store to its owner: it holds documents, and any user who can open its lock file could hold the lock.
absl::Status KeepToOwner(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  if ((info.st_mode & 077) == 0 || chmod(path.c_str(), info.st_mode & 0700) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "%s is open to other users (mode %04o) and cannot be closed to them: %s; chmod 700 it as its owner", path,
      info.st_mode & 07777, std::strerror(errno)));
}

}  // namespace

absl::StatusOr<Uuid> NewUuid() {
  Uuid uuid;
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    return ErrnoStatus(errno, "read", "the random number generator");
  }
  uuid[6] = (uuid[6] & 0x0f) | 0x40;  // RFC 4122 version 4
  uuid[8] = (uuid[8] & 0x3f) | 0x80;
  return uuid;
}

std::string UuidHex(const Uuid& uuid) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(uuid.data()), uuid.size()));
}

absl::StatusOr<std::unique_ptr<StoreDirectory>> StoreDirectory::Open(const FileSystem& files, const std::string& path,
                                                                     bool create, bool read_only) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return ErrnoStatus(errno, "open store", path);
    if (!create || read_only) return absl::NotFoundError(absl::StrCat("no store at ", path));
    for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
      KVLINK_RETURN_IF_ERROR(files.MakeDirectory(path.substr(0, end)));
    }
    KVLINK_RETURN_IF_ERROR(files.MakeDirectory(path));
  } else if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a directory; name a directory for the store"));
  }
  std::unique_ptr<StoreDirectory> directory(new StoreDirectory(files, path));
  if (!files.Exists(path + "/" + kStoreName)) {
    KVLINK_RETURN_IF_ERROR(directory->CheckForeign());
    if (!create || read_only) return absl::NotFoundError(absl::StrCat("no store at ", path));
  }
  if (!read_only) KVLINK_RETURN_IF_ERROR(KeepToOwner(path));
  KVLINK_RETURN_IF_ERROR(directory->Lock(read_only));
  KVLINK_RETURN_IF_ERROR(directory->ReadIdentity());
  if (!read_only) {
    KVLINK_RETURN_IF_ERROR(files.MakeDirectory(directory->segments_path()));
    KVLINK_RETURN_IF_ERROR(files.MakeDirectory(directory->index_path()));
    KVLINK_RETURN_IF_ERROR(KeepToOwner(directory->segments_path()));
    KVLINK_RETURN_IF_ERROR(KeepToOwner(directory->index_path()));
    KVLINK_RETURN_IF_ERROR(files.SyncDirectory(path));
  }
  return directory;
}

absl::Status StoreDirectory::CheckForeign() const {
  KVLINK_ASSIGN_OR_RETURN(const auto names, files_.List(path_));
  // The reserve and the segments are created after STORE, so if either exists this was a store, with or without its
  // index.
  const std::string segments = segments_path();
  if (files_.Exists(segments)) {
    KVLINK_ASSIGN_OR_RETURN(const auto files, files_.List(segments));
    // A mount point may contain unrelated files.
    const bool any = std::any_of(files.begin(), files.end(),
                                 [](const std::string& name) { return absl::StrContains(name, ".seg"); });
    if (any || files_.Exists(path_ + "/" + kReserveName)) {
      return absl::DataLossError(absl::StrCat(path_,
                                              " has segments/ of a store but no STORE file: restore it from a copy, or "
                                              "move the directory away and ingest again"));
    }
  }
  for (const std::string& name : names) {
    const absl::string_view base = absl::StripSuffix(name, ".tmp");
    if (base != kStoreName && base != kLockName && base != kFloorName && base != "index" && base != "segments") {
      return absl::FailedPreconditionError(
          absl::StrCat(path_, " holds something that is not a store (", name, "); name an empty or a new directory"));
    }
  }
  return absl::OkStatus();
}

absl::Status StoreDirectory::Lock(bool read_only) {
  const std::string lock_path = path_ + "/" + kLockName;
  int fd = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 && read_only) fd = open(lock_path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open", lock_path);
  lock_ = Descriptor(fd);
  if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", lock_path);
    return absl::UnavailableError(
        absl::StrCat("the store at ", path_, " is in use ", Holder(fd), "; one process may hold a store at a time"));
  }
  if (!read_only) {
    KVLINK_RETURN_IF_ERROR(KeepToOwner(lock_path));
    // Only for the message above, so neither flushed nor reported to the observer. A full disk must not prevent
    // opening.
    const std::string pid = absl::StrCat(getpid(), "\n");
    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) {
      const absl::Status status = ErrnoStatus(errno, "write", lock_path);
      if (!absl::IsResourceExhausted(status)) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status StoreDirectory::ReadIdentity() {
  const std::string path = path_ + "/" + kStoreName;
  if (!files_.Exists(path)) return absl::OkStatus();
  const auto bytes = files_.ReadWhole(path, 4096);
  if (absl::IsResourceExhausted(bytes.status())) return absl::DataLossError(bytes.status().message());
  KVLINK_RETURN_IF_ERROR(bytes.status());
  if (OpenEnvelope(kFormat1Kind, *bytes).ok()) {
    return absl::UnimplementedError(absl::StrCat(path_,
                                                 ": this store has format 1; this build reads format 2: ingest the "
                                                 "documents again into a new directory"));
  }
  const auto payload = OpenEnvelope(kStoreKind, *bytes);
  if (absl::IsUnimplemented(payload.status())) return Annotate(payload.status(), path);
  Identity identity;
  bool good = payload.ok();
  if (good) {
    FieldReader reader(*payload);
    reader.ReadBytes(identity.uuid.data(), identity.uuid.size());
    const uint32_t block_bytes = reader.Read<uint32_t>();
    identity.segment_bytes = static_cast<int64_t>(reader.Read<uint64_t>());
    good = reader.at_end() && block_bytes == kSegmentBlockBytes && identity.segment_bytes >= 2 * kSegmentBlockBytes &&
           identity.segment_bytes <= (int64_t{1} << 40) && identity.segment_bytes % kSegmentBlockBytes == 0;
  }
  if (!good) {
    return absl::DataLossError(absl::StrCat(path, " is damaged", payload.ok() ? "" : ": ", payload.status().message(),
                                            "; restore it from a copy, or move the store away and ingest again"));
  }
  identity_ = identity;
  return absl::OkStatus();
}

absl::Status StoreDirectory::SetIdentity(const Identity& identity) {
  std::string payload(reinterpret_cast<const char*>(identity.uuid.data()), identity.uuid.size());
  AppendField<uint32_t>(kSegmentBlockBytes, &payload);
  AppendField<uint64_t>(identity.segment_bytes, &payload);
  KVLINK_RETURN_IF_ERROR(ReplaceFloor({}));
  KVLINK_RETURN_IF_ERROR(files_.WriteWhole(path_, kStoreName, WrapEnvelope(kStoreKind, payload)));
  identity_ = identity;
  const size_t slash = path_.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
  // The directory itself is new too. A parent we may not open is not ours to flush.
  files_.SyncDirectory(parent).IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<StoreDirectory::Floor> StoreDirectory::GetFloor() const {
  const std::string path = path_ + "/" + kFloorName;
  const auto lost = [&path](absl::string_view how) {
    return absl::DataLossError(absl::StrCat(path, how, ": whether the index has lost changes is not known"));
  };
  const auto bytes = files_.ReadWhole(path, 4096);
  if (absl::IsNotFound(bytes.status())) return lost(" is missing");
  if (absl::IsResourceExhausted(bytes.status())) return lost(" is damaged");
  // That the disk cannot read it now says nothing about its contents.
  if (absl::IsDataLoss(bytes.status())) return absl::UnavailableError(bytes.status().message());
  KVLINK_RETURN_IF_ERROR(bytes.status());
  const auto payload = OpenEnvelope(kFloorKind, *bytes);
  if (absl::IsUnimplemented(payload.status())) return Annotate(payload.status(), path);
  if (!payload.ok()) return lost(" is damaged");
  FieldReader reader(*payload);
  Floor floor;
  floor.sequence = reader.Read<uint64_t>();
  floor.manifest_number = reader.Read<uint64_t>();
  floor.manifest_bytes = static_cast<int64_t>(reader.Read<uint64_t>());
  if (!reader.at_end()) return lost(" is damaged");
  return floor;
}

absl::Status StoreDirectory::RaiseFloor(const Floor& floor) {
  MutexLock lock(&floor_mutex_);
  KVLINK_ASSIGN_OR_RETURN(Floor raised, GetFloor());
  raised.sequence = std::max(floor.sequence, raised.sequence);
  if (std::tie(floor.manifest_number, floor.manifest_bytes) > std::tie(raised.manifest_number, raised.manifest_bytes)) {
    raised.manifest_number = floor.manifest_number;
    raised.manifest_bytes = floor.manifest_bytes;
  }
  return WriteFloor(raised);
}

absl::Status StoreDirectory::ReplaceFloor(const Floor& floor) {
  MutexLock lock(&floor_mutex_);
  return WriteFloor(floor);
}

absl::Status StoreDirectory::WriteFloor(const Floor& floor) {
  std::string payload;
  AppendField<uint64_t>(floor.sequence, &payload);
  AppendField<uint64_t>(floor.manifest_number, &payload);
  AppendField<uint64_t>(floor.manifest_bytes, &payload);
  return files_.WriteWhole(path_, kFloorName, WrapEnvelope(kFloorKind, payload));
}

absl::Status StoreDirectory::ReleaseReserve() {
  MutexLock lock(&reserve_mutex_);
  return files_.Remove(path_ + "/" + kReserveName);
}

absl::Status StoreDirectory::RestoreReserve() {
  MutexLock lock(&reserve_mutex_);
  const std::string path = path_ + "/" + kReserveName;
  if (files_.Exists(path)) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(auto file, files_.Open(path, {.write = true, .create = true}));
  const absl::Status status = file->Allocate(kReserveBytes);
  if (!status.ok()) files_.Remove(path).IgnoreError();
  return status;
}

}  // namespace kvlink::engine
