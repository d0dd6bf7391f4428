// A range has its own option instead of being part of --doc, because any character that could separate the two may
// occur in an id.
#include "worker/cli/document_parts.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvlink::cli {
namespace {

bool ParsePart(absl::string_view text, int64_t* out) {
  return !text.empty() && text.size() <= 9 && text.find_first_not_of("0123456789") == absl::string_view::npos &&
         absl::SimpleAtoi(text, out) && *out >= 1;
}

}  // namespace

std::string Spelled(const DocumentParts& parts) {
  if (parts.first == 1 && !parts.last.has_value()) return parts.id;
  if (parts.last == parts.first) return absl::StrCat(parts.id, "=", parts.first);
  return absl::StrCat(parts.id, "=", parts.first, "-", parts.last.has_value() ? absl::StrCat(*parts.last) : "");
}

absl::StatusOr<DocumentParts> ParsePartRange(absl::string_view id, absl::string_view range) {
  DocumentParts parts{.id = std::string(id)};
  const size_t dash = range.find('-');
  bool good = ParsePart(range.substr(0, dash), &parts.first);
  if (dash == absl::string_view::npos) {
    parts.last = parts.first;
  } else if (dash + 1 < range.size()) {
    int64_t last = 0;
    good = good && ParsePart(range.substr(dash + 1), &last) && last >= parts.first;
    parts.last = last;
  }
  if (good) return parts;
  return absl::InvalidArgumentError(absl::StrCat("'", range.substr(0, 40),
                                                 "' is no range of parts; they are counted from 1: 3, 2-5, or 2- for "
                                                 "the second and all behind it"));
}

absl::StatusOr<DocumentParts> ParseDocumentParts(absl::string_view text) {
  const size_t place = text.rfind('=');
  if (place == absl::string_view::npos || place == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text.substr(0, 200), "' is not ID=RANGE, as moon=2-5; --doc ID takes all parts"));
  }
  return ParsePartRange(text.substr(0, place), text.substr(place + 1));
}

}  // namespace kvlink::cli
