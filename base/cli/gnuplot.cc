// The script and the messages are files in memory and the picture is a file on disk, so that neither side can wait for
// the other over a full pipe.
#include "base/cli/gnuplot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/descriptor.h"
#include "base/status.h"

extern char** environ;

namespace kvlink::cli {
namespace {

constexpr size_t kMaxMessageBytes = 4096;

absl::StatusOr<Descriptor> InMemory(absl::string_view bytes) {
  Descriptor file(memfd_create("gnuplot", MFD_CLOEXEC));
  if (file.get() < 0) return absl::ErrnoToStatus(errno, "cannot create a file in memory");
  while (!bytes.empty()) {
    const ssize_t n = write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "cannot write to a file in memory");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  if (lseek(file.get(), 0, SEEK_SET) != 0) return absl::ErrnoToStatus(errno, "cannot read a file in memory");
  return file;
}

// The last line of what gnuplot said.
std::string LastLine(const Descriptor& file) {
  std::string text(kMaxMessageBytes, '\0');
  const off_t size = lseek(file.get(), 0, SEEK_END);
  const off_t begin = size > static_cast<off_t>(text.size()) ? size - static_cast<off_t>(text.size()) : 0;
  const ssize_t n = pread(file.get(), text.data(), text.size(), begin);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  return lines.empty() ? "no message" : std::string(absl::StripAsciiWhitespace(lines.back()));
}

// Runs gnuplot with these standard streams; its exit status.
absl::StatusOr<int> Run(std::vector<const char*> arguments, int input, int output, int errors) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, arguments[0], &actions, nullptr, const_cast<char* const*>(arguments.data()), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) {
    return absl::FailedPreconditionError("pictures are drawn by gnuplot, which is not installed; install gnuplot-nox");
  }
  if (error != 0) return absl::ErrnoToStatus(error, "gnuplot cannot be started");
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "cannot wait for gnuplot");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Removes a file that has not become the picture.
class Part {
 public:
  explicit Part(std::string path) : path_(std::move(path)) {}
  ~Part() { unlink(path_.c_str()); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  const char* path() const { return path_.c_str(); }

 private:
  const std::string path_;
};

}  // namespace

std::string GnuplotString(absl::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') quoted.push_back(c);
    quoted.push_back(absl::ascii_iscntrl(static_cast<unsigned char>(c)) ? ' ' : c);
  }
  return quoted + "'";
}

absl::Status FindGnuplot() {
  KVLINK_ASSIGN_OR_RETURN(const Descriptor nothing, InMemory(""));
  return Run({"gnuplot", "--version"}, nothing.get(), nothing.get(), nothing.get()).status();
}

absl::Status DrawPng(absl::string_view script, int width, int height, const std::string& path) {
  KVLINK_ASSIGN_OR_RETURN(const Descriptor input, InMemory(absl::StrCat("set terminal pngcairo noenhanced size ", width,
                                                                        ",", height, "\n", script)));
  KVLINK_ASSIGN_OR_RETURN(const Descriptor errors, InMemory(""));
  const Part part(path + ".part");
  const Descriptor output(open(part.path(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (output.get() < 0) return absl::ErrnoToStatus(errno, part.path());
  KVLINK_ASSIGN_OR_RETURN(const int status,
                          Run({"gnuplot", "--default-settings", "-"}, input.get(), output.get(), errors.get()));
  if (status != 0 || lseek(output.get(), 0, SEEK_END) <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("gnuplot failed with status ", status, ": ", LastLine(errors)));
  }
  if (std::rename(part.path(), path.c_str()) != 0) return absl::ErrnoToStatus(errno, path);
  return absl::OkStatus();
}

}  // namespace kvlink::cli
