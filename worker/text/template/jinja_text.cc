// Text as code points with trust and marks in the bits above Unicode, so that every string operation that moves a
// character moves them too.
#include "worker/text/template/jinja_text.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/text/unicode.h"

namespace kvlink::model::jinja {
namespace {

// A run of characters first, first + step, ... last that map to themselves + delta.
struct CaseRange {
  char32_t first;
  char32_t last;
  int32_t delta;
  uint8_t step;
};

constexpr CaseRange kUpper[] = {
#include "worker/text/template/jinja_upper.inc"
};
constexpr CaseRange kLower[] = {
#include "worker/text/template/jinja_lower.inc"
};

char32_t MapCase(const CaseRange* begin, const CaseRange* end, char32_t c) {
  const char32_t plain = Plain(c);
  const CaseRange* range =
      std::lower_bound(begin, end, plain, [](const CaseRange& r, char32_t value) { return r.last < value; });
  if (range == end || plain < range->first || (plain - range->first) % range->step != 0) return c;
  return static_cast<char32_t>(static_cast<int32_t>(plain) + range->delta) | (c & kUntrusted);
}

bool Contains(const Text& set, char32_t c) {
  return std::any_of(set.begin(), set.end(), [c](char32_t x) { return Plain(x) == Plain(c); });
}

}  // namespace

absl::StatusOr<Text> DecodeText(absl::string_view utf8, bool trusted) {
  Text text;
  text.reserve(utf8.size());
  for (size_t at = 0; at < utf8.size();) {
    const Utf8Character next = DecodeUtf8(utf8.substr(at));
    if (next.kind != Utf8Character::kValid)
      return absl::InvalidArgumentError(absl::StrCat("not valid UTF-8 at byte ", at));
    text += trusted ? next.code_point : next.code_point | kUntrusted;
    at += next.size;
  }
  return text;
}

Text Ascii(absl::string_view ascii) {
  Text text;
  for (const char c : ascii) text += static_cast<unsigned char>(c);
  return text;
}

std::string EncodeText(const Text& text) {
  std::string out;
  for (const char32_t c : text) {
    if ((c & kMark) == 0) AppendUtf8(Plain(c), out);
  }
  return out;
}

std::vector<RenderedSpan> TextSpans(const Text& text) {
  std::vector<RenderedSpan> spans;
  for (const char32_t c : text) {
    if (c & kMark) {
      spans.push_back({"", false, static_cast<int>(Plain(c) & ~kMark)});
      continue;
    }
    const bool trusted = (c & kUntrusted) == 0;
    if (spans.empty() || spans.back().mark >= 0 || spans.back().trusted != trusted) spans.push_back({"", trusted, -1});
    AppendUtf8(Plain(c), spans.back().text);
  }
  return spans;
}

bool SameText(const Text& a, const Text& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char32_t x, char32_t y) { return Plain(x) == Plain(y); });
}

bool LessText(const Text& a, const Text& b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(),
                                      [](char32_t x, char32_t y) { return Plain(x) < Plain(y); });
}

size_t FindText(const Text& text, const Text& part, size_t from) {
  if (from > text.size()) return Text::npos;
  const auto at = std::search(text.begin() + from, text.end(), part.begin(), part.end(),
                              [](char32_t x, char32_t y) { return Plain(x) == Plain(y); });
  return at == text.end() && !part.empty() ? Text::npos : static_cast<size_t>(at - text.begin());
}

bool StartsWith(const Text& text, const Text& part) {
  return part.size() <= text.size() && SameText(text.substr(0, part.size()), part);
}

bool EndsWith(const Text& text, const Text& part) {
  return part.size() <= text.size() && SameText(text.substr(text.size() - part.size()), part);
}

bool IsSpace(char32_t c) {
  c = Plain(c);
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Text Strip(const Text& text, const Text* characters, bool left, bool right) {
  const auto cut = [&](char32_t c) { return characters == nullptr ? IsSpace(c) : Contains(*characters, c); };
  size_t begin = 0, end = text.size();
  while (left && begin < end && cut(text[begin])) ++begin;
  while (right && begin < end && cut(text[end - 1])) --end;
  return text.substr(begin, end - begin);
}

Text Replace(const Text& text, const Text& from, const Text& to, int64_t count) {
  Text out;
  size_t at = 0;
  if (from.empty()) {
    for (; count != 0 && at <= text.size(); ++at, --count) {
      out += to;
      if (at < text.size()) out += text[at];
    }
    if (at < text.size()) out += text.substr(at);
    return out;
  }
  for (; count != 0; --count) {
    const size_t found = FindText(text, from, at);
    if (found == Text::npos) break;
    out.append(text, at, found - at);
    out += to;
    at = found + from.size();
  }
  return out.append(text, at, Text::npos);
}

std::vector<Text> SplitWhitespace(const Text& text, int64_t limit) {
  std::vector<Text> parts;
  size_t at = 0;
  while (true) {
    while (at < text.size() && IsSpace(text[at])) ++at;
    if (at == text.size()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text.substr(at));
      return parts;
    }
    const size_t begin = at;
    while (at < text.size() && !IsSpace(text[at])) ++at;
    parts.push_back(text.substr(begin, at - begin));
  }
}

std::vector<Text> Split(const Text& text, const Text& separator, int64_t limit) {
  std::vector<Text> parts;
  size_t at = 0;
  for (; limit != 0; --limit) {
    const size_t found = FindText(text, separator, at);
    if (found == Text::npos) break;
    parts.push_back(text.substr(at, found - at));
    at = found + separator.size();
  }
  parts.push_back(text.substr(at));
  return parts;
}

std::vector<Text> SplitLines(const Text& text) {
  const auto breaks = [](char32_t c) {
    c = Plain(c);
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<Text> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (!breaks(text[at])) continue;
    lines.push_back(text.substr(begin, at - begin));
    if (Plain(text[at]) == '\r' && at + 1 < text.size() && Plain(text[at + 1]) == '\n') ++at;
    begin = at + 1;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

char32_t UpperChar(char32_t c) { return MapCase(std::begin(kUpper), std::end(kUpper), c); }
char32_t LowerChar(char32_t c) { return MapCase(std::begin(kLower), std::end(kLower), c); }
bool IsCased(char32_t c) { return UpperChar(c) != c || LowerChar(c) != c; }

Text Upper(const Text& text) {
  Text out = text;
  std::transform(out.begin(), out.end(), out.begin(), UpperChar);
  return out;
}

Text Lower(const Text& text) {
  Text out = text;
  std::transform(out.begin(), out.end(), out.begin(), LowerChar);
  return out;
}

Text Title(const Text& text) {
  Text out = text;
  bool inside = false;
  for (char32_t& c : out) {
    c = inside ? LowerChar(c) : UpperChar(c);
    inside = IsCased(c);
  }
  return out;
}

Text Capitalize(const Text& text) {
  Text out = Lower(text);
  if (!out.empty()) out[0] = UpperChar(out[0]);
  return out;
}

}  // namespace kvlink::model::jinja
