// The parts of Unicode that tokenizers need besides UTF-8: a few character classes, and canonical composition (NFC).
//
// Tables are of Unicode 16.0 (unicode_tables.inc), the version used by the regular expressions of published tokenizers;
// packaged libraries are older (utf8proc 2.8: 15.0) and would classify newer letters as symbols.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_TEXT_UNICODE_H_
#define KVLINK_WORKER_TEXT_UNICODE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "base/utf8.h"

namespace kvlink::model {

bool IsLetter(char32_t c);  // \p{L}
bool IsNumber(char32_t c);  // \p{N}
bool IsSpace(char32_t c);   // \s, the property White_Space
bool IsWord(char32_t c);    // \w: alphabetic, marks, decimal numbers, connectors, joiners

// Normalisation form C of valid UTF-8.
std::string ComposeCanonical(absl::string_view text);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_UNICODE_H_
