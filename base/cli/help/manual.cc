#include "base/cli/help/manual.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/cli/exit_status.h"

namespace kvlink::cli {
namespace {

// Text in which roff finds nothing of its own, and whose characters are what they seem (a plain - is a hyphen).
std::string Roff(absl::string_view text) {
  std::string roff;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) roff += "\\&";
    line_begins = c == '\n';
    switch (c) {
      case '\\':
        roff += "\\e";
        break;
      case '-':
        roff += "\\-";
        break;
      case '\'':
        roff += "\\(aq";
        break;
      case '`':
        roff += "\\(ga";
        break;
      case '^':
        roff += "\\(ha";
        break;
      case '~':
        roff += "\\(ti";
        break;
      default:
        roff += c;
    }
  }
  return roff;
}

std::string Bold(absl::string_view text) { return absl::StrCat("\\fB", Roff(text), "\\fR"); }
std::string Italic(absl::string_view text) { return absl::StrCat("\\fI", Roff(text), "\\fR"); }

// Paragraphs, of which those whose lines begin with two spaces are kept as they are.
std::string Paragraphs(absl::string_view text) {
  std::string roff;
  for (const absl::string_view paragraph : absl::StrSplit(text, "\n\n")) {
    const absl::string_view lines = absl::StripTrailingAsciiWhitespace(paragraph);
    if (lines.empty()) continue;
    if (!absl::StartsWith(lines, "  ")) {
      absl::StrAppend(&roff, ".PP\n", Roff(lines), "\n");
      continue;
    }
    absl::StrAppend(&roff, ".PP\n.RS 4\n.nf\n");
    for (absl::string_view line : absl::StrSplit(lines, '\n')) {
      absl::ConsumePrefix(&line, "  ");
      absl::StrAppend(&roff, Roff(line), "\n");
    }
    absl::StrAppend(&roff, ".fi\n.RE\n");
  }
  return roff;
}

std::string Begin(absl::string_view name, absl::string_view summary) {
  return absl::StrCat(".TH \"", absl::AsciiStrToUpper(name), "\" \"1\" \"\" \"", BuildName(),
                      "\" \"KVLink\"\n.nh\n.ad l\n", ".SH NAME\n", Roff(name), " \\- ", Roff(summary), "\n");
}

// An item of a list: what it is about, and a text.
std::string Item(absl::string_view tag, absl::string_view text) { return absl::StrCat(".TP\n", tag, "\n", text, "\n"); }

std::string Options(const CommandHelp& help) {
  std::string roff = ".SH OPTIONS\n";
  for (const CommandHelp::Option& option : help.options) {
    std::string tag = Bold("--" + option.name);
    if (!option.placeholder.empty()) absl::StrAppend(&tag, " ", Italic(option.placeholder));
    std::string text = option.help;
    if (!option.default_text.empty()) absl::StrAppend(&text, " (default ", option.default_text, ")");
    absl::StrAppend(&roff, Item(tag, Roff(text)));
  }
  absl::StrAppend(&roff, Item(absl::StrCat(Bold("-h"), ", ", Bold("--help")), "Show the options."));
  if (!help.note.empty()) absl::StrAppend(&roff, ".PP\n", Roff(help.note), "\n");
  return roff;
}

std::string ExitStatuses() {
  std::string roff = ".SH EXIT STATUS\n";
  for (const ExitStatusMeaning& one : kExitStatuses) {
    absl::StrAppend(&roff, Item(Bold(absl::StrCat(static_cast<int>(one.status))), Roff(one.meaning)));
  }
  return roff;
}

std::string PageName(const ProgramHelp& program, const ProgramHelp::Entry& command) {
  return absl::StrCat(program.name, "-", command.name);
}

}  // namespace

Page ProgramPage(const ProgramHelp& program) {
  const absl::string_view introduction = program.introduction;
  std::string summary(introduction.substr(0, introduction.find_first_of(":\n")));
  if (!summary.empty()) summary[0] = absl::ascii_tolower(summary[0]);
  std::string text =
      absl::StrCat(Begin(program.name, summary), ".SH SYNOPSIS\n", Bold(program.name), " ", Italic("COMMAND"),
                   " [options]\n.SH DESCRIPTION\n", Paragraphs(introduction), ".SH COMMANDS\n");
  for (const ProgramHelp::Entry& command : program.commands) {
    absl::StrAppend(&text, Item(Bold(command.name), absl::StrCat(Roff(command.summary), "; see ",
                                                                 Roff(PageName(program, command)), "(1)")));
  }
  absl::StrAppend(&text, ".SH ENVIRONMENT\n", Paragraphs(program.closing), ExitStatuses());
  return {program.name, std::move(text)};
}

Page CommandPage(const ProgramHelp& program, const ProgramHelp::Entry& command) {
  const std::string name = PageName(program, command);
  const CommandHelp& help = command.help;
  const std::string operands = help.operands.empty() ? "" : absl::StrCat(" ", Italic(help.operands));
  return {name, absl::StrCat(Begin(name, command.summary), ".SH SYNOPSIS\n",
                             Bold(absl::StrCat(program.name, " ", command.name)), operands,
                             " [options]\n.SH DESCRIPTION\n", Paragraphs(help.summary), Options(help), ExitStatuses(),
                             ".SH SEE ALSO\n", Bold(program.name), "(1)\n")};
}

}  // namespace kvlink::cli
