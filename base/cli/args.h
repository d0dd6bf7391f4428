// Command-line parsing: a command's options, its help text, and the arguments it was given.
//
//   --name VALUE, --name=VALUE, --flag; -h and --help; "--" ends the options; "-" is an operand.
// In placeholders and operands, words in capitals stand for values, and words in lower case are values: "DIR|none".
// What FILE, PATH, DIR, DIRECTORY, INPUT and MODEL stand for is in the file system (help/completions.h). Unknown
// options and missing or malformed values return INVALID_ARGUMENT with a one-line message that suggests the nearest
// name, if any. Thread-safety: one thread at a time. Lifetime: bound variables must outlive Parse.
#ifndef KVLINK_BASE_CLI_ARGS_H_
#define KVLINK_BASE_CLI_ARGS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::cli {

// Returns the value of an environment variable, or "" if it is not set.
std::string Environment(const char* name);

// What --help tells of a command. Manual pages and completions are made from it, so that they tell the same.
struct CommandHelp {
  struct Option {
    std::string name;
    std::string placeholder;  // empty: a flag, which takes no value
    std::string help;
    std::string default_text;
    bool repeats = false;
  };
  std::string operands;  // as the usage line shows them
  std::string summary;   // paragraphs; those of lines that begin with two spaces are shown as they are
  std::vector<Option> options;
  std::string note;  // on the options; may be empty
};

// While it lives, --help hands a command's help over to `out` and prints nothing. One at a time.
class HelpInto {
 public:
  explicit HelpInto(CommandHelp* out);
  ~HelpInto();
  HelpInto(const HelpInto&) = delete;
  HelpInto& operator=(const HelpInto&) = delete;
};

class Arguments {
 public:
  // `operands`: as the usage line shows them, e.g. "INPUT...". `summary`: what the command does; wrapped at 100
  // columns. `program`: printed before the command; empty if the command is a program of its own.
  Arguments(absl::string_view command, absl::string_view operands, absl::string_view summary,
            absl::string_view program = "kvlink")
      : command_(program.empty() ? std::string(command) : absl::StrCat(program, " ", command)),
        operands_usage_(operands),
        summary_(summary) {}

  // The value a variable has when it is bound is the default, which the help shows; a value below the minimum is none.
  void Flag(absl::string_view name, absl::string_view help, bool* out);
  void Text(absl::string_view name, absl::string_view placeholder, absl::string_view help, std::string* out);
  // May be given several times; values keep their order.
  void Texts(absl::string_view name, absl::string_view placeholder, absl::string_view help,
             std::vector<std::string>* out);
  void Integer(absl::string_view name, absl::string_view placeholder, absl::string_view help, int64_t min, int64_t max,
               int64_t* out);
  void Number(absl::string_view name, absl::string_view placeholder, absl::string_view help, double* out);  // > 0
  void Real(absl::string_view name, absl::string_view placeholder, absl::string_view help, double min, double max,
            double* out);
  // A byte count with an optional unit: 512M, 64G (powers of 1024).
  void Bytes(absl::string_view name, absl::string_view help, int64_t* out);
  // --threads: at most as many as this process may use cores; 0: that many.
  void Threads(int64_t* out);
  // One of `choices`.
  void Choice(absl::string_view name, std::vector<std::string> choices, absl::string_view help, std::string* out);

  // Parses the arguments after the command's name. On OK, either help_wanted() is true and the help was printed to
  // standard output, or the variables and operands() are set.
  absl::Status Parse(absl::Span<char* const> args);
  bool help_wanted() const { return help_wanted_; }
  const std::vector<std::string>& operands() const { return operands_; }
  // Whether the option was given on the command line.
  bool given(absl::string_view name) const;
  CommandHelp Described() const;
  // The help text, wrapped at 100 columns (longer words overflow).
  std::string Help() const;

 private:
  struct Option : CommandHelp::Option {
    std::function<absl::Status(absl::string_view)> set;
    bool given = false;
  };
  void Add(absl::string_view name, absl::string_view placeholder, absl::string_view help, std::string default_text,
           std::function<absl::Status(absl::string_view)> set);
  absl::StatusOr<Option*> Find(absl::string_view name);

  const std::string command_;  // including the program
  const std::string operands_usage_;
  const std::string summary_;
  std::vector<Option> options_;
  std::vector<std::string> operands_;
  bool help_wanted_ = false;
};

// Returns the candidate nearest to `word`, or "" if none is close.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

// Parses "64G", "1.5M" or "123" into bytes.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
// Formats bytes as "1.5 MiB".
std::string FormatBytes(double bytes);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_ARGS_H_
