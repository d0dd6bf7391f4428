#include "store/store.h"

#include "absl/strings/str_cat.h"

namespace kvlink::store {
namespace {

// Length of the UTF-8 sequence at the front (Unicode 15, table 3-7), or 0 if there is none.
int SequenceLength(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(i < text.size() ? text[i] : 0); };
  const auto tail = [&](size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xbf; };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const uint8_t low = first == 0xe0 ? 0xa0 : 0x80, high = first == 0xed ? 0x9f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const uint8_t low = first == 0xf0 ? 0x90 : 0x80, high = first == 0xf4 ? 0x8f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

absl::Status ValidateName(absl::string_view what, absl::string_view name) {
  if (name.empty() || name.size() > 255) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", name.size(), " bytes; names have 1 to 255"));
  }
  for (absl::string_view rest = name; !rest.empty();) {
    const int length = SequenceLength(rest);
    if (length == 0) {
      return absl::InvalidArgumentError(absl::StrCat(what, " is no valid UTF-8 at byte ", name.size() - rest.size()));
    }
    const uint8_t first = static_cast<uint8_t>(rest[0]);
    // C0, DEL, C1.
    if (first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<uint8_t>(rest[1]) < 0xa0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " has a control character at byte ", name.size() - rest.size()));
    }
    rest.remove_prefix(length);
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store
