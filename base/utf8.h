// Decodes UTF-8 from arbitrary bytes; the only decoder in the tree. Thread-safety: pure functions.
#ifndef KVLINK_BASE_UTF8_H_
#define KVLINK_BASE_UTF8_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvlink {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// The character, or the error, at one position in a byte string.
struct Utf8Character {
  enum Kind {
    kValid,
    kIncomplete,  // the string ends inside a sequence that could still become valid
    kInvalid,     // never valid, whatever follows
  };
  Kind kind = kInvalid;
  char32_t code_point = kReplacementCharacter;
  // Bytes in the character. For kIncomplete and kInvalid: bytes in the maximal subpart that one U+FFFD replaces
  // (Unicode 16.0, section 3.9, table 3-8), at least 1.
  size_t size = 1;
};
// REQUIRES: `text` is not empty. Surrogates, overlong forms and values above 0x10FFFF are invalid.
Utf8Character DecodeUtf8(absl::string_view text);

// Without the byte order mark that some editors write in front of a text, and that is no part of it.
absl::string_view WithoutByteOrderMark(absl::string_view text);

// Returns the character at `position` in valid UTF-8 and advances `position` past it.
char32_t NextCharacter(absl::string_view text, size_t& position);

// Offset of the first byte that is not valid UTF-8, or text.size().
size_t ValidUtf8Prefix(absl::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

// Appends `bytes` to `out`, replacing each maximal invalid subpart by one U+FFFD. Unless `final`, leaves out an
// incomplete sequence at the end. Returns the number of bytes consumed.
size_t AppendLossyUtf8(absl::string_view bytes, bool final, std::string& out);

}  // namespace kvlink

#endif  // KVLINK_BASE_UTF8_H_
