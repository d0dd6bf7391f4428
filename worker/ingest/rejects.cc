// Flushes each line, so that a killed run leaves what it had found. A lock keeps other runs away from the file; where a
// file system has none, nothing does.
#include "worker/ingest/rejects.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::ingest {

std::string PartialOf(const std::string& path) { return path + ".partial"; }

// Opens the file for this process alone, and empties it.
absl::StatusOr<RejectFile::File> RejectFile::OpenLocked(const std::string& path) {
  const auto failed = [&path] { return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot write rejects")); };
  for (int attempt = 0; attempt < 100; ++attempt) {
    File file(std::fopen(path.c_str(), "ae"));
    if (file == nullptr) return failed();
    const int fd = fileno(file.get());
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": another process writes its rejects there; give each shard a file of its own"));
    }
    struct stat opened, named;
    if (fstat(fd, &opened) != 0) return failed();
    // Whoever had the lock may have renamed the file before letting go of it.
    if (stat(path.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev) continue;
    if (S_ISREG(opened.st_mode) && ftruncate(fd, 0) != 0) return failed();
    return file;
  }
  return absl::UnavailableError(absl::StrCat(path, ": cannot write rejects: it is replaced again and again"));
}

absl::StatusOr<std::unique_ptr<RejectFile>> RejectFile::Create(const std::string& path) {
  // Else only the end of the run would show it.
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot write rejects: it is a directory; name a file"));
  }
  std::string partial = PartialOf(path);
  KVLINK_ASSIGN_OR_RETURN(File file, OpenLocked(partial));
  return std::unique_ptr<RejectFile>(new RejectFile(path, std::move(partial), std::move(file)));
}

absl::Status RejectFile::Fail() const {
  return absl::ErrnoToStatus(errno, absl::StrCat(partial_, ": cannot write rejects"));
}

absl::Status RejectFile::Add(const Failure& failure) {
  using Json = nlohmann::ordered_json;
  Json line = {{"where", std::string(failure.where)}, {"position", failure.position}};
  if (!failure.id.empty()) line["id"] = std::string(failure.id);
  line["reason"] = std::string(failure.status.message());
  if (!failure.title.empty()) line["title"] = std::string(failure.title);
  if (!failure.text.empty()) line["text"] = std::string(failure.text);
  // Names and reasons may contain bytes that are not UTF-8, as the input did.
  const std::string bytes = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() || std::fflush(file_.get()) != 0)
    return Fail();
  return absl::OkStatus();
}

absl::Status RejectFile::Finish() {
  if (std::rename(partial_.c_str(), path_.c_str()) != 0 || std::fclose(file_.release()) != 0) return Fail();
  return absl::OkStatus();
}

}  // namespace kvlink::ingest
