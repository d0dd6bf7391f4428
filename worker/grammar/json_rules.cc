// Values call the rules of strings, numbers and white space, so that a state inside of these is the same one wherever
// they stand, and what is known of it serves all.
#include "worker/grammar/json_rules.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::grammar {
namespace {

using Fragment = Nfa::Fragment;

Fragment Digits(Nfa& nfa, int min, int max) {
  return nfa.Repeat(min, max, [&] { return nfa.Range('0', '9'); });
}

Fragment AnyOf(Nfa& nfa, absl::string_view bytes) {
  const Fragment any = nfa.Nothing();
  for (const char c : bytes) nfa.AddEdge(any.start, static_cast<uint8_t>(c), static_cast<uint8_t>(c), any.end);
  return any;
}

Fragment Space(Nfa& nfa) {
  const Fragment indent = nfa.Repeat(0, kMaxIndent, [&] { return AnyOf(nfa, " \t"); });
  return nfa.Optional(nfa.Alternatives({nfa.Bytes(" "), nfa.Sequence({nfa.Bytes("\n"), indent})}));
}

Fragment HexDigits(Nfa& nfa, int count) {
  return nfa.Repeat(count, count, [&] { return AnyOf(nfa, "0123456789abcdefABCDEF"); });
}

Fragment String(Nfa& nfa) {
  const Fragment plain = nfa.Characters(CharacterSet::Writable());
  const Fragment letter = nfa.Sequence({nfa.Bytes("\\"), AnyOf(nfa, "\"\\/bfnrt")});
  const Fragment low_hex = nfa.Sequence({AnyOf(nfa, "0123456789abcefABCEF"), HexDigits(nfa, 3)});
  const Fragment below_surrogates = nfa.Sequence({AnyOf(nfa, "dD"), AnyOf(nfa, "01234567"), HexDigits(nfa, 2)});
  const Fragment high = nfa.Sequence({AnyOf(nfa, "dD"), AnyOf(nfa, "89abAB"), HexDigits(nfa, 2)});
  const Fragment low = nfa.Sequence({nfa.Bytes("\\u"), AnyOf(nfa, "dD"), AnyOf(nfa, "cdefCDEF"), HexDigits(nfa, 2)});
  const Fragment code =
      nfa.Sequence({nfa.Bytes("\\u"), nfa.Alternatives({low_hex, below_surrogates, nfa.Sequence({high, low})})});
  return nfa.Sequence({nfa.Bytes("\""), nfa.Star(nfa.Alternatives({plain, letter, code})), nfa.Bytes("\"")});
}

Fragment Integer(Nfa& nfa) {
  const Fragment rest = Digits(nfa, 0, kMaxIntegerDigits - 1);
  const Fragment some = nfa.Sequence({nfa.Range('1', '9'), rest});
  return nfa.Sequence({nfa.Optional(nfa.Bytes("-")), nfa.Alternatives({nfa.Bytes("0"), some})});
}

Fragment AnyFraction(Nfa& nfa, int digits) {
  return nfa.Optional(nfa.Sequence({nfa.Bytes("."), Digits(nfa, 1, digits)}));
}

Fragment Number(Nfa& nfa) {
  const Fragment exponent = nfa.Sequence({AnyOf(nfa, "eE"), nfa.Optional(AnyOf(nfa, "+-")), Digits(nfa, 1, 2)});
  return nfa.Sequence({Integer(nfa), AnyFraction(nfa, kMaxFractionDigits), nfa.Optional(exponent)});
}

Fragment Members(Nfa& nfa, const JsonRules& rules) {
  const auto space = [&] { return nfa.CallOf(rules.space); };
  const auto member = [&] {
    return nfa.Sequence({nfa.CallOf(rules.string), space(), nfa.Bytes(":"), space(), nfa.CallOf(rules.value), space()});
  };
  const Fragment others = nfa.Star(nfa.Sequence({nfa.Bytes(","), space(), member()}));
  return nfa.Sequence({nfa.Bytes("{"), space(), nfa.Optional(nfa.Sequence({member(), others})), nfa.Bytes("}")});
}

Fragment Elements(Nfa& nfa, const JsonRules& rules) {
  const auto space = [&] { return nfa.CallOf(rules.space); };
  const auto element = [&] { return nfa.Sequence({nfa.CallOf(rules.value), space()}); };
  const Fragment others = nfa.Star(nfa.Sequence({nfa.Bytes(","), space(), element()}));
  return nfa.Sequence({nfa.Bytes("["), space(), nfa.Optional(nfa.Sequence({element(), others})), nfa.Bytes("]")});
}

Fragment Value(Nfa& nfa, const JsonRules& rules) {
  return nfa.Alternatives({nfa.Bytes("null"), nfa.Bytes("true"), nfa.Bytes("false"), nfa.CallOf(rules.string),
                           nfa.CallOf(rules.number), Members(nfa, rules), Elements(nfa, rules)});
}

// Integers of one number of digits, from one text to another; leading zeros count as digits.
Fragment Between(Nfa& nfa, absl::string_view min, absl::string_view max) {
  const auto size = static_cast<int>(min.size());
  if (min.find_first_not_of('0') == min.npos && max.find_first_not_of('9') == max.npos) return Digits(nfa, size, size);
  const size_t rest = min.size() - 1;
  if (min[0] == max[0]) {
    return nfa.Sequence({nfa.Bytes(min.substr(0, 1)), Between(nfa, min.substr(1), max.substr(1))});
  }
  const std::string least(rest, '0'), greatest(rest, '9');
  std::vector<Fragment> parts = {nfa.Sequence({nfa.Bytes(min.substr(0, 1)), Between(nfa, min.substr(1), greatest)}),
                                 nfa.Sequence({nfa.Bytes(max.substr(0, 1)), Between(nfa, least, max.substr(1))})};
  if (max[0] - min[0] > 1) {
    const Fragment first = nfa.Range(static_cast<uint8_t>(min[0] + 1), static_cast<uint8_t>(max[0] - 1));
    parts.push_back(nfa.Sequence({first, Digits(nfa, static_cast<int>(rest), static_cast<int>(rest))}));
  }
  return nfa.Alternatives(parts);
}

constexpr int64_t kGreatest = 999'999'999'999'999'999;  // kMaxIntegerDigits

// From `min` to `max`, neither negative.
Fragment Natural(Nfa& nfa, int64_t min, int64_t max) {
  std::vector<Fragment> parts;
  int64_t least = 0;
  for (int64_t greatest = 9; least <= max; least = greatest + 1, greatest = greatest * 10 + 9) {
    if (greatest >= min) {
      parts.push_back(Between(nfa, std::to_string(std::max(min, least)), std::to_string(std::min(max, greatest))));
    }
    if (greatest == kGreatest) break;
  }
  return nfa.Alternatives(parts);
}

// A number that is not negative, from `min` to `max`, without its sign and with so many digits of a fraction at most.
// `above`, `below`: not these themselves.
Fragment Magnitude(Nfa& nfa, int64_t min, int64_t max, bool above, bool below, int digits) {
  const auto zeros = [&](int least, int most) { return nfa.Repeat(least, most, [&] { return nfa.Bytes("0"); }); };
  const auto some_fraction = [&] {
    return nfa.Sequence(
        {nfa.Bytes("."), zeros(0, digits / 2), nfa.Range('1', '9'), Digits(nfa, 0, digits - digits / 2 - 1)});
  };
  std::vector<Fragment> parts;
  if (min < max) {
    const std::string least = std::to_string(min);
    parts.push_back(nfa.Sequence({nfa.Bytes(least), above ? some_fraction() : AnyFraction(nfa, digits)}));
    if (max - min > 1) parts.push_back(nfa.Sequence({Natural(nfa, min + 1, max - 1), AnyFraction(nfa, digits)}));
  }
  if (min <= max && !below && !(min == max && above)) {
    const Fragment no_fraction = nfa.Optional(nfa.Sequence({nfa.Bytes("."), zeros(1, digits)}));
    parts.push_back(nfa.Sequence({nfa.Bytes(std::to_string(max)), no_fraction}));
  }
  return nfa.Alternatives(parts);
}

}  // namespace

std::string JsonString(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Nfa::Fragment BoundedInteger(Nfa& nfa, const NumberBounds& bounds) {
  const int64_t min = bounds.min ? *bounds.min + (bounds.above_min ? 1 : 0) : -kGreatest;
  const int64_t max = bounds.max ? *bounds.max - (bounds.below_max ? 1 : 0) : kGreatest;
  std::vector<Fragment> parts;
  if (max >= 0 && min <= max) parts.push_back(Natural(nfa, std::max<int64_t>(min, 0), max));
  if (min < 0 && min <= max) {
    parts.push_back(nfa.Sequence({nfa.Bytes("-"), Natural(nfa, std::max<int64_t>(-max, 1), -min)}));
  }
  return nfa.Alternatives(parts);
}

Nfa::Fragment BoundedNumber(Nfa& nfa, const NumberBounds& bounds) {
  constexpr int kExactDigits = 15;  // of any decimal number as a double
  const int64_t min = bounds.min.value_or(-kGreatest), max = bounds.max.value_or(kGreatest);
  const int64_t greatest = std::max(std::abs(bounds.min.value_or(0)), std::abs(bounds.max.value_or(0)));
  const int digits = kExactDigits - static_cast<int>(std::to_string(greatest).size());
  std::vector<Fragment> parts;
  if (max >= 0) {
    const bool above = bounds.above_min && min >= 0;
    parts.push_back(Magnitude(nfa, std::max<int64_t>(min, 0), max, above, bounds.below_max, digits));
  }
  if (min < 0) {
    // Zero has no sign: it is written above, or must not be.
    const bool above = max >= 0 || bounds.below_max;
    const Fragment magnitude = Magnitude(nfa, std::max<int64_t>(-max, 0), -min, above, bounds.above_min, digits);
    parts.push_back(nfa.Sequence({nfa.Bytes("-"), magnitude}));
  }
  return nfa.Alternatives(parts);
}

absl::StatusOr<JsonRules> DefineJsonRules(GrammarBuilder& builder) {
  JsonRules rules;
  for (RuleId* const rule :
       {&rules.space, &rules.string, &rules.integer, &rules.number, &rules.object, &rules.array, &rules.value}) {
    *rule = builder.NewRule();
  }
  const auto define = [&](RuleId rule, auto write) {
    Nfa nfa;
    const Fragment body = write(nfa);
    return builder.Define(rule, nfa, body);
  };
  KVLINK_RETURN_IF_ERROR(define(rules.space, Space));
  KVLINK_RETURN_IF_ERROR(define(rules.string, String));
  KVLINK_RETURN_IF_ERROR(define(rules.integer, Integer));
  KVLINK_RETURN_IF_ERROR(define(rules.number, Number));
  KVLINK_RETURN_IF_ERROR(define(rules.object, [&](Nfa& nfa) { return Members(nfa, rules); }));
  KVLINK_RETURN_IF_ERROR(define(rules.array, [&](Nfa& nfa) { return Elements(nfa, rules); }));
  KVLINK_RETURN_IF_ERROR(define(rules.value, [&](Nfa& nfa) { return Value(nfa, rules); }));
  return rules;
}

absl::StatusOr<Grammar> FinishJson(GrammarBuilder& builder, RuleId value) {
  const RuleId start = builder.NewRule();
  Nfa nfa;
  const Fragment text = nfa.Sequence({nfa.Optional(nfa.Bytes(" ")), nfa.CallOf(value)});
  KVLINK_RETURN_IF_ERROR(builder.Define(start, nfa, text));
  return builder.Finish(start);
}

absl::StatusOr<Grammar> JsonObjectGrammar(const ByteSet& bytes) {
  GrammarBuilder builder(bytes);
  KVLINK_ASSIGN_OR_RETURN(const JsonRules rules, DefineJsonRules(builder));
  return FinishJson(builder, rules.object);
}

}  // namespace kvlink::grammar
