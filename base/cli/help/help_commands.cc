// Each command is run with --help, so that nobody has to list options twice.
#include "base/cli/help/help_commands.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/cli/args.h"
#include "base/cli/help/completions.h"
#include "base/cli/help/manual.h"
#include "base/status.h"

namespace kvlink::cli {
namespace {

absl::Status AddHelp(absl::string_view name, absl::string_view summary, ProgramHelp* all,
                     const std::function<absl::Status(absl::Span<char* const>)>& run) {
  ProgramHelp::Entry entry{std::string(name), std::string(summary), {}};
  std::string option = "--help";
  char* const words[] = {option.data()};
  const HelpInto into(&entry.help);
  KVLINK_RETURN_IF_ERROR(run(words));
  all->commands.push_back(std::move(entry));
  return absl::OkStatus();
}

// What each command tells, those of this file included.
absl::StatusOr<ProgramHelp> HelpOf(const Program& program) {
  ProgramHelp all{std::string(program.name), std::string(program.introduction), std::string(program.closing), {}};
  for (const Command& command : program.commands) {
    KVLINK_RETURN_IF_ERROR(AddHelp(command.name, command.summary, &all, command.run));
  }
  for (const HelpCommand& command : kHelpCommands) {
    KVLINK_RETURN_IF_ERROR(AddHelp(command.name, command.summary, &all,
                                   [&](absl::Span<char* const> args) { return command.run(program, args); }));
  }
  return all;
}

// A page is read by every user, so it tells the defaults of one who has set nothing.
void ForgetEnvironment() {
  std::vector<std::string> names = {"XDG_DATA_HOME"};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const absl::string_view text = *variable;
    if (absl::StartsWith(text, "KVLINK_")) names.emplace_back(text.substr(0, text.find('=')));
  }
  for (const std::string& name : names) unsetenv(name.c_str());
  setenv("HOME", "~", 1);
}

absl::Status WritePage(const std::string& directory, const Page& page) {
  const std::string path = absl::StrCat(directory, "/", page.name, ".1");
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << page.text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

absl::Status WritePages(const ProgramHelp& help, const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("option --directory ", directory, ": ", error.message()));
  KVLINK_RETURN_IF_ERROR(WritePage(directory, ProgramPage(help)));
  for (const ProgramHelp::Entry& command : help.commands) {
    KVLINK_RETURN_IF_ERROR(WritePage(directory, CommandPage(help, command)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunCompletions(const Program& program, absl::Span<char* const> args) {
  Arguments arguments(
      "completions", "bash|zsh|fish",
      absl::StrCat("Prints a script for the shell, which then completes the commands of ", program.name,
                   ", their options,\nthe values of options that have a few, and the names of files.\n\n"
                   "  source <(",
                   program.name, " completions bash)      in ~/.bashrc\n  source <(", program.name,
                   " completions zsh)       in ~/.zshrc, after compinit\n  ", program.name,
                   " completions fish | source     in ~/.config/fish/config.fish"),
      program.name);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::string shell = arguments.operands().size() == 1 ? arguments.operands()[0] : "";
  const bool known = shell == "bash" || shell == "zsh" || shell == "fish";
  if (!known) return absl::InvalidArgumentError("expected one shell: bash, zsh or fish");
  KVLINK_ASSIGN_OR_RETURN(const ProgramHelp help, HelpOf(program));
  const std::string script = shell == "bash"  ? BashCompletions(help)
                             : shell == "zsh" ? ZshCompletions(help)
                                              : FishCompletions(help);
  std::fputs(script.c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunMan(const Program& program, absl::Span<char* const> args) {
  std::string directory;
  Arguments arguments(
      "man", "[COMMAND]",
      absl::StrCat("Prints the manual page of a command, or of ", program.name,
                   " itself: what --help tells, in roff. To read\nit: ", program.name, " man COMMAND | man -l -"),
      program.name);
  arguments.Text("directory", "DIR", "Write the pages of the program and of all commands to files there.", &directory);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::vector<std::string>& operands = arguments.operands();
  if (operands.size() > 1) return absl::InvalidArgumentError("too many operands; give one COMMAND");
  if (!directory.empty() && !operands.empty()) {
    return absl::InvalidArgumentError("--directory writes the pages of all commands; give no COMMAND");
  }
  ForgetEnvironment();
  KVLINK_ASSIGN_OR_RETURN(const ProgramHelp help, HelpOf(program));
  if (!directory.empty()) return WritePages(help, directory);
  if (operands.empty()) {
    std::fputs(ProgramPage(help).text.c_str(), stdout);
    return absl::OkStatus();
  }
  for (const ProgramHelp::Entry& command : help.commands) {
    if (command.name != operands[0]) continue;
    std::fputs(CommandPage(help, command).text.c_str(), stdout);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no command '", operands[0].substr(0, 100), "'; ",
                                                 program.name, " --help lists the commands"));
}

}  // namespace kvlink::cli
