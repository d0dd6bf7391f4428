// kvlink: documents encoded once, answers from their encodings.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "worker/cli/args.h"
#include "worker/cli/commands.h"

namespace kvlink::cli {
namespace {

struct Command {
  const char* name;
  absl::Status (*run)(absl::Span<char* const> args);
  const char* summary;
};

constexpr Command kCommands[] = {
    {"ingest", RunIngest, "encode documents and keep the encodings in a store"},
    {"ask", RunAsk, "answer a question from stored documents"},
    {"inspect", RunInspect, "show what a store, a document or a model consists of"},
    {"plan", RunPlan, "tell what the encodings of a corpus weigh, and when loading them pays"},
    {"verify", RunVerify, "read a store back and check every byte of it"},
    {"store", RunStore, "serve a store to other processes and hosts"},
    {"status", RunStatus, "show a node: tiers, namespaces, traffic"},
    {"namespace", RunNamespace, "set how much of a node a namespace may take"},
    {"drain", RunDrain, "let a node finish what is under way, and stop it"},
};

std::string Usage() {
  std::string text =
      "Usage: kvlink COMMAND [options]\n\n"
      "Encodes documents once and answers questions from their encodings, without reading the documents again:\n\n"
      "  kvlink ingest documents.jsonl\n"
      "  kvlink ask --doc moon --doc mars \"Which of them is larger?\"\n\n"
      "Processes and hosts share a store that one of them serves:\n\n"
      "  kvlink store --listen 127.0.0.1:7400 &\n"
      "  kvlink ingest --store 127.0.0.1:7400 documents.jsonl\n\nCommands:\n";
  for (const Command& command : kCommands) {
    absl::StrAppend(&text, "  ", command.name, std::string(10 - std::string(command.name).size(), ' '), command.summary,
                    "\n");
  }
  absl::StrAppend(&text,
                  "\nkvlink COMMAND --help shows the options of a command.\n"
                  "KVLINK_MODEL and KVLINK_STORE name the model and the store where no option does.\n");
  return text;
}

int Fail(absl::string_view where, absl::string_view message) {
  const std::string line = absl::StrReplaceAll(message, {{"\n", " "}, {"\r", " "}});
  std::fprintf(stderr, "%s: %s\n", std::string(where).c_str(), line.c_str());
  return 1;
}

int Main(int argc, char** argv) {
  // A reader that goes away (kvlink ... | head) is an error of a write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  // A file beyond RLIMIT_FSIZE likewise.
  std::signal(SIGXFSZ, SIG_IGN);
  // What gRPC would say beside an error is in the error.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  const std::string name = argc > 1 ? argv[1] : "";
  if (name.empty()) {
    std::fputs(Usage().c_str(), stderr);
    return 1;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(Usage().c_str(), stdout);
    return 0;
  }
  if (name == "--version") {
    std::puts(KVLINK_BUILD);
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    names.emplace_back(command.name);
    if (name != command.name) continue;
    const absl::Status status = command.run(absl::MakeConstSpan(argv + 2, argc - 2));
    std::fflush(stdout);
    return status.ok() ? 0 : Fail(absl::StrCat("kvlink ", name), status.message());
  }
  const std::string nearest = Nearest(name, names);
  return Fail("kvlink", absl::StrCat("unknown command '", absl::Utf8SafeCEscape(name.substr(0, 100)), "'; ",
                                     nearest.empty() ? "" : absl::StrCat("did you mean ", nearest, "? "),
                                     "kvlink --help lists them"));
}

}  // namespace
}  // namespace kvlink::cli

int main(int argc, char** argv) { return kvlink::cli::Main(argc, argv); }
