// Scripts by which a shell completes the commands of a program, their options and values, made from what --help tells.
// Placeholders and operands say what is completed: words in lower case, names of commands for COMMAND, and files for
// FILE, PATH, DIR, DIRECTORY, INPUT and MODEL.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_CLI_HELP_COMPLETIONS_H_
#define KVLINK_BASE_CLI_HELP_COMPLETIONS_H_

#include <string>

#include "base/cli/program.h"

namespace kvlink::cli {

std::string BashCompletions(const ProgramHelp& program);
std::string ZshCompletions(const ProgramHelp& program);
std::string FishCompletions(const ProgramHelp& program);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_HELP_COMPLETIONS_H_
