// The regular expressions of published pre-tokenizers, written by hand: they need a lookahead over Unicode classes,
// which RE2 lacks. They run in linear time.
#include "worker/text/tokenizer_split.h"

#include <cstdint>

#include "worker/text/unicode.h"

namespace kvlink::model {
namespace {

constexpr absl::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Character classes that the patterns distinguish.
enum class Kind : uint8_t { kEnd, kLetter, kNumber, kSpace, kNewline, kOther };

Kind KindOf(char32_t c) {
  if (c == '\r' || c == '\n') return Kind::kNewline;
  if (IsLetter(c)) return Kind::kLetter;
  if (IsNumber(c)) return Kind::kNumber;
  return IsSpace(c) ? Kind::kSpace : Kind::kOther;
}

struct Place {
  Kind kind = Kind::kEnd;
  size_t next = 0;  // where the following character starts
};

class Splitter {
 public:
  explicit Splitter(absl::string_view text) : text_(text) {}

  Place At(size_t position) const {
    if (position >= text_.size()) return {Kind::kEnd, position};
    const char32_t c = NextCharacter(text_, position);
    return {KindOf(c), position};
  }

  // End of the longest run of `kind` from `position`, of at most `limit` characters.
  size_t Run(Kind kind, size_t position, size_t limit = SIZE_MAX) const {
    for (; limit > 0; --limit) {
      const Place place = At(position);
      if (place.kind != kind) break;
      position = place.next;
    }
    return position;
  }

  // End of an English contraction at `position`; `position` itself if there is none.
  size_t Contraction(size_t position, bool any_case) const {
    const absl::string_view rest = text_.substr(position);
    if (rest.size() < 2 || rest[0] != '\'') return position;
    const auto letter = [&](size_t i) -> char {
      if (i >= rest.size()) return 0;
      return any_case && rest[i] >= 'A' && rest[i] <= 'Z' ? rest[i] | 0x20 : rest[i];
    };
    const char first = letter(1), second = letter(2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return position + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
      return position + 3;
    // When ignoring case, the long s is an s too.
    if (any_case && rest.substr(1, 2) == "\xC5\xBF") return position + 3;
    return position;
  }

  // \s+(?!\S)|\s+ : a run of white space, without its last character when something else follows.
  size_t Spaces(size_t position) const {
    size_t last = position;
    size_t end = position;
    Place place = At(end);
    while (place.kind == Kind::kSpace || place.kind == Kind::kNewline) {
      last = end;
      end = place.next;
      place = At(end);
    }
    return place.kind == Kind::kEnd || last == position ? end : last;
  }

  // \s*[\r\n]+ : white space up to the last line break of its run; `position` if the run has none.
  size_t Lines(size_t position) const {
    size_t end = position;
    for (Place place = At(position); place.kind == Kind::kSpace || place.kind == Kind::kNewline;
         place = At(place.next)) {
      if (place.kind == Kind::kNewline) end = place.next;
    }
    return end;
  }

  size_t Gpt2(size_t position) const {
    if (const size_t end = Contraction(position, false); end != position) return end;
    const size_t start = position + (text_[position] == ' ' ? 1 : 0);  // " ?"
    const Kind kind = At(start).kind;
    if (kind == Kind::kLetter || kind == Kind::kNumber || kind == Kind::kOther) return Run(kind, start);
    return Spaces(position);
  }

  size_t Llama3(size_t position, size_t digits) const {
    if (const size_t end = Contraction(position, true); end != position) return end;
    const Place place = At(position);
    if (place.kind == Kind::kLetter) return Run(Kind::kLetter, position);
    if (place.kind == Kind::kNumber) return Run(Kind::kNumber, position, digits);
    if (place.kind != Kind::kNewline && At(place.next).kind == Kind::kLetter) return Run(Kind::kLetter, place.next);
    const size_t start = position + (text_[position] == ' ' ? 1 : 0);  // " ?"
    if (At(start).kind == Kind::kOther) return Run(Kind::kNewline, Run(Kind::kOther, start));
    if (const size_t end = Lines(position); end != position) return end;
    return Spaces(position);
  }

  size_t Digits(size_t position, size_t limit) const {
    if (const size_t end = Run(Kind::kNumber, position, limit); end != position) return end;
    for (Place place = At(position); place.kind != Kind::kEnd && place.kind != Kind::kNumber; place = At(position)) {
      position = place.next;
    }
    return position;
  }

  size_t Next(SplitPattern pattern, size_t position) const {
    switch (pattern) {
      case SplitPattern::kGpt2:
        return Gpt2(position);
      case SplitPattern::kLlama3:
        return Llama3(position, 3);
      case SplitPattern::kQwen2:
        return Llama3(position, 1);
      case SplitPattern::kDigits:
        return Digits(position, 1);
      case SplitPattern::kDigitRuns:
        return Digits(position, SIZE_MAX);
    }
    return text_.size();
  }

 private:
  absl::string_view text_;
};

}  // namespace

std::optional<SplitPattern> FindSplitPattern(absl::string_view regex) {
  if (regex == kGpt2Regex) return SplitPattern::kGpt2;
  if (regex == kLlama3Regex) return SplitPattern::kLlama3;
  if (regex == kQwen2Regex) return SplitPattern::kQwen2;
  return std::nullopt;
}

void SplitText(SplitPattern pattern, absl::string_view text, std::vector<absl::string_view>& pieces) {
  const Splitter splitter(text);
  for (size_t position = 0; position < text.size();) {
    const size_t end = splitter.Next(pattern, position);
    pieces.push_back(text.substr(position, end - position));
    position = end;
  }
}

}  // namespace kvlink::model
