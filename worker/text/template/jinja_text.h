// The text of the template interpreter: code points that each carry their origin.
//
// A Text is a string of 32-bit characters: a Unicode code point in the low 21 bits, with kUntrusted set if it came from
// a message, and marks (places without text) as characters of their own. Both flags lie outside Unicode, so no content
// can forge them. Comparisons and searches ignore trust and never match a mark with text; substrings keep their trust.
//
// Thread-safety: pure functions over values.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_TEXT_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/template/chat_template.h"

namespace kvlink::model::jinja {

using Text = std::u32string;

inline constexpr char32_t kUntrusted = char32_t{1} << 31;
inline constexpr char32_t kMark = char32_t{1} << 30;
inline constexpr int kMaxMark = (1 << 30) - 1;

// The character without its trust flag.
inline char32_t Plain(char32_t c) { return c & ~kUntrusted; }

// Decodes valid UTF-8. INVALID_ARGUMENT "not valid UTF-8 at byte N".
absl::StatusOr<Text> DecodeText(absl::string_view utf8, bool trusted);
// Trusted text from an ASCII literal of this program.
Text Ascii(absl::string_view ascii);
// Encodes as UTF-8, omitting marks.
std::string EncodeText(const Text& text);
// Neighbouring characters of equal trust as one span, marks as spans of their own.
std::vector<RenderedSpan> TextSpans(const Text& text);

// Like Python's ==, <, in and find, by code point. FindText returns Text::npos if there is none.
bool SameText(const Text& a, const Text& b);
bool LessText(const Text& a, const Text& b);
size_t FindText(const Text& text, const Text& part, size_t from = 0);
bool StartsWith(const Text& text, const Text& part);
bool EndsWith(const Text& text, const Text& part);

// Python's str.isspace for one character. Marks are not space.
bool IsSpace(char32_t c);
// str.strip and its halves; `characters` null: whitespace.
Text Strip(const Text& text, const Text* characters, bool left, bool right);
// str.replace; count < 0: all. An empty `from` matches before every character and at the end, as in Python.
Text Replace(const Text& text, const Text& from, const Text& to, int64_t count);
// str.split on runs of whitespace, and on a non-empty separator. limit < 0: no limit.
std::vector<Text> SplitWhitespace(const Text& text, int64_t limit);
std::vector<Text> Split(const Text& text, const Text& separator, int64_t limit);
std::vector<Text> SplitLines(const Text& text);

// Case by Unicode's simple mappings (one character to one character).
char32_t UpperChar(char32_t c);
char32_t LowerChar(char32_t c);
bool IsCased(char32_t c);
Text Upper(const Text& text);
Text Lower(const Text& text);
Text Title(const Text& text);
Text Capitalize(const Text& text);

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_TEXT_H_
