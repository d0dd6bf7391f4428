// The commands that every program has: they print its help in other forms.
// Thread-safety: call from main, before other threads start.
#ifndef KVLINK_BASE_CLI_HELP_HELP_COMMANDS_H_
#define KVLINK_BASE_CLI_HELP_HELP_COMMANDS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/cli/program.h"

namespace kvlink::cli {

struct HelpCommand {
  const char* name;
  absl::Status (*run)(const Program& program, absl::Span<char* const> args);
  const char* summary;
};

absl::Status RunCompletions(const Program& program, absl::Span<char* const> args);
absl::Status RunMan(const Program& program, absl::Span<char* const> args);

inline constexpr HelpCommand kHelpCommands[] = {
    {"completions", RunCompletions, "print a script that completes commands, options and values in a shell"},
    {"man", RunMan, "print the manual page of the program or of a command"},
};

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_HELP_HELP_COMMANDS_H_
