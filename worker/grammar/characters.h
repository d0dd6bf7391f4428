// Sets of Unicode characters, as patterns and the lengths of strings need them. Thread-safety: plain values.
#ifndef KVLINK_WORKER_GRAMMAR_CHARACTERS_H_
#define KVLINK_WORKER_GRAMMAR_CHARACTERS_H_

#include <cstdint>
#include <vector>

namespace kvlink::grammar {

class CharacterSet {
 public:
  struct Range {
    char32_t first, last;
  };

  CharacterSet() = default;
  CharacterSet(char32_t first, char32_t last) { Add(first, last); }
  // Those that a JSON string can hold in one way only: as themselves, or by the escape of two characters that it has to
  // be. No surrogates, and no control characters that only \u00XX writes.
  static const CharacterSet& Writable();

  void Add(char32_t first, char32_t last);
  void Add(const CharacterSet& other);
  // Of Writable(), what is not in this set.
  CharacterSet Complement() const;
  // Sorted, disjoint, not adjacent.
  std::vector<Range> ranges() const;

 private:
  std::vector<Range> ranges_;  // in any order
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_CHARACTERS_H_
