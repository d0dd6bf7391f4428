// A path is decoded once, after it was split from the query: an escaped "?" belongs to the path. An escaped "/" becomes
// a "/", so that an id with a slash may be written either way.
#include "worker/serve/http/request.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::optional<std::string> PercentDecode(absl::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded.push_back(text[i]);
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const int high = HexDigit(text[i + 1]), low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    decoded.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return decoded;
}

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c)) || c == '#') {
      return absl::InvalidArgumentError("the request target has a character that must be percent-encoded");
    }
  }
  for (const absl::string_view scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(text, scheme)) continue;
    text.remove_prefix(scheme.size());
    text.remove_prefix(std::min(text.find_first_of("/?"), text.size()));
    if (!absl::StartsWith(text, "/")) return Target{"/", std::string(text.substr(text.empty() ? 0 : 1))};
  }
  if (!absl::StartsWith(text, "/") && text != "*") {
    return absl::InvalidArgumentError("the request target is not a path");
  }
  const size_t question = std::min(text.find('?'), text.size());
  const std::optional<std::string> path = PercentDecode(text.substr(0, question));
  if (!path || path->find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the path has a malformed percent-encoding");
  }
  Target target;
  target.path = *path;
  if (question < text.size()) target.query = std::string(text.substr(question + 1));
  return target;
}

absl::string_view HttpRequest::header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

}  // namespace kvlink::serve
