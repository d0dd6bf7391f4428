// Runs a program until it ends, or starts it and lets the test kill it.
// Thread-safety: one thread at a time for each object.
#ifndef KVLINK_TESTS_SUPPORT_SUBPROCESS_H_
#define KVLINK_TESTS_SUPPORT_SUBPROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace kvlink::testing {

struct SubprocessOptions {
  std::string input;                      // for its standard input
  bool keep_input_open = false;           // after `input`, until CloseInput
  int64_t file_size_limit = 0;            // RLIMIT_FSIZE; 0: none
  int64_t descriptor_limit = 0;           // soft RLIMIT_NOFILE; 0: this process's
  bool descriptor_limit_is_hard = false;  // the process cannot raise it
  std::vector<std::string> environment;   // "NAME=value", added to this process's
};

class Subprocess {
 public:
  // Starts `arguments[0]`. Its output goes to temporary files, so that it never blocks on a pipe.
  Subprocess(const std::vector<std::string>& arguments, const SubprocessOptions& options = {});
  // Kills it if it still runs.
  ~Subprocess();
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  void CloseInput();
  void Kill();              // kill -9
  void Signal(int signal);  // SIGSTOP, SIGCONT
  // Exit status, or 128 + the signal that ended it.
  int Wait();
  bool running();
  // Negative once it has ended and this was noticed.
  pid_t pid() const { return pid_; }
  // Its output so far.
  std::string output() const;
  std::string errors() const;

 private:
  std::string Contents(int descriptor) const;
  pid_t pid_ = -1;
  int status_ = -1;
  int input_ = -1;
  int output_ = -1;
  int errors_ = -1;
};

struct Finished {
  int status = 0;
  std::string output;
  std::string errors;
};
Finished RunToEnd(const std::vector<std::string>& arguments, const SubprocessOptions& options = {});

// For a process of this user; 0 if there is none.
int64_t ResidentBytes(pid_t process);
int64_t OpenDescriptors(pid_t process);
double ProcessorSeconds(pid_t process);  // used so far

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_SUBPROCESS_H_
