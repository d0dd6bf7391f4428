// Everything common to all commands: streams, signals, running out of memory, unwritable output.
#include "base/cli/program.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cli/args.h"
#include "base/cli/exit_status.h"
#include "base/cli/help/help_commands.h"
#include "base/cli/standard_streams.h"

namespace kvlink::cli {
namespace {

std::string Usage(const Program& program) {
  std::vector<std::pair<absl::string_view, absl::string_view>> commands;
  for (const Command& command : program.commands) commands.emplace_back(command.name, command.summary);
  for (const HelpCommand& command : kHelpCommands) commands.emplace_back(command.name, command.summary);
  size_t width = 0;
  for (const auto& command : commands) width = std::max(width, command.first.size());
  std::string text =
      absl::StrCat("Usage: ", program.name, " COMMAND [options]\n\n", program.introduction, "Commands:\n");
  for (const auto& [name, summary] : commands) {
    absl::StrAppend(&text, "  ", name, std::string(width + 2 - name.size(), ' '), summary, "\n");
  }
  absl::StrAppend(&text, "\nRun '", program.name, " COMMAND --help' for the options of a command.\n", program.closing);
  return text;
}

int Fail(absl::string_view where, const absl::Status& status) {
  std::fprintf(stderr, "%s\n", OneLine(where, status.message()).c_str());
  return ExitStatusOf(status);
}

// Our code throws nothing. Exceptions that the standard library throws when memory or threads run out end the process
// with a message, on any thread. Other exceptions are bugs and dump core.
[[noreturn]] void OnTerminate() {
  const char* what = nullptr;
  int status = kFailed;
  if (const std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      what = "kvlink: out of memory; lower --memory, use a smaller model, or raise the limit (ulimit -v)\n";
      status = kNoRoom;
    } catch (const std::system_error&) {
      what = "kvlink: cannot create more threads; lower --threads, or raise the limits (ulimit -u, ulimit -v)\n";
      status = kNoRoom;
    } catch (...) {
    }
  }
  if (what == nullptr) std::abort();
  if (write(STDERR_FILENO, what, std::char_traits<char>::length(what)) < 0) status = kFailed;
  _exit(status);
}

// Returns a command's exit status, from its result and whether its output could be written.
int Finish(absl::string_view where, const absl::Status& status) {
  const absl::Status output = FinishOutput();
  if (absl::IsCancelled(output)) return kFailed;  // the reader has gone, and knows
  if (!output.ok() && (status.ok() || absl::IsCancelled(status))) return Fail(where, output);
  return status.ok() ? kDone : Fail(where, status);
}

}  // namespace

absl::string_view BuildName() { return KVLINK_BUILD; }

int RunProgram(const Program& program, int argc, char** argv) {
  std::set_terminate(OnTerminate);
  // If a reader goes away (kvlink ... | head), the write fails instead of ending the process.
  std::signal(SIGPIPE, SIG_IGN);
  // Likewise for a file beyond RLIMIT_FSIZE.
  std::signal(SIGXFSZ, SIG_IGN);
  // gRPC's own log would only repeat the returned errors.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  const std::string name = argc > 1 ? argv[1] : "";
  if (name.empty()) {
    std::fputs(Usage(program).c_str(), stderr);
    return kUsage;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(Usage(program).c_str(), stdout);
    return Finish(program.name, absl::OkStatus());
  }
  if (name == "--version" || name == "version") {
    std::puts(KVLINK_BUILD);
    return Finish(program.name, absl::OkStatus());
  }
  const absl::Span<char* const> args = absl::MakeConstSpan(argv + 2, argc - 2);
  const std::string where = absl::StrCat(program.name, " ", name);
  std::vector<std::string> names;
  for (const Command& command : program.commands) {
    names.emplace_back(command.name);
    if (name == command.name) return Finish(where, command.run(args));
  }
  for (const HelpCommand& command : kHelpCommands) {
    names.emplace_back(command.name);
    if (name == command.name) return Finish(where, command.run(program, args));
  }
  const std::string nearest = Nearest(name, names);
  return Fail(program.name, absl::InvalidArgumentError(
                                absl::StrCat("unknown command '", name.substr(0, 100), "'; ",
                                             nearest.empty() ? "" : absl::StrCat("did you mean ", nearest, "? "),
                                             program.name, " --help lists the commands")));
}

}  // namespace kvlink::cli
