// A pattern is read into a tree first, since what is repeated is built once for each time.
#include "worker/grammar/pattern.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"

namespace kvlink::grammar {
namespace {

constexpr int kMaxGroups = 32;           // within each other
constexpr int64_t kMaxRepeated = 10000;  // a larger count could not be written anyway

struct PatternNode {
  enum Kind : uint8_t { kCharacters, kSequence, kAlternatives, kRepeat } kind = kSequence;
  CharacterSet set;
  std::vector<PatternNode> parts;
  int64_t min = 0, max = 0;
};

absl::Status Unsupported(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(what, " is not supported"));
}

CharacterSet Word() {
  CharacterSet set('a', 'z');
  set.Add('A', 'Z');
  set.Add('0', '9');
  set.Add('_', '_');
  return set;
}

CharacterSet WhiteSpace() {
  CharacterSet set(0x09, 0x0D);
  for (const char32_t c : {0x20, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF}) set.Add(c, c);
  set.Add(0x2000, 0x200A);
  return set;
}

CharacterSet LineBreaks() {
  CharacterSet set('\n', '\n');
  set.Add('\r', '\r');
  set.Add(0x2028, 0x2029);
  return set;
}

class PatternReader {
 public:
  explicit PatternReader(absl::string_view text) : text_(text) {}

  // One of the alternatives at the top, which may be anchored at each end.
  struct Branch {
    PatternNode node;
    bool at_start = false, at_end = false;
  };
  absl::StatusOr<std::vector<Branch>> Read() {
    std::vector<Branch> branches;
    do {
      Branch branch;
      branch.at_start = Take('^');
      KVLINK_ASSIGN_OR_RETURN(branch.node, ReadSequence(0));
      branch.at_end = Take('$');
      branches.push_back(std::move(branch));
    } while (Take('|'));
    if (more()) return Unsupported(absl::StrCat("'", absl::CHexEscape(text_.substr(position_, 1)), "' here"));
    return branches;
  }

 private:
  bool more() const { return position_ < text_.size(); }
  bool At(char c) const { return more() && text_[position_] == c; }
  bool Take(char c) {
    if (!At(c)) return false;
    ++position_;
    return true;
  }

  absl::StatusOr<PatternNode> ReadAlternatives(int groups) {
    PatternNode any;
    any.kind = PatternNode::kAlternatives;
    do {
      KVLINK_ASSIGN_OR_RETURN(PatternNode part, ReadSequence(groups));
      any.parts.push_back(std::move(part));
    } while (Take('|'));
    return any;
  }
  absl::StatusOr<PatternNode> ReadSequence(int groups) {
    PatternNode sequence;
    while (more() && !At('|') && !At(')') && !At('$')) {
      KVLINK_ASSIGN_OR_RETURN(PatternNode atom, ReadAtom(groups));
      KVLINK_ASSIGN_OR_RETURN(atom, ReadCount(std::move(atom)));
      sequence.parts.push_back(std::move(atom));
    }
    return sequence;
  }
  absl::StatusOr<PatternNode> ReadAtom(int groups) {
    if (Take('(')) return ReadGroup(groups);
    PatternNode atom;
    atom.kind = PatternNode::kCharacters;
    if (Take('[')) {
      KVLINK_ASSIGN_OR_RETURN(atom.set, ReadClass());
    } else if (Take('.')) {
      atom.set = LineBreaks().Complement();
    } else if (Take('\\')) {
      KVLINK_ASSIGN_OR_RETURN(atom.set, ReadEscape());
    } else if (absl::string_view("*+?{}]^").find(text_[position_]) != absl::string_view::npos) {
      return Unsupported(absl::StrCat("'", text_.substr(position_, 1), "' here"));
    } else {
      const char32_t c = NextCharacter(text_, position_);
      atom.set.Add(c, c);
    }
    return atom;
  }
  absl::StatusOr<PatternNode> ReadGroup(int groups) {
    if (groups >= kMaxGroups) return Unsupported(absl::StrCat("more than ", kMaxGroups, " groups within each other"));
    if (Take('?') && !Take(':')) return Unsupported("a group that begins with '(?', other than '(?:',");
    KVLINK_ASSIGN_OR_RETURN(PatternNode inner, ReadAlternatives(groups + 1));
    if (At('$')) return Unsupported("'$' within a group");
    if (!Take(')')) return absl::InvalidArgumentError("a group has no end");
    return inner;
  }
  // What follows an atom: *, +, ?, {2}, {2,}, {2,5}; and ? behind it, which changes how it is found but not what.
  absl::StatusOr<PatternNode> ReadCount(PatternNode atom) {
    PatternNode repeat;
    repeat.kind = PatternNode::kRepeat;
    repeat.max = Nfa::kUnbounded;
    if (Take('*')) {
      repeat.min = 0;
    } else if (Take('+')) {
      repeat.min = 1;
    } else if (Take('?')) {
      repeat.max = 1;
    } else if (Take('{')) {
      KVLINK_ASSIGN_OR_RETURN(repeat.min, ReadNumber());
      repeat.max = repeat.min;
      if (Take(',')) {
        repeat.max = Nfa::kUnbounded;
        if (!At('}')) {
          KVLINK_ASSIGN_OR_RETURN(repeat.max, ReadNumber());
        }
      }
      if (!Take('}') || repeat.max < repeat.min) return absl::InvalidArgumentError("a count in braces is malformed");
    } else {
      return atom;
    }
    Take('?');
    repeat.parts.push_back(std::move(atom));
    return repeat;
  }
  absl::StatusOr<int64_t> ReadNumber() {
    int64_t number = 0;
    const size_t begin = position_;
    for (; more() && text_[position_] >= '0' && text_[position_] <= '9'; ++position_) {
      number = std::min(number * 10 + (text_[position_] - '0'), kMaxRepeated + 1);
    }
    if (position_ == begin) return absl::InvalidArgumentError("a count in braces has no number");
    if (number > kMaxRepeated) return Unsupported(absl::StrCat("a count above ", kMaxRepeated));
    return number;
  }
  absl::StatusOr<CharacterSet> ReadClass() {
    const bool negative = Take('^');
    CharacterSet set;
    while (!Take(']')) {
      if (!more()) return absl::InvalidArgumentError("a class has no end");
      KVLINK_ASSIGN_OR_RETURN(const CharacterSet first, ReadMember());
      if (!At('-') || position_ + 1 >= text_.size() || text_[position_ + 1] == ']') {
        set.Add(first);
        continue;
      }
      Take('-');
      KVLINK_ASSIGN_OR_RETURN(const CharacterSet last, ReadMember());
      const auto from = first.ranges(), to = last.ranges();
      if (from.size() != 1 || to.size() != 1 || from[0].first != from[0].last || to[0].first != to[0].last ||
          to[0].first < from[0].first) {
        return absl::InvalidArgumentError("a range in a class is malformed");
      }
      set.Add(from[0].first, to[0].first);
    }
    return negative ? set.Complement() : set;
  }
  absl::StatusOr<CharacterSet> ReadMember() {
    if (!more()) return absl::InvalidArgumentError("a class has no end");
    if (Take('\\')) return ReadEscape();
    const char32_t c = NextCharacter(text_, position_);
    return CharacterSet(c, c);
  }
  // Behind a backslash.
  absl::StatusOr<CharacterSet> ReadEscape() {
    if (!more()) return absl::InvalidArgumentError("it ends with a backslash");
    const char c = text_[position_];
    switch (c) {
      case 'd':
      case 'D':
        ++position_;
        return c == 'd' ? CharacterSet('0', '9') : CharacterSet('0', '9').Complement();
      case 'w':
      case 'W':
        ++position_;
        return c == 'w' ? Word() : Word().Complement();
      case 's':
      case 'S':
        ++position_;
        return c == 's' ? WhiteSpace() : WhiteSpace().Complement();
      case 'x':
      case 'u':
        ++position_;
        return ReadCode(c == 'x' ? 2 : 4);
      default:
        break;
    }
    constexpr absl::string_view kLetters = "tnvfr", kMeant = "\t\n\v\f\r";
    if (const size_t letter = kLetters.find(c); letter != absl::string_view::npos) {
      ++position_;
      return CharacterSet(kMeant[letter], kMeant[letter]);
    }
    // Letters and digits mean something that we do not have; what is not ASCII is cut here.
    if (!absl::ascii_ispunct(static_cast<unsigned char>(c)) && c != ' ') {
      return Unsupported(absl::StrCat("'\\", absl::CHexEscape(text_.substr(position_, 1)), "'"));
    }
    ++position_;
    return CharacterSet(c, c);
  }
  absl::StatusOr<CharacterSet> ReadCode(size_t digits) {
    char32_t code = 0;
    for (size_t i = 0; i < digits; ++i, ++position_) {
      if (!more() || !absl::ascii_isxdigit(static_cast<unsigned char>(text_[position_]))) {
        return absl::InvalidArgumentError("a code in hexadecimal digits is malformed");
      }
      const char c = absl::ascii_tolower(static_cast<unsigned char>(text_[position_]));
      code = code * 16 + static_cast<char32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (code >= 0xD800 && code < 0xE000) return Unsupported("half of a surrogate pair");
    return CharacterSet(code, code);
  }

  const absl::string_view text_;
  size_t position_ = 0;
};

Nfa::Fragment Build(const PatternNode& node, Nfa& nfa) {
  std::vector<Nfa::Fragment> parts;
  switch (node.kind) {
    case PatternNode::kCharacters:
      return nfa.Characters(node.set);
    case PatternNode::kRepeat:
      return nfa.Repeat(node.min, node.max, [&] { return Build(node.parts[0], nfa); });
    case PatternNode::kSequence:
    case PatternNode::kAlternatives:
      for (const PatternNode& part : node.parts) parts.push_back(Build(part, nfa));
      return node.kind == PatternNode::kSequence ? nfa.Sequence(parts) : nfa.Alternatives(parts);
  }
  return nfa.Nothing();
}

}  // namespace

absl::StatusOr<Nfa::Fragment> PatternFragment(absl::string_view pattern, Nfa& nfa) {
  if (pattern.size() > kMaxPatternBytes) return Unsupported(absl::StrCat("more than ", kMaxPatternBytes, " bytes"));
  KVLINK_ASSIGN_OR_RETURN(const std::vector<PatternReader::Branch> branches, PatternReader(pattern).Read());
  std::vector<Nfa::Fragment> parts;
  const auto anything = [&](bool nothing) {
    return nothing ? nfa.Empty() : nfa.Star(nfa.Characters(CharacterSet::Writable()));
  };
  for (const PatternReader::Branch& branch : branches) {
    parts.push_back(nfa.Sequence({anything(branch.at_start), Build(branch.node, nfa), anything(branch.at_end)}));
  }
  return nfa.Alternatives(parts);
}

}  // namespace kvlink::grammar
