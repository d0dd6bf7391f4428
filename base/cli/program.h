// A program of several commands: finds the one that was named, runs it, and turns its status into a line on standard
// error and an exit status.
// Thread-safety: RunProgram once, from main.
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
  absl::string_view introduction;  // before the list of commands in the usage
  absl::Span<const Command> commands;
  absl::string_view closing;  // after it
};

// The exit status of main: ExitStatusOf what the command returned, or kFailed where its output could not be written.
// Prints usage for "help", and the version for "version".
int RunProgram(const Program& program, int argc, char** argv);

// "kvlink" and the version of this build.
absl::string_view BuildName();

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_PROGRAM_H_
