#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace kvlink::testing {

Subprocess::Subprocess(const std::vector<std::string>& arguments, const SubprocessOptions& options) {
  signal(SIGPIPE, SIG_IGN);  // a child may end before it has read its input
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) std::abort();
  output_ = memfd_create("output", MFD_CLOEXEC);
  errors_ = memfd_create("errors", MFD_CLOEXEC);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(pipe_ends[0], STDIN_FILENO);
    dup2(output_, STDOUT_FILENO);
    dup2(errors_, STDERR_FILENO);
    signal(SIGPIPE, SIG_DFL);
    for (const std::string& variable : options.environment) putenv(const_cast<char*>(variable.c_str()));
    if (options.file_size_limit > 0) {
      const rlimit limit{static_cast<rlim_t>(options.file_size_limit), static_cast<rlim_t>(options.file_size_limit)};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (options.descriptor_limit > 0) {
      rlimit limit{};
      getrlimit(RLIMIT_NOFILE, &limit);
      limit.rlim_cur = static_cast<rlim_t>(options.descriptor_limit);
      if (options.descriptor_limit_is_hard) limit.rlim_max = limit.rlim_cur;
      setrlimit(RLIMIT_NOFILE, &limit);
    }
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(pipe_ends[0]);
  input_ = pipe_ends[1];
  for (size_t done = 0; done < options.input.size();) {
    const ssize_t n = write(input_, options.input.data() + done, options.input.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  if (!options.keep_input_open) CloseInput();
}

Subprocess::~Subprocess() {
  Kill();
  Wait();
  CloseInput();
  close(output_);
  close(errors_);
}

void Subprocess::CloseInput() {
  if (input_ >= 0) close(input_);
  input_ = -1;
}

void Subprocess::Kill() {
  if (running()) kill(pid_, SIGKILL);
}

void Subprocess::Signal(int signal) {
  if (running()) kill(pid_, signal);
}

int Subprocess::Wait() {
  if (pid_ > 0) {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    pid_ = -1;
  }
  return status_;
}

bool Subprocess::running() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) return true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return false;
}

std::string Subprocess::Contents(int descriptor) const {
  struct stat info {};
  fstat(descriptor, &info);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  const ssize_t n = pread(descriptor, text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return text;
}

std::string Subprocess::output() const { return Contents(output_); }
std::string Subprocess::errors() const { return Contents(errors_); }

Finished RunToEnd(const std::vector<std::string>& arguments, const SubprocessOptions& options) {
  Subprocess process(arguments, options);
  Finished finished;
  finished.status = process.Wait();
  finished.output = process.output();
  finished.errors = process.errors();
  return finished;
}

int64_t ResidentBytes(pid_t process) {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/" + std::to_string(process) + "/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t OpenDescriptors(pid_t process) {
  std::error_code ignored;
  const std::filesystem::directory_iterator opened("/proc/" + std::to_string(process) + "/fd", ignored);
  return std::distance(begin(opened), end(opened));
}

double ProcessorSeconds(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string word;
  std::getline(file, word, ')');  // the program's name may contain spaces
  for (int field = 3; field < 14; ++field) file >> word;
  int64_t user = 0, system = 0;
  file >> user >> system;
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace kvlink::testing
