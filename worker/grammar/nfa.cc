// Thompson's construction. Characters share the ends of their UTF-8 sequences, so that a string that counts its
// characters takes eight states for each.
#include "worker/grammar/nfa.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace kvlink::grammar {
namespace {

// Adds sequences of byte ranges between two states.
class Utf8Ranges {
 public:
  Utf8Ranges(Nfa* nfa, StateId start, StateId end) : nfa_(*nfa), start_(start), end_(end) {}

  // Cuts the range until all of its characters have sequences that differ in no more than independent ranges of bytes.
  void Add(char32_t first, char32_t last) {
    for (const char32_t limit : {0x7F, 0x7FF, 0xFFFF}) {
      if (first <= limit && limit < last) {
        Add(first, limit);
        return Add(limit + 1, last);
      }
    }
    const int size = last < 0x80 ? 1 : last < 0x800 ? 2 : last < 0x10000 ? 3 : 4;
    for (int i = 1; i < size; ++i) {
      const char32_t below = (char32_t{1} << (6 * i)) - 1;
      if ((first & ~below) == (last & ~below)) continue;
      if ((first & below) != 0) {
        Add(first, first | below);
        return Add((first | below) + 1, last);
      }
      if ((last & below) != below) {
        Add(first, (last & ~below) - 1);
        return Add(last & ~below, last);
      }
    }
    Write(size, first, last);
  }

 private:
  void Write(int size, char32_t first, char32_t last) {
    constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    std::string sequence;  // low, high of each byte
    for (int i = size - 1; i >= 0; --i) {
      const auto byte = [&](char32_t c) {
        const auto bits = static_cast<uint8_t>(c >> (6 * i));
        if (size == 1) return bits;
        return static_cast<uint8_t>(i == size - 1 ? kLead[size] | bits : 0x80 | (bits & 0x3F));
      };
      sequence += {static_cast<char>(byte(first)), static_cast<char>(byte(last))};
    }
    Edge(start_, sequence);
  }
  void Edge(StateId from, const std::string& sequence) {
    const std::string rest = sequence.substr(2);
    StateId to = end_;
    if (!rest.empty()) {
      const auto [tail, added] = tails_.try_emplace(rest, 0);
      if (added) {
        tail->second = nfa_.NewState();
        to = tail->second;
        Edge(to, rest);
      }
      to = tail->second;
    }
    nfa_.AddEdge(from, static_cast<uint8_t>(sequence[0]), static_cast<uint8_t>(sequence[1]), to);
  }

  Nfa& nfa_;
  const StateId start_, end_;
  std::map<std::string, StateId> tails_;  // by what remains
};

// The letter behind the backslash that a character has to be written with; 0: it stands for itself.
char EscapeOf(char32_t c) {
  switch (c) {
    case '"':
    case '\\':
      return static_cast<char>(c);
    case '\b':
      return 'b';
    case '\t':
      return 't';
    case '\n':
      return 'n';
    case '\f':
      return 'f';
    case '\r':
      return 'r';
    default:
      return 0;
  }
}

}  // namespace

StateId Nfa::NewState() {
  if (states_ >= kMaxNfaStates) {
    full_ = true;
    return 0;
  }
  return states_++;
}

void Nfa::AddEdge(StateId from, uint8_t low, uint8_t high, StateId to) {
  if (!full_) edges_.push_back({from, low, high, to});
}

void Nfa::Skip(StateId from, StateId to) {
  if (!full_) epsilons_.push_back({from, to});
}

void Nfa::Link(StateId from, Fragment part, StateId to) {
  Skip(from, part.start);
  Skip(part.end, to);
}

Nfa::Fragment Nfa::Empty() {
  const StateId state = NewState();
  return {state, state};
}

Nfa::Fragment Nfa::Nothing() {
  const StateId start = NewState();
  return {start, NewState()};
}

Nfa::Fragment Nfa::Bytes(absl::string_view bytes) {
  Fragment text = Empty();
  for (const char c : bytes) {
    const StateId next = NewState();
    AddEdge(text.end, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    text.end = next;
  }
  return text;
}

Nfa::Fragment Nfa::Range(uint8_t low, uint8_t high) {
  const Fragment range = Nothing();
  AddEdge(range.start, low, high, range.end);
  return range;
}

Nfa::Fragment Nfa::Characters(const CharacterSet& set) {
  const Fragment characters = Nothing();
  Utf8Ranges plain(this, characters.start, characters.end);
  StateId escaped = -1;
  for (const CharacterSet::Range& range : set.Complement().Complement().ranges()) {  // within Writable()
    char32_t next = range.first;
    for (char32_t c = range.first; c <= std::min<char32_t>(range.last, '\\'); ++c) {
      const char letter = EscapeOf(c);
      if (letter == 0) continue;
      if (next < c) plain.Add(next, c - 1);
      next = c + 1;
      if (escaped < 0) {
        escaped = NewState();
        AddEdge(characters.start, '\\', '\\', escaped);
      }
      AddEdge(escaped, static_cast<uint8_t>(letter), static_cast<uint8_t>(letter), characters.end);
    }
    if (next <= range.last) plain.Add(next, range.last);
  }
  return characters;
}

Nfa::Fragment Nfa::CallOf(RuleId rule) {
  const Fragment call = Nothing();
  if (!full_) calls_.push_back({call.start, rule, call.end});
  return call;
}

Nfa::Fragment Nfa::Sequence(absl::Span<const Fragment> parts) {
  Fragment all = Empty();
  for (const Fragment& part : parts) {
    Skip(all.end, part.start);
    all.end = part.end;
  }
  return all;
}

Nfa::Fragment Nfa::Alternatives(absl::Span<const Fragment> parts) {
  const Fragment any = Nothing();
  for (const Fragment& part : parts) Link(any.start, part, any.end);
  return any;
}

Nfa::Fragment Nfa::Optional(Fragment part) {
  const Fragment maybe = Nothing();
  Link(maybe.start, part, maybe.end);
  Skip(maybe.start, maybe.end);
  return maybe;
}

Nfa::Fragment Nfa::Star(Fragment part) {
  const Fragment star = Nothing();
  const StateId middle = NewState();
  Skip(star.start, middle);
  Link(middle, part, middle);
  Skip(middle, star.end);
  return star;
}

Nfa::Fragment Nfa::Repeat(int64_t min, int64_t max, const std::function<Fragment()>& make) {
  const Fragment all = Nothing();
  StateId last = all.start;
  const auto append = [&](Fragment part) {
    Skip(last, part.start);
    last = part.end;
  };
  for (int64_t i = 0; i < min && !full_; ++i) append(make());
  if (max == kUnbounded) append(Star(make()));
  for (int64_t i = min; max != kUnbounded && i < max && !full_; ++i) {
    Skip(last, all.end);
    append(make());
  }
  Skip(last, all.end);
  return all;
}

}  // namespace kvlink::grammar
