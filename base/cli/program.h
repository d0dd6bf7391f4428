// A program with several commands. Finds the named command, runs it, and turns its status into one line on standard
// error and an exit status.
// Thread-safety: call RunProgram once, from main.
#ifndef KVLINK_BASE_CLI_PROGRAM_H_
#define KVLINK_BASE_CLI_PROGRAM_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::cli {

struct Command {
  const char* name;
  absl::Status (*run)(absl::Span<char* const> args);
  const char* summary;
};

struct Program {
  absl::string_view name;
  absl::string_view introduction;  // printed before the list of commands
  absl::Span<const Command> commands;
  absl::string_view closing;  // printed after it
};

// Returns the exit status for main: ExitStatusOf the command's status, or kFailed if its output could not be written.
// Prints the usage for "help" and the version for "version".
int RunProgram(const Program& program, int argc, char** argv);

// "kvlink" and this build's version.
absl::string_view BuildName();

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_PROGRAM_H_
