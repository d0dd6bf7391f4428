// Command lines: options of a command, their help, and what was typed.
//
//   --name VALUE, --name=VALUE, --flag; -h and --help; "--" ends the options; "-" is an operand.
// Unknown options, missing and malformed values are INVALID_ARGUMENT in one line, with the nearest name where there is
// one. Thread-safety: one thread at a time. Lifetime: the variables bound must outlive Parse.
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

// The value of an environment variable; empty: it is not set.
std::string Environment(const char* name);

class Arguments {
 public:
  // `operands` as the usage line shows them: "INPUT...". `summary`: what the command does, wrapped at 100 columns.
  // `program` in front of the command; empty where the command is a program of its own.
  Arguments(absl::string_view command, absl::string_view operands, absl::string_view summary,
            absl::string_view program = "kvlink")
      : command_(program.empty() ? std::string(command) : absl::StrCat(program, " ", command)),
        operands_usage_(operands),
        summary_(summary) {}

  // The variable's value when it is bound is the default, shown in the help.
  void Flag(absl::string_view name, absl::string_view help, bool* out);
  void Text(absl::string_view name, absl::string_view placeholder, absl::string_view help, std::string* out);
  // May be given several times; keeps the order.
  void Texts(absl::string_view name, absl::string_view placeholder, absl::string_view help,
             std::vector<std::string>* out);
  void Integer(absl::string_view name, absl::string_view placeholder, absl::string_view help, int64_t min, int64_t max,
               int64_t* out);
  void Number(absl::string_view name, absl::string_view placeholder, absl::string_view help, double* out);  // > 0
  void Real(absl::string_view name, absl::string_view placeholder, absl::string_view help, double min, double max,
            double* out);
  // Bytes with a unit: 512M, 64G (powers of 1024).
  void Bytes(absl::string_view name, absl::string_view help, int64_t* out);
  // One of `choices`.
  void Choice(absl::string_view name, std::vector<std::string> choices, absl::string_view help, std::string* out);

  // Arguments after the command's name. After OK: either help_wanted() and the help was printed to standard output, or
  // the variables and operands() are set.
  absl::Status Parse(absl::Span<char* const> args);
  bool help_wanted() const { return help_wanted_; }
  const std::vector<std::string>& operands() const { return operands_; }
  // Whether the option was on the command line.
  bool given(absl::string_view name) const;
  // At most 100 columns, except for words that are longer.
  std::string Help() const;

 private:
  struct Option {
    std::string name;
    std::string placeholder;  // empty: a flag without value
    std::string help;
    std::string default_text;
    std::function<absl::Status(absl::string_view)> set;
    bool given = false;
  };
  void Add(absl::string_view name, absl::string_view placeholder, absl::string_view help, std::string default_text,
           std::function<absl::Status(absl::string_view)> set);
  absl::StatusOr<Option*> Find(absl::string_view name);

  const std::string command_;  // with its program
  const std::string operands_usage_;
  const std::string summary_;
  std::vector<Option> options_;
  std::vector<std::string> operands_;
  bool help_wanted_ = false;
};

// The candidate nearest to `word`, or empty if none is near.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

// "64G", "1.5M" or "123" to bytes.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
// "1.5 MiB".
std::string FormatBytes(double bytes);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_ARGS_H_
