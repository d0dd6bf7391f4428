#include "base/cli/args.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/thread.h"

namespace kvlink::cli {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

namespace {

std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::Utf8SafeCEscape(text.substr(0, 200)), "'");
}

// Levenshtein distance.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

CommandHelp* help_into = nullptr;

constexpr size_t kHelpColumns = 100;
constexpr char kBytes[] = "BYTES";

// Breaks text into lines of at most `columns`, indenting all except the first by `indent` spaces. A longer word gets a
// line of its own.
std::string Wrapped(absl::string_view text, size_t columns, size_t indent) {
  std::string wrapped;
  size_t used = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (used > 0 && used + 1 + word.size() > columns) {
      absl::StrAppend(&wrapped, "\n", std::string(indent, ' '));
      used = 0;
    }
    absl::StrAppend(&wrapped, used > 0 ? " " : "", word);
    used += (used > 0 ? 1 : 0) + word.size();
  }
  return wrapped;
}

}  // namespace

HelpInto::HelpInto(CommandHelp* out) { help_into = out; }
HelpInto::~HelpInto() { help_into = nullptr; }

std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates) {
  word = word.substr(0, 64);
  std::string best;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = Distance(word, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  absl::string_view digits = text;
  absl::ConsumeSuffix(&digits, "B") && absl::ConsumeSuffix(&digits, "i");
  double scale = 1;
  if (!digits.empty()) {
    const size_t unit = absl::string_view("KMGT").find(absl::ascii_toupper(digits.back()));
    if (unit != absl::string_view::npos) {
      scale = std::exp2(10.0 * static_cast<double>(unit + 1));
      digits.remove_suffix(1);
    }
  }
  double number = 0;
  const bool plain = !digits.empty() && absl::ascii_isdigit(digits[0]) && absl::ascii_isalnum(digits.back());
  if (!plain || !absl::SimpleAtod(digits, &number) || !(number * scale < 0x1p62)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not a number of bytes; write 512M or 64G"));
  }
  return static_cast<int64_t>(number * scale);
}

std::string FormatBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  if (unit == 0 || bytes == std::floor(bytes)) return absl::StrFormat("%.0f %s", bytes, kUnits[unit]);
  return absl::StrFormat("%.*f %s", bytes < 10 ? 2 : 1, bytes, kUnits[unit]);
}

void Arguments::Add(absl::string_view name, absl::string_view placeholder, absl::string_view help,
                    std::string default_text, std::function<absl::Status(absl::string_view)> set) {
  options_.push_back(
      {{std::string(name), std::string(placeholder), std::string(help), std::move(default_text)}, std::move(set)});
}

void Arguments::Flag(absl::string_view name, absl::string_view help, bool* out) {
  Add(name, "", help, "", [out](absl::string_view) {
    *out = true;
    return absl::OkStatus();
  });
}

void Arguments::Text(absl::string_view name, absl::string_view placeholder, absl::string_view help, std::string* out) {
  Add(name, placeholder, help, *out, [out](absl::string_view value) {
    *out = std::string(value);
    return absl::OkStatus();
  });
}

void Arguments::Texts(absl::string_view name, absl::string_view placeholder, absl::string_view help,
                      std::vector<std::string>* out) {
  Add(name, placeholder, help, "", [out](absl::string_view value) {
    out->push_back(std::string(value));
    return absl::OkStatus();
  });
  options_.back().repeats = true;
}

void Arguments::Integer(absl::string_view name, absl::string_view placeholder, absl::string_view help, int64_t min,
                        int64_t max, int64_t* out) {
  Add(name, placeholder, help, *out < min ? "" : absl::StrCat(*out), [=](absl::string_view value) -> absl::Status {
    int64_t number = 0;
    if (!absl::SimpleAtoi(value, &number) || number < min || number > max) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not an integer from ", min, " to ", max));
    }
    *out = number;
    return absl::OkStatus();
  });
}

void Arguments::Number(absl::string_view name, absl::string_view placeholder, absl::string_view help, double* out) {
  Add(name, placeholder, help, *out > 0 ? absl::StrCat(*out) : "", [out](absl::string_view value) -> absl::Status {
    double number = 0;
    if (!absl::SimpleAtod(value, &number) || !std::isfinite(number) || number <= 0) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not a number above 0"));
    }
    *out = number;
    return absl::OkStatus();
  });
}

void Arguments::Real(absl::string_view name, absl::string_view placeholder, absl::string_view help, double min,
                     double max, double* out) {
  Add(name, placeholder, help, absl::StrCat(*out), [=](absl::string_view value) -> absl::Status {
    double number = 0;
    if (!absl::SimpleAtod(value, &number) || !(number >= min && number <= max)) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not a number from ", min, " to ", max));
    }
    *out = number;
    return absl::OkStatus();
  });
}

void Arguments::Bytes(absl::string_view name, absl::string_view help, int64_t* out) {
  const std::string by_default = *out < 0 ? "" : FormatBytes(static_cast<double>(*out));
  Add(name, kBytes, help, by_default, [out](absl::string_view value) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(*out, ParseBytes(value));
    return absl::OkStatus();
  });
}

void Arguments::Threads(int64_t* out) {
  constexpr absl::string_view kHelp =
      "Number of threads, at most one for every core this process may use; 0: that many.";
  Add("threads", "N", kHelp, absl::StrCat(*out), [out](absl::string_view value) -> absl::Status {
    const int cores = AvailableProcessors();
    int64_t number = 0;
    if (!absl::SimpleAtoi(value, &number) || number < 0) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not an integer from 0 to ", cores));
    }
    if (number > cores) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(value), " is more than the ", cores, " cores this process may use; 0 uses them all"));
    }
    *out = number;
    return absl::OkStatus();
  });
}

void Arguments::Choice(absl::string_view name, std::vector<std::string> choices, absl::string_view help,
                       std::string* out) {
  const std::string placeholder = absl::StrJoin(choices, "|");
  Add(name, placeholder, help, *out, [choices, out](absl::string_view value) -> absl::Status {
    for (const std::string& choice : choices) {
      if (value != choice) continue;
      *out = choice;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not one of ", absl::StrJoin(choices, ", ")));
  });
}

absl::StatusOr<Arguments::Option*> Arguments::Find(absl::string_view name) {
  std::vector<std::string> names = {"help"};
  for (Option& option : options_) {
    if (option.name == name) return &option;
    names.push_back(option.name);
  }
  const std::string nearest = Nearest(name, names);
  return absl::InvalidArgumentError(absl::StrCat("unknown option ", Quoted(absl::StrCat("--", name)), "; ",
                                                 nearest.empty() ? "" : absl::StrCat("did you mean --", nearest, "? "),
                                                 command_, " --help lists the options"));
}

absl::Status Arguments::Parse(absl::Span<char* const> args) {
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (arg == "-h" || arg == "--help") {
      help_wanted_ = true;
      if (help_into != nullptr) {
        *help_into = Described();
      } else {
        std::fputs(Help().c_str(), stdout);
      }
      return absl::OkStatus();
    }
    if (arg == "--") {
      for (++i; i < args.size(); ++i) operands_.emplace_back(args[i]);
      break;
    }
    if (arg == "-" || arg.empty() || arg[0] != '-') {
      operands_.emplace_back(arg);
      continue;
    }
    if (!absl::ConsumePrefix(&arg, "--")) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown option ", Quoted(arg), "; options begin with --, see ", command_, " --help"));
    }
    const size_t equals = arg.find('=');
    KVLINK_ASSIGN_OR_RETURN(Option* const option, Find(arg.substr(0, equals)));
    absl::string_view value;
    if (equals != absl::string_view::npos) {
      if (option->placeholder.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("option --", option->name, " takes no value"));
      }
      value = arg.substr(equals + 1);
    } else if (!option->placeholder.empty()) {
      if (i + 1 == args.size()) {
        return absl::InvalidArgumentError(absl::StrCat("option --", option->name, " needs a value"));
      }
      value = args[++i];
    }
    KVLINK_RETURN_IF_ERROR(Annotate(option->set(value), absl::StrCat("option --", option->name)));
    option->given = true;
  }
  return absl::OkStatus();
}

bool Arguments::given(absl::string_view name) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const Option& option) { return option.given && option.name == name; });
}

CommandHelp Arguments::Described() const {
  CommandHelp help = {operands_usage_, summary_, {options_.begin(), options_.end()}, ""};
  const bool takes_bytes =
      std::any_of(options_.begin(), options_.end(), [](const Option& option) { return option.placeholder == kBytes; });
  if (takes_bytes) help.note = "BYTES may end in K, M, G or T, powers of 1024: 512M, 64G.";
  return help;
}

std::string Arguments::Help() const {
  std::string help = absl::StrCat("Usage: ", command_, operands_usage_.empty() ? "" : " ", operands_usage_,
                                  " [options]\n\n", summary_, "\n\nOptions:\n");
  std::vector<std::string> heads;
  size_t width = 0;
  for (const Option& option : options_) {
    heads.push_back(absl::StrCat("--", option.name, option.placeholder.empty() ? "" : " ", option.placeholder));
    width = std::max(width, heads.back().size());
  }
  width = std::min<size_t>(width, 28);
  for (size_t i = 0; i < options_.size(); ++i) {
    if (heads[i].size() > width) {
      absl::StrAppendFormat(&help, "  %s\n  %*s", heads[i], width, "");
    } else {
      absl::StrAppendFormat(&help, "  %-*s", width, heads[i]);
    }
    std::string text = options_[i].help;
    if (!options_[i].default_text.empty()) absl::StrAppend(&text, " (default ", options_[i].default_text, ")");
    const size_t indent = width + 4;
    absl::StrAppend(&help, "  ", Wrapped(text, kHelpColumns - indent, indent), "\n");
  }
  absl::StrAppendFormat(&help, "  %-*s  Show this help.\n", width, "-h, --help");
  if (const std::string note = Described().note; !note.empty()) absl::StrAppend(&help, "\n", note, "\n");
  return help;
}

}  // namespace kvlink::cli
