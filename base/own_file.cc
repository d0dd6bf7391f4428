#include "base/own_file.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace kvlink {

absl::StatusOr<OwnFile> OpenOwnFile(const std::string& path, absl::string_view busy) {
  const auto failed = [&path] { return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written")); };
  for (int attempt = 0; attempt < 100; ++attempt) {
    OwnFile file(std::fopen(path.c_str(), "ae"));
    if (file == nullptr) return failed();
    const int fd = fileno(file.get());
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": ", busy));
    }
    struct stat opened, named;
    if (fstat(fd, &opened) != 0) return failed();
    // Whoever had the lock may have renamed the file before letting go of it.
    if (stat(path.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev) continue;
    if (S_ISREG(opened.st_mode) && ftruncate(fd, 0) != 0) return failed();
    return file;
  }
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written: it is replaced again and again"));
}

}  // namespace kvlink
