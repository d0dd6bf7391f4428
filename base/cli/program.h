// A program with several commands. Finds the named command, runs it, and turns its status into one line on standard
// error and an exit status.
// Thread-safety: call RunProgram once, from main.
#ifndef KVLINK_BASE_CLI_PROGRAM_H_
#define KVLINK_BASE_CLI_PROGRAM_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/cli/args.h"

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

// What --help tells of a program and of each of its commands.
struct ProgramHelp {
  struct Entry {
    std::string name;
    std::string summary;
    CommandHelp help;
  };
  std::string name, introduction, closing;
  std::vector<Entry> commands;
};

// Returns the exit status for main: ExitStatusOf the command's status, or kFailed if its output could not be written.
// Every program also has "completions" and "man" (help/help_commands.h), "help", which prints the usage, and "version".
int RunProgram(const Program& program, int argc, char** argv);

// "kvlink" and this build's version.
absl::string_view BuildName();

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_PROGRAM_H_
