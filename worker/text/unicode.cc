// Classes by binary search in range tables; composition by the algorithm of Unicode 16.0, section 3.11.
#include "worker/text/unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace kvlink::model {
namespace {

struct Range {
  char32_t first, last;
};
struct ClassRange {
  char32_t first, last;
  uint8_t combining_class;
};
struct Decomposition {
  char32_t composed, first, second;  // second 0: a mapping to one character
  bool composes;
};

#include "worker/text/unicode_tables.inc"

// Hangul syllables are arithmetic (Unicode 16.0, section 3.12).
constexpr char32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

template <typename R, size_t N>
const R* FindRange(const R (&table)[N], char32_t c) {
  const R* found =
      std::lower_bound(std::begin(table), std::end(table), c, [](const R& r, char32_t v) { return r.last < v; });
  return found != std::end(table) && found->first <= c ? found : nullptr;
}

uint8_t CombiningClass(char32_t c) {
  if (c < 0x300) return 0;
  const ClassRange* range = FindRange(kCombiningClasses, c);
  return range == nullptr ? 0 : range->combining_class;
}

struct Mark {
  char32_t code_point;
  uint8_t combining_class;
};

void AppendDecomposed(char32_t c, std::vector<Mark>& out) {
  if (c - kSyllableBase < kSyllables) {
    const char32_t index = c - kSyllableBase;
    out.push_back({kLeadBase + index / (kVowels * kTails), 0});
    out.push_back({kVowelBase + index % (kVowels * kTails) / kTails, 0});
    if (index % kTails != 0) out.push_back({kTailBase + index % kTails, 0});
    return;
  }
  const Decomposition* found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                                                [](const Decomposition& d, char32_t v) { return d.composed < v; });
  if (c < 0xC0 || found == std::end(kDecompositions) || found->composed != c) {
    out.push_back({c, CombiningClass(c)});
    return;
  }
  AppendDecomposed(found->first, out);  // the table's chains are at most four deep
  if (found->second != 0) AppendDecomposed(found->second, out);
}

// The composed character of a pair, 0 if there is none.
char32_t Compose(char32_t a, char32_t b) {
  if (a - kLeadBase < kLeads && b - kVowelBase < kVowels) {
    return kSyllableBase + ((a - kLeadBase) * kVowels + (b - kVowelBase)) * kTails;
  }
  if (a - kSyllableBase < kSyllables && (a - kSyllableBase) % kTails == 0 && b > kTailBase && b < kTailBase + kTails) {
    return a + (b - kTailBase);
  }
  static const auto* const pairs = [] {
    auto* map = new absl::flat_hash_map<std::pair<char32_t, char32_t>, char32_t>;
    for (const Decomposition& d : kDecompositions) {
      if (d.composes) map->emplace(std::make_pair(d.first, d.second), d.composed);
    }
    return map;
  }();
  const auto found = pairs->find({a, b});
  return found == pairs->end() ? 0 : found->second;
}

// Sorts each run of marks by combining class.
void OrderMarks(std::vector<Mark>& marks) {
  for (auto it = marks.begin(); it != marks.end();) {
    if (it->combining_class == 0) {
      ++it;
      continue;
    }
    const auto end = std::find_if(it, marks.end(), [](const Mark& m) { return m.combining_class == 0; });
    std::stable_sort(it, end, [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    it = end;
  }
}

}  // namespace

bool IsLetter(char32_t c) {
  if (c < 0x80) return (c | 0x20) - 'a' < 26;
  return FindRange(kLetters, c) != nullptr;
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c - '0' < 10;
  return FindRange(kNumbers, c) != nullptr;
}

bool IsSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || c - '\t' < 5;
  return c == 0x85 || c == 0xA0 || c == 0x1680 || c - 0x2000 <= 0xA || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool IsWord(char32_t c) {
  if (c < 0x80) return IsLetter(c) || IsNumber(c) || c == '_';
  return FindRange(kWordCharacters, c) != nullptr;
}

std::string ComposeCanonical(absl::string_view text) {
  std::vector<Mark> marks;
  bool changes = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCharacter(text, position);
    changes = changes || c >= 0x300;  // all lower characters are starters in NFC
  }
  if (!changes) return std::string(text);
  marks.reserve(text.size());
  for (size_t position = 0; position < text.size();) AppendDecomposed(NextCharacter(text, position), marks);
  OrderMarks(marks);

  // Each mark joins the last starter unless one of the same or a higher class comes between (Unicode 16.0, D117).
  constexpr size_t kNone = static_cast<size_t>(-1);
  size_t starter = kNone, size = 0;
  for (const Mark mark : marks) {
    if (starter != kNone) {
      const bool adjacent = size == starter + 1;
      if (adjacent || (mark.combining_class != 0 && marks[size - 1].combining_class < mark.combining_class)) {
        const char32_t composed = Compose(marks[starter].code_point, mark.code_point);
        if (composed != 0) {
          marks[starter].code_point = composed;
          continue;
        }
      }
    }
    if (mark.combining_class == 0) starter = size;
    marks[size++] = mark;
  }
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < size; ++i) AppendUtf8(marks[i].code_point, out);
  return out;
}

}  // namespace kvlink::model
