// A range has its own option instead of being part of --doc, because any character that could separate the two may
// occur in an id.
#include "worker/encode/stored_document.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvlink::encode {
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
  return absl::InvalidArgumentError(
      absl::StrCat("'", range.substr(0, 40),
                   "' is not a range of parts, counted from 1; write 3, 2-5, or 2- for the second part to the last"));
}

absl::StatusOr<DocumentParts> ParseDocumentParts(absl::string_view text) {
  const size_t place = text.rfind('=');
  if (place == absl::string_view::npos || place == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text.substr(0, 200), "' is not ID=RANGE, such as moon=2-5; for all parts use --doc ID"));
  }
  return ParsePartRange(text.substr(0, place), text.substr(place + 1));
}

absl::StatusOr<std::vector<std::vector<int32_t>>> PartsOf(const CatalogEntry& entry, const DocumentParts& wanted) {
  const int64_t parts = static_cast<int64_t>(entry.parts.size());
  const int64_t named = wanted.last.value_or(wanted.first);
  if (named > std::max<int64_t>(parts, 1)) {
    return absl::OutOfRangeError(absl::StrCat("document '", absl::Utf8SafeCEscape(wanted.id), "' has ", parts,
                                              parts == 1 ? " part" : " parts", "; there is no part ", named));
  }
  std::vector<std::vector<int32_t>> tokens;
  for (int64_t i = wanted.first - 1; i < std::min(wanted.last.value_or(parts), parts); ++i) {
    tokens.push_back(entry.parts[i].tokens);
  }
  return tokens;
}

absl::Status CheckEntry(absl::string_view id, const CatalogEntry& entry, const Fingerprint& fingerprint,
                        absl::string_view tenant_secret, const Wrapper& wrapper) {
  if (entry.model != fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("document '", id, "' was ingested with another model (", entry.model.Hex().substr(0, 16),
                     ", this one is ", fingerprint.Hex().substr(0, 16),
                     "); name that model with --model, or ingest the document again with this one"));
  }
  const auto named_in = [&](const std::string& context, absl::string_view secret) {
    return std::all_of(entry.parts.begin(), entry.parts.end(), [&](const CatalogPart& part) {
      return part.identity == ComputeIdentity({fingerprint, context, part.tokens}, secret);
    });
  };
  const auto named_under = [&](absl::string_view secret) {
    return named_in(entry.context_digest, secret) || named_in(wrapper.digest, secret);
  };
  if (named_under(tenant_secret)) return absl::OkStatus();
  const absl::string_view what = tenant_secret.empty() ? "with a tenant secret; name its file with --secret-file"
                                 : named_under("")     ? "without a tenant secret; leave out --secret-file"
                                                       : "with another tenant secret; name its file with --secret-file";
  return absl::FailedPreconditionError(
      absl::StrCat("document '", id, "' was ingested ", what, ", or ingest the document again"));
}

}  // namespace kvlink::encode
