// Opens a file without blocking, so that a pipe is refused and never read, and checks it through its descriptor, so
// that what is read is what was checked.
#include "store/cli/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/descriptor.h"

namespace kvlink::cli {

absl::StatusOr<std::string> ReadSecretFile(const std::string& path, size_t min_bytes, size_t max_bytes) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info = {};
  if (file.get() < 0 || fstat(file.get(), &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": others may read or write it; use chmod o-rw on it"));
  }
  std::string secret(max_bytes + 2, '\0');  // a newline, and one byte that shows there is more
  size_t size = 0;
  while (size < secret.size()) {
    const ssize_t n = read(file.get(), secret.data() + size, secret.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  secret.resize(size);
  if (!secret.empty() && secret.back() == '\n') secret.pop_back();
  if (secret.size() >= min_bytes && secret.size() <= max_bytes) return secret;
  return absl::InvalidArgumentError(absl::StrCat(path, ": a secret has ", min_bytes, " to ", max_bytes,
                                                 " bytes, this one has ",
                                                 secret.size() > max_bytes ? "more" : "fewer"));
}

}  // namespace kvlink::cli
