#include "base/cli/program.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/cli/args.h"

namespace kvlink::cli {
namespace {

std::string Usage(const Program& program) {
  std::string text =
      absl::StrCat("Usage: ", program.name, " COMMAND [options]\n\n", program.introduction, "Commands:\n");
  for (const Command& command : program.commands) {
    absl::StrAppend(&text, "  ", command.name, std::string(10 - std::string(command.name).size(), ' '), command.summary,
                    "\n");
  }
  absl::StrAppend(&text, "\n", program.name, " COMMAND --help shows the options of a command.\n", program.closing);
  return text;
}

int Fail(absl::string_view where, absl::string_view message) {
  const std::string line = absl::StrReplaceAll(message, {{"\n", " "}, {"\r", " "}});
  std::fprintf(stderr, "%s: %s\n", std::string(where).c_str(), line.c_str());
  return 1;
}

}  // namespace

absl::string_view BuildName() { return KVLINK_BUILD; }

int RunProgram(const Program& program, int argc, char** argv) {
  // A reader that goes away (kvlink ... | head) is an error of a write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  // A file beyond RLIMIT_FSIZE likewise.
  std::signal(SIGXFSZ, SIG_IGN);
  // What gRPC would say beside an error is in the error.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  const std::string name = argc > 1 ? argv[1] : "";
  if (name.empty()) {
    std::fputs(Usage(program).c_str(), stderr);
    return 1;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(Usage(program).c_str(), stdout);
    return 0;
  }
  if (name == "--version") {
    std::puts(KVLINK_BUILD);
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : program.commands) {
    names.emplace_back(command.name);
    if (name != command.name) continue;
    const absl::Status status = command.run(absl::MakeConstSpan(argv + 2, argc - 2));
    std::fflush(stdout);
    return status.ok() ? 0 : Fail(absl::StrCat(program.name, " ", name), status.message());
  }
  const std::string nearest = Nearest(name, names);
  return Fail(program.name, absl::StrCat("unknown command '", absl::Utf8SafeCEscape(name.substr(0, 100)), "'; ",
                                         nearest.empty() ? "" : absl::StrCat("did you mean ", nearest, "? "),
                                         program.name, " --help lists them"));
}

}  // namespace kvlink::cli
