// One function per shell. All that is quoted is put into single quotes, in which no shell expands anything.
#include "base/cli/help/completions.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvlink::cli {
namespace {

// What may follow an option, or be an operand.
struct Values {
  std::vector<std::string> words;
  bool files = false;

  std::string list() const { return absl::StrJoin(words, " "); }
};

bool IsWord(absl::string_view text) {
  return !text.empty() && absl::ascii_islower(text[0]) && std::none_of(text.begin(), text.end(), absl::ascii_isupper);
}

Values ValuesOf(const ProgramHelp& program, absl::string_view usage) {
  Values values;
  for (const absl::string_view alternative : absl::StrSplit(usage, '|')) {
    // "[list ", " weight NODE N ", "check [FILE]": the first word is the value.
    const std::vector<absl::string_view> words = absl::StrSplit(alternative, absl::ByAnyChar("[] "), absl::SkipEmpty());
    if (!words.empty() && IsWord(words[0])) values.words.emplace_back(words[0]);
  }
  for (const absl::string_view name : absl::StrSplit(usage, absl::ByAnyChar("[]|:=./, "), absl::SkipEmpty())) {
    for (const absl::string_view file : {"FILE", "PATH", "DIR", "DIRECTORY", "INPUT", "MODEL"}) {
      values.files = values.files || name == file;
    }
    if (name != "COMMAND") continue;
    for (const ProgramHelp::Entry& command : program.commands) values.words.push_back(command.name);
  }
  return values;
}

// The first words of a help, up to where it explains them.
std::string Gist(absl::string_view help) {
  size_t end = help.size();
  for (const absl::string_view mark : {". ", "; ", ": "}) end = std::min(end, help.find(mark));
  help = help.substr(0, end);
  return std::string(absl::StripSuffix(help, "."));
}

std::string OptionNames(const CommandHelp& help) {
  std::vector<std::string> names;
  for (const CommandHelp::Option& option : help.options) names.push_back("--" + option.name);
  names.push_back("--help");
  return absl::StrJoin(names, " ");
}

std::string CommandNames(const ProgramHelp& program) {
  return absl::StrJoin(program.commands, " ",
                       [](std::string* out, const ProgramHelp::Entry& command) { out->append(command.name); });
}

std::string FunctionName(const ProgramHelp& program) {
  return absl::StrCat("_", absl::StrReplaceAll(program.name, {{"-", "_"}}));
}

// Bash.

// The branches for one command: its options that take values, then everything else.
std::string BashCommand(const ProgramHelp& program, const ProgramHelp::Entry& command) {
  std::string script;
  const auto branch = [&](absl::string_view key, absl::string_view what) {
    absl::StrAppend(&script, "    '", command.name, " ", key, "') ", what, " ;;\n");
  };
  for (const CommandHelp::Option& option : command.help.options) {
    if (option.placeholder.empty()) continue;
    const Values values = ValuesOf(program, option.placeholder);
    branch("--" + option.name, absl::StrCat("words='", values.list(), "'", values.files ? " files=1" : ""));
  }
  const Values operands = ValuesOf(program, command.help.operands);
  absl::StrAppend(&script, "    '", command.name, " '*)\n      if [[ $cur == -* ]]; then words='",
                  OptionNames(command.help), "'\n      else ");
  if (!operands.words.empty()) absl::StrAppend(&script, "((i == 2)) && words='", operands.list(), "'; ");
  absl::StrAppend(&script, operands.files ? "files=1" : ":", "; fi ;;\n");
  return script;
}

// Zsh.

std::string ZshQuoted(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "'\\''"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}});
}

std::string ZshAction(const Values& values) {
  if (values.words.empty()) return values.files ? "_files" : " ";
  if (!values.files) return absl::StrCat("(", values.list(), ")");
  return absl::StrCat("{ compadd -- ", values.list(), "; _files }");
}

std::string ZshCommand(const ProgramHelp& program, const ProgramHelp::Entry& command) {
  std::string script = absl::StrCat("  ", command.name, ")\n    _arguments -S \\\n");
  for (const CommandHelp::Option& option : command.help.options) {
    absl::StrAppend(&script, "      '", option.repeats ? "*" : "", "--", option.name,
                    option.placeholder.empty() ? "" : "=", "[", ZshQuoted(Gist(option.help)), "]");
    if (!option.placeholder.empty()) {
      absl::StrAppend(&script, ":", ZshQuoted(option.placeholder), ":",
                      ZshAction(ValuesOf(program, option.placeholder)));
    }
    absl::StrAppend(&script, "' \\\n");
  }
  const Values operands = ValuesOf(program, command.help.operands);
  if (!operands.words.empty()) absl::StrAppend(&script, "      '1: :(", operands.list(), ")' \\\n");
  if (operands.files) absl::StrAppend(&script, "      '*: :_files' \\\n");
  absl::StrAppend(&script, "      '(- *)--help[show the options]'\n    ;;\n");
  return script;
}

// Fish.

std::string FishQuoted(absl::string_view text) { return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}); }

std::string FishCommand(const ProgramHelp& program, const ProgramHelp::Entry& command) {
  std::string script;
  const auto complete = [&](absl::string_view condition, absl::string_view what) {
    absl::StrAppend(&script, "complete -c ", program.name, " -n '_", FunctionName(program), "_at ", condition, "' ",
                    what, "\n");
  };
  for (const CommandHelp::Option& option : command.help.options) {
    std::string value;
    if (!option.placeholder.empty()) {
      const Values values = ValuesOf(program, option.placeholder);
      value = values.files ? " -r -F" : " -x";
      if (!values.words.empty()) absl::StrAppend(&value, " -a '", values.list(), "'");
    }
    complete(command.name, absl::StrCat("-l ", option.name, value, " -d '", FishQuoted(Gist(option.help)), "'"));
  }
  complete(command.name, "-l help -d 'show the options'");
  const Values operands = ValuesOf(program, command.help.operands);
  if (!operands.words.empty()) complete(absl::StrCat(command.name, " 2"), absl::StrCat("-a '", operands.list(), "'"));
  if (operands.files) complete(command.name, "-F");
  return script;
}

}  // namespace

std::string BashCompletions(const ProgramHelp& program) {
  const std::string function = FunctionName(program);
  std::string script = absl::StrCat("# Completes ", program.name, " in bash; printed by ", program.name,
                                    " completions bash.\n", function, "() {\n",
                                    R"(  local cur=${COMP_WORDS[COMP_CWORD]} i=$COMP_CWORD key= words= files=
  # Bash splits words at = and :, which --name=value and NAME:FILE contain; i is where the whole word begins.
  [[ $cur == [=:]* ]] && cur=
  while ((i > 1)) && [[ ${COMP_WORDS[i]} == [=:]* || ${COMP_WORDS[i - 1]} == [=:]* ]]; do ((i--)); done
  if ((i == 1)); then
    words=')",
                                    CommandNames(program), R"('
  else
    key=${COMP_WORDS[i]}
    ((i < COMP_CWORD)) && [[ $key == --* ]] || key=${COMP_WORDS[i - 1]}
    case "${COMP_WORDS[1]} $key" in
)");
  for (const ProgramHelp::Entry& command : program.commands) absl::StrAppend(&script, BashCommand(program, command));
  absl::StrAppend(&script, R"(    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur"; [[ $files ]] && compgen -f -- "$cur")
  [[ $files ]] && compopt -o filenames 2>/dev/null
  return 0
}
complete -F )",
                  function, " ", program.name, "\n");
  return script;
}

std::string ZshCompletions(const ProgramHelp& program) {
  const std::string function = FunctionName(program);
  std::string script = absl::StrCat("#compdef ", program.name, "\n# Completes ", program.name, " in zsh; printed by ",
                                    program.name, " completions zsh.\n", function, "() {\n  local -a commands=(\n");
  for (const ProgramHelp::Entry& command : program.commands) {
    absl::StrAppend(&script, "    '", command.name, ":", ZshQuoted(command.summary), "'\n");
  }
  absl::StrAppend(&script, R"(  )
  if (( CURRENT == 2 )); then
    _describe -t commands command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
)");
  for (const ProgramHelp::Entry& command : program.commands) absl::StrAppend(&script, ZshCommand(program, command));
  // From a file that zsh loads by itself, the file is the function; otherwise it is sourced.
  absl::StrAppend(&script, "  esac\n}\nif [[ $funcstack[1] == ", function, " ]]; then\n  ", function,
                  " \"$@\"\nelse\n  compdef ", function, " ", program.name, "\nfi\n");
  return script;
}

std::string FishCompletions(const ProgramHelp& program) {
  const std::string at = absl::StrCat("_", FunctionName(program), "_at");
  std::string script =
      absl::StrCat("# Completes ", program.name, " in fish; printed by ", program.name,
                   " completions fish.\n# Whether the command is $argv[1], and if given $argv[2] words precede the one "
                   "that is typed.\nfunction ",
                   at, R"(
    set -l before (commandline -opc)
    test (count $before) -gt 1; and test $before[2] = $argv[1]; or return 1
    test (count $argv) -eq 1; or test (count $before) -eq $argv[2]
end
function )",
                   at, R"(_start
    test (count (commandline -opc)) -eq 1
end
)",
                   "complete -c ", program.name, " -f\n");
  for (const ProgramHelp::Entry& command : program.commands) {
    absl::StrAppend(&script, "complete -c ", program.name, " -n '", at, "_start' -a ", command.name, " -d '",
                    FishQuoted(command.summary), "'\n");
  }
  for (const ProgramHelp::Entry& command : program.commands) absl::StrAppend(&script, FishCommand(program, command));
  return script;
}

}  // namespace kvlink::cli
