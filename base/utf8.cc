// Decodes by the byte ranges of table 3-7 of Unicode 16.0: the second byte alone identifies surrogates and overlong
// forms.
#include "base/utf8.h"

#include <cstdint>

#include "absl/strings/strip.h"

namespace kvlink {
namespace {

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

Utf8Character DecodeUtf8(absl::string_view text) {
  const uint8_t lead = text[0];
  if (lead < 0x80) return {Utf8Character::kValid, lead, 1};
  size_t size = 0;
  uint8_t low = 0x80, high = 0xBF;  // range of the second byte (table 3-7)
  if (lead >= 0xC2 && lead <= 0xDF) {
    size = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Character::kInvalid, kReplacementCharacter, 1};
  }
  char32_t c = lead & (0xFF >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {Utf8Character::kIncomplete, kReplacementCharacter, i};
    const uint8_t byte = text[i];
    if (i == 1 ? byte < low || byte > high : !IsContinuation(text[i]))
      return {Utf8Character::kInvalid, kReplacementCharacter, i};
    c = c << 6 | (byte & 0x3F);
  }
  return {Utf8Character::kValid, c, size};
}

absl::string_view WithoutByteOrderMark(absl::string_view text) { return absl::StripPrefix(text, "\xef\xbb\xbf"); }

char32_t NextCharacter(absl::string_view text, size_t& position) {
  const uint8_t lead = text[position];
  if (lead < 0x80) {
    ++position;
    return lead;
  }
  const Utf8Character character = DecodeUtf8(text.substr(position));
  position += character.size;
  return character.code_point;
}

size_t ValidUtf8Prefix(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Utf8Character character = DecodeUtf8(text.substr(position));
    if (character.kind != Utf8Character::kValid) break;
    position += character.size;
  }
  return position;
}

void AppendUtf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      out += static_cast<char>(0xE0 | c >> 12);
    } else {
      out += static_cast<char>(0xF0 | c >> 18);
      out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    }
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
  }
  out += static_cast<char>(0x80 | (c & 0x3F));
}

size_t AppendLossyUtf8(absl::string_view bytes, bool final, std::string& out) {
  size_t position = 0;
  while (position < bytes.size()) {
    const Utf8Character character = DecodeUtf8(bytes.substr(position));
    if (character.kind == Utf8Character::kIncomplete && !final) break;
    if (character.kind == Utf8Character::kValid) {
      out.append(bytes.data() + position, character.size);
    } else {
      AppendUtf8(kReplacementCharacter, out);
    }
    position += character.size;
  }
  return position;
}

}  // namespace kvlink
