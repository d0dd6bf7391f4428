// UTF-8 of bytes that may be anything: the one decoder of the tree. Thread-safety: pure functions.
#ifndef KVLINK_BASE_UTF8_H_
#define KVLINK_BASE_UTF8_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvlink {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// The character, or the fault, at one position of a byte string.
struct Utf8Character {
  enum Kind {
    kValid,
    kIncomplete,  // the string ends inside a sequence that could still become valid
    kInvalid,     // never valid, whatever follows
  };
  Kind kind = kInvalid;
  char32_t code_point = kReplacementCharacter;
  // Bytes of the character; for kIncomplete and kInvalid those of the maximal subpart that one U+FFFD stands for
  // (Unicode 16.0, section 3.9, table 3-8), at least 1.
  size_t size = 1;
};
// `text` is not empty. Surrogates, overlong forms and values over 0x10FFFF are invalid.
Utf8Character DecodeUtf8(absl::string_view text);

// The character that starts at `position` of text known to be valid; moves `position` past it.
char32_t NextCharacter(absl::string_view text, size_t& position);

// Offset of the first byte that is not valid UTF-8; text.size() if all of it is.
size_t ValidUtf8Prefix(absl::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

// Appends `bytes` to `out` with one U+FFFD for each maximal invalid subpart. A sequence that is only incomplete at the
// end is left out unless `final`. Returns the number of bytes used.
size_t AppendLossyUtf8(absl::string_view bytes, bool final, std::string& out);

}  // namespace kvlink

#endif  // KVLINK_BASE_UTF8_H_
