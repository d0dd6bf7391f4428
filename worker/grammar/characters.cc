// Ranges are sorted and joined only when they are asked for: a set is built once and read once.
#include "worker/grammar/characters.h"

#include <algorithm>

namespace kvlink::grammar {

const CharacterSet& CharacterSet::Writable() {
  static const CharacterSet* const set = [] {
    auto* const writable = new CharacterSet();
    writable->Add(0x08, 0x0A);  // \b \t \n
    writable->Add(0x0C, 0x0D);  // \f \r
    writable->Add(0x20, 0xD7FF);
    writable->Add(0xE000, 0x10FFFF);
    return writable;
  }();
  return *set;
}

void CharacterSet::Add(char32_t first, char32_t last) {
  if (first <= last) ranges_.push_back({first, last});
}

void CharacterSet::Add(const CharacterSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
}

std::vector<CharacterSet::Range> CharacterSet::ranges() const {
  std::vector<Range> sorted = ranges_, joined;
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  for (const Range& range : sorted) {
    if (!joined.empty() && range.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

CharacterSet CharacterSet::Complement() const {
  CharacterSet rest;
  const std::vector<Range> taken = ranges();
  for (const Range& range : Writable().ranges()) {
    char32_t next = range.first;
    for (const Range& hole : taken) {
      if (hole.last < next || hole.first > range.last) continue;
      if (hole.first > next) rest.Add(next, hole.first - 1);
      next = hole.last + 1;
    }
    rest.Add(next, range.last);
  }
  return rest;
}

}  // namespace kvlink::grammar
