// Through the store's own file system layer, so that what works here works there.
#include "store/cli/doctor/disk.h"

#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/cli/args.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/engine/disk/file.h"
#include "store/engine/disk/store_directory.h"

namespace kvlink::cli {
namespace {

namespace fs = std::filesystem;

struct Trial {
  bool direct = false;
  absl::Duration flush;
};

// Writes a block to a new file, flushes it, and removes the file.
absl::StatusOr<Trial> TryWriting(const std::string& directory) {
  constexpr size_t kBytes = 65536;
  alignas(4096) static std::array<std::byte, kBytes> block;
  const engine::FileSystem files(nullptr);
  const std::string path = absl::StrCat(directory, "/.kvlink-doctor-", getpid());
  const auto remove = absl::MakeCleanup([&path] { unlink(path.c_str()); });
  KVLINK_ASSIGN_OR_RETURN(const auto file, files.Open(path, {.write = true, .create = true, .direct = true}));
  KVLINK_RETURN_IF_ERROR(file->Write(0, block));
  const absl::Time begin = SteadyNow();
  KVLINK_RETURN_IF_ERROR(file->Sync());
  return Trial{file->direct(), SteadyNow() - begin};
}

std::string FileSystemName(const std::string& path) {
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return "unknown";
  constexpr std::pair<uint32_t, const char*> kNames[] = {
      {0xEF53, "ext4"},     {0x58465342, "xfs"},       {0x9123683E, "btrfs"},   {0x01021994, "tmpfs"},
      {0x6969, "nfs"},      {0x794c7630, "overlayfs"}, {0x2fc12fc1, "zfs"},     {0xF2F52010, "f2fs"},
      {0x65735546, "fuse"}, {0x01021997, "9p"},        {0x6a656a63, "virtiofs"}};
  for (const auto& [magic, name] : kNames) {
    if (magic == static_cast<uint32_t>(info.f_type)) return name;
  }
  return absl::StrFormat("file system 0x%x", static_cast<uint32_t>(info.f_type));
}

// The directory, or the nearest one above it that exists.
std::string Existing(const std::string& directory) {
  std::error_code error;
  fs::path path = fs::absolute(directory, error);
  while (!fs::is_directory(path, error) && path.has_relative_path()) path = path.parent_path();
  return path.string();
}

Finding Store(const std::string& directory, const std::string& name) {
  std::error_code error;
  Finding finding{"store", absl::StrCat(directory, " on ", name)};
  finding.effect = fs::exists(directory + "/STORE", error) ? "there is a store" : "there is no store yet";
  if (name == "tmpfs") {
    finding.health = Health::kWarning;
    finding.effect = "in memory: encodings are lost when the machine restarts, and take memory from it";
    finding.mend = "choose a directory on a disk";
  } else if (name == "nfs" || name == "fuse" || name == "9p") {
    finding.health = Health::kWarning;
    finding.effect = "a file system of another host: slower, and away when that host is";
    finding.mend = "choose a directory on a local disk";
  }
  return finding;
}

Finding FreeSpace(const std::string& existing) {
  constexpr int64_t kLittle = int64_t{1} << 30;
  Finding finding{"free_space", "unknown"};
  const auto bytes = engine::FileSystem(nullptr).FreeSpace(existing);
  if (!bytes.ok()) {
    finding.effect = std::string(bytes.status().message());
    return finding;
  }
  finding.value = FormatBytes(static_cast<double>(*bytes));
  finding.effect = "for encodings (kvlink plan says what a corpus needs)";
  if (*bytes >= kLittle) return finding;
  finding.health = *bytes < engine::StoreDirectory::kReserveBytes ? Health::kError : Health::kWarning;
  finding.effect = "encodings are evicted early, or a store cannot be made";
  finding.mend = "free space, or choose another disk";
  return finding;
}

Finding DirectIo(const Trial& trial) {
  Finding finding{"direct_io", trial.direct ? "O_DIRECT" : "buffered", Health::kOk,
                  "encodings bypass the page cache, and are in memory once", ""};
  if (trial.direct) return finding;
  finding.health = Health::kWarning;
  finding.effect = "the file system refuses O_DIRECT: encodings also fill the page cache, and are copied once more";
  finding.mend = "choose a directory on ext4 or xfs";
  return finding;
}

Finding Flush(const Trial& trial) {
  constexpr absl::Duration kSlow = absl::Milliseconds(50);
  Finding finding{"flush", absl::StrFormat("%.1f ms", absl::ToDoubleMilliseconds(trial.flush))};
  finding.effect = "how long a write waits, once for many at a time, until it is acknowledged";
  if (trial.flush < kSlow) return finding;
  finding.health = Health::kWarning;
  finding.mend = "a disk with a cache that survives a loss of power";
  return finding;
}

}  // namespace

std::vector<Finding> ExamineDisk(const std::string& directory) {
  const std::string existing = Existing(directory);
  Finding store = Store(directory, FileSystemName(existing));
  const auto trial = TryWriting(existing);
  if (trial.ok()) return {std::move(store), FreeSpace(existing), DirectIo(*trial), Flush(*trial)};
  store.health = Health::kError;
  store.effect = std::string(trial.status().message());
  store.mend = "choose a directory that this user may write to, on a disk with space";
  return {std::move(store)};
}

}  // namespace kvlink::cli
